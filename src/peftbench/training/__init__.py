"""Training and evaluation with Lightning; nothing else knows it."""

from peftbench.training.checkpoint import FILE as CHECKPOINT
from peftbench.training.checkpoint import Aborted, Stopped
from peftbench.training.devices import device_of_process, refuse_missing_devices
from peftbench.training.loss_watch import Diverged
from peftbench.training.rendezvous import processes_together
from peftbench.training.solving import images_learned_from, solve
from peftbench.training.trainer import Outcome, fit, fit_jointly

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
    "processes_together",
    "refuse_missing_devices",
    "solve",
]
