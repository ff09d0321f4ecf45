"""L2-SP (Li et al., ICML 2018, arXiv 1802.01483): full fine-tuning with a penalty on the distance to the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from peftbench import optim
from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import Amount
from peftbench.methods.full import Full


@dataclass(frozen=True)
class L2SP(Full):
    """Every weight trains; strength / 2 · |W - W0|² is added to the loss, but for what `exclude` matches (the head).

    W0 is where the run starts; of one that begins with what another learned (`start`) `anchor=pretrained` takes the
    backbone as it was before.

    Source: Li et al., ICML 2018, arXiv 1802.01483.
    Equation: L + strength / 2 · |W - W0|².
    Cost: full fine-tuning, and the starting weights once more.
    Avoid when: strength cannot be tuned: it decides between the probe and plain fine-tuning.
    """

    own_optimizer: ClassVar[bool] = True
    anchored: ClassVar[bool] = True

    @property
    def anchored_at(self) -> Literal["start", "pretrained"]:  # type: ignore[override]
        return self.anchor

    strength: Amount = 0.01
    exclude: tuple[str, ...] = ("task.*",)
    anchor: Literal["start", "pretrained"] = "start"

    def check(self, backbone: Backbone) -> None:
        if self.strength < 0:
            raise UserError(f"method.strength={self.strength}: expected 0 or more.")

    def optimizer(
        self, named: Sequence[tuple[str, nn.Parameter]], anchors: Mapping[str, Tensor], inner: Optimizer
    ) -> Optimizer:
        exclude = optim.matching(self.exclude, [n for n, _ in named], "method.exclude")
        return optim.L2SP(inner, anchors={n: anchors[n] for n, _ in named}, exclude=exclude, strength=self.strength)
