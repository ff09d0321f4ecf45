"""How detection's runs are judged and shown. Reports import this, and not the schema, which takes pydantic."""

from __future__ import annotations

from peftbench.results.task_results import TaskResults

RESULTS = TaskResults(
    metric="AP",
    columns={"AP %": "AP", "AP50 %": "AP50", "segm_AP %": "segm_AP", "segm_AP50 %": "segm_AP50"},
    beside=("AP50", "segm_AP", "segm_AP50"),
    later={"masks": False},
    apart={"masks": False},
    hub="object-detection",
)
