"""FTP (Tian et al., NeurIPS 2023, arXiv 2310.19182): full fine-tuning under a fast trainable projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from peftbench import optim
from peftbench.backbones import Backbone
from peftbench.config.bounds import AboveZero, FromZeroToOne
from peftbench.methods.full import Full
from peftbench.optim.ftp import refuse_bad_options


@dataclass(frozen=True)
class FTP(Full):
    """Every weight trains; after each step each tensor is projected into a ball around its start.

    `optimizer=ftp` does the same to what any other method trains. `exclude` are patterns over parameter names. W0 is
    where the run starts; of one that begins with what another learned (`start`) `anchor=pretrained` takes the backbone
    as it was before, and γ begins at the distance of each tensor from there.

    Our reading: that γ begins so under `anchor=pretrained`, since at 0 the first step would take all back that was
    learned; and that a tensor's steps are counted from its own first gradient.

    Source: Tian et al., NeurIPS 2023, arXiv 2310.19182.
    Equation: W ← W0 + min(1, γ / |W - W0|) · (W - W0), γ learned by an Adam step along its own gradient.
    Cost: full fine-tuning, and the starting weights once more; the projection is of the optimizer alone.
    Avoid when: the task is far from the pretraining, so that weights have to move far.
    """

    own_optimizer: ClassVar[bool] = True
    anchored: ClassVar[bool] = True

    @property
    def anchored_at(self) -> Literal["start", "pretrained"]:  # type: ignore[override]
        return self.anchor

    kappa: FromZeroToOne = 1.0
    gamma_lr: AboveZero = 0.01
    norm: Literal["mars", "l2"] = "mars"
    exclude: tuple[str, ...] = ("task.*",)
    anchor: Literal["start", "pretrained"] = "start"

    def check(self, backbone: Backbone) -> None:
        refuse_bad_options(self.kappa, self.gamma_lr, self.norm, "method.")

    def optimizer(
        self, named: Sequence[tuple[str, nn.Parameter]], anchors: Mapping[str, Tensor], inner: Optimizer
    ) -> Optimizer:
        exclude = optim.matching(self.exclude, [n for n, _ in named], "method.exclude")
        return optim.FTP(
            inner,
            anchors={n: anchors[n] for n, _ in named},
            exclude=exclude,
            kappa=self.kappa,
            gamma_lr=self.gamma_lr,
            norm=self.norm,
            from_here=self.anchor == "pretrained",
        )
