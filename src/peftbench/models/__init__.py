"""Backbone, side net and task as one torch module; several of them over one backbone."""

from peftbench.models.joint import JointModel
from peftbench.models.model import Model

__all__ = ["JointModel", "Model"]
