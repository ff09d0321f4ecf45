"""Optimizers and learning-rate schedules."""

from peftbench.optim.build import optimizer, schedule, together

__all__ = ["optimizer", "schedule", "together"]
