"""How regression's runs are judged and shown. Reports import this, and not the schema, which takes pydantic."""

from __future__ import annotations

from peftbench.results.task_results import TaskResults

RESULTS = TaskResults(
    metric="r2",
    columns={"R² %": "r2", "MAE": "mae", "Spearman %": "spearman"},
    setting={"loss": "mse", "huber_delta": 1.0},
    errors=("mae",),
    outputs="numbers",
)
