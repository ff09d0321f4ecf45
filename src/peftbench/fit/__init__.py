"""Training and evaluation with Lightning; nothing else knows it."""

from peftbench.fit.checkpoint import FILE as CHECKPOINT
from peftbench.fit.checkpoint import Aborted, Stopped
from peftbench.fit.module import Diverged
from peftbench.fit.training import Outcome, device, fit, fit_together

__all__ = ["CHECKPOINT", "Aborted", "Diverged", "Outcome", "Stopped", "device", "fit", "fit_together"]
