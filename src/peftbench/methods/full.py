"""Full fine-tuning: every weight trains, batch-norm statistics move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones import Backbone
from peftbench.methods.base import Method, Plan, unfreeze


@dataclass(frozen=True)
class Full(Method):
    """Every parameter of the backbone trains."""

    identity_start: ClassVar[bool] = True

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        unfreeze(backbone)
