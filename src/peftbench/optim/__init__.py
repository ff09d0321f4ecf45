"""Optimizers and learning-rate schedules; optimizers that stay near a start."""

from peftbench.optim.build import Factors, joint_optimizer, layout, matching, optimizer, schedule, scheduled_rate
from peftbench.optim.ftp import FTP
from peftbench.optim.l2sp import L2SP
from peftbench.optim.spd import SPD
from peftbench.optim.timm_optimizers import refuse_timm_optimizer
from peftbench.optim.tpgm import TPGM
from peftbench.optim.wrapper import Anchored

__all__ = [
    "FTP",
    "L2SP",
    "SPD",
    "TPGM",
    "Anchored",
    "Factors",
    "joint_optimizer",
    "layout",
    "matching",
    "optimizer",
    "refuse_timm_optimizer",
    "schedule",
    "scheduled_rate",
]
