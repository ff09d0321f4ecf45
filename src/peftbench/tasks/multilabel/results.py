"""How multi-label runs are judged and shown. Reports import this, and not the schema, which takes pydantic."""

from __future__ import annotations

from peftbench.results.task_results import TaskResults

RESULTS = TaskResults(
    metric="mAP",
    columns={"mAP %": "mAP", "F1 %": "f1"},
    setting={"label_smoothing": 0.0},
    outputs="labels",
    hub="image-classification",
)
