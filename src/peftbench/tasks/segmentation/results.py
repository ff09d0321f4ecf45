"""How segmentation's runs are judged and shown. Reports import this, and not the schema, which takes pydantic."""

from __future__ import annotations

from peftbench.results.task_results import TaskResults

RESULTS = TaskResults(
    metric="mIoU",
    columns={"mIoU %": "mIoU", "pixel acc. %": "pixel_accuracy"},
    beside="pixel_accuracy",
    setting={"decoder": "linear", "maps": 1, "width": 256, "class_weights": None, "dice": 0.0},
    hub="image-segmentation",
)
