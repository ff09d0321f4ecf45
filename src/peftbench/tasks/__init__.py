"""Tasks: head, loss and metrics."""

from peftbench.tasks.classification import Classification

TASKS = {"classification": Classification}

__all__ = ["TASKS", "Classification"]
