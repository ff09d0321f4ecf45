"""Optimizers and learning-rate schedules."""

from peftbench.optim.build import optimizer, schedule

__all__ = ["optimizer", "schedule"]
