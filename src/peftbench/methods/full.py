"""Full fine-tuning: every weight trains, batch-norm statistics move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones import Backbone
from peftbench.methods.base import Method, Plan, unfreeze


@dataclass(frozen=True)
class Full(Method):
    """Every parameter of the backbone trains.

    Source: the usual baseline.
    Equation: W ← W - lr · ∂L/∂W for every weight W of the backbone.
    Place: everywhere.
    Cost: backward runs through the whole backbone, and the optimizer holds two moments of every weight; a finished run
        keeps a whole backbone. Prediction costs what the backbone does.
    Avoid when: images are few (a thousand, say) and the backbone is large, memory is short, or many tasks share a
        backbone. Give it a fair chance where you compare: `optimizer.head_lr`, `optimizer.layer_decay`, `method=lp_ft`.
    """

    identity_start: ClassVar[bool] = True

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        unfreeze(backbone)
