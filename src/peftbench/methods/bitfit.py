"""BitFit (Ben Zaken et al., 2022, arXiv 2106.10199): only the biases of the backbone train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.methods.base import Method, Plan, freeze


@dataclass(frozen=True)
class BitFit(Method):
    """Every parameter called `bias` trains: of linear, convolution and norm layers. Batch-norm statistics stay."""

    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True

    def check(self, backbone: Backbone) -> None:
        if not _biases(backbone):
            raise Refusal(f"method=bitfit: {backbone.facts.name} has no biases; method=full or method=linear work.")

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        for name in _biases(backbone):
            backbone.get_parameter(name).requires_grad = True


def _biases(backbone: Backbone) -> list[str]:
    return [n for n, _ in backbone.named_parameters() if n.rsplit(".", 1)[-1] == "bias"]
