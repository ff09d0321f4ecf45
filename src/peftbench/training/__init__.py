"""Training and evaluation with Lightning; nothing else knows it."""

from peftbench.training.checkpoint import FILE as CHECKPOINT
from peftbench.training.checkpoint import Aborted, Stopped
from peftbench.training.loss_watch import Diverged
from peftbench.training.solving import images_learned_from, solve
from peftbench.training.trainer import Outcome, device_of_process, fit, fit_jointly

__all__ = [
    "CHECKPOINT",
    "Aborted",
    "Diverged",
    "Outcome",
    "Stopped",
    "device_of_process",
    "fit",
    "fit_jointly",
    "images_learned_from",
    "solve",
]
