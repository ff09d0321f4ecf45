"""How classification's runs are judged and shown. Reports import this, and not the schema, which takes pydantic."""

from __future__ import annotations

from peftbench.results.task_results import TaskResults

RESULTS = TaskResults(
    metric="accuracy",
    columns={"top-1 %": "accuracy"},
    setting={"label_smoothing": 0.0},
    later={"class_weights": None, "focal_gamma": 0.0},
    counted=("accuracy", "class_accuracy", "top5"),
    averaged=("class_accuracy",),
    hub="image-classification",
)
