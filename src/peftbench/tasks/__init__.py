"""Tasks: head, loss and metrics."""

from peftbench.tasks.base import Task
from peftbench.tasks.classification import Classification

TASKS = {"classification": Classification}

__all__ = ["TASKS", "Classification", "Task"]
