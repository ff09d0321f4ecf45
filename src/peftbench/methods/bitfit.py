"""BitFit (Ben Zaken et al., 2022, arXiv 2106.10199): only the biases of the backbone train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.methods.base import Method, Plan, freeze


@dataclass(frozen=True)
class BitFit(Method):
    """Every parameter called `bias` trains: of linear, convolution and norm layers. Batch-norm statistics stay.

    Source: Ben Zaken et al., 2022, arXiv 2106.10199, on language models. Batch-norm biases are our reading.
    Equation: y = W x + b with b trained, W frozen; norms alike.
    Place: every layer that has a bias.
    Cost: backward runs through the whole backbone, but no weight needs a gradient; nothing is added, so prediction
        costs what the backbone does.
    Avoid when: the backbone has few biases (a ResNet has those of its batch-norms alone), or the task is far from what
        the backbone was trained on: it can shift features, and not mix them anew.
    """

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
