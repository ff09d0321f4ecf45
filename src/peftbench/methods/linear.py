"""The linear probe: frozen features and a trained head, as the identity side net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from peftbench.backbones import Backbone
from peftbench.methods.base import Method, Plan, Side, freeze


class Last(Side):
    """The side net that adds nothing: it hands the deepest tap on."""

    halves = True

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return [taps[-1]]


@dataclass(frozen=True)
class Linear(Method):
    """Only the head trains.

    Source: the usual baseline.
    Equation: logits = W_head · pool(b_L) + bias, of the last tap b_L of a frozen backbone.
    Place: behind the backbone.
    Cost: taps are computed once and kept; nothing runs backward but the head. Prediction costs what the backbone does.
    Avoid when: features do not separate the classes, as on tasks unlike the pretraining. It is the figure that any
        other method has to beat.
    """

    side: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    def adapt(self, backbone: Backbone, plan: Plan) -> Side:
        freeze(backbone)
        return Last()
