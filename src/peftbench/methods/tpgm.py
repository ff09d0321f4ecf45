"""TPGM (Tian et al., CVPR 2023, arXiv 2303.10720): projection with radii learned in a second loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from peftbench import optim
from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import AboveZero, Positive
from peftbench.methods.full import Full


@dataclass(frozen=True)
class TPGM(Full):
    """Every weight trains; after each step the radii take `iterations` steps on validation images (`data.stage=final`
    has none: then on training images), and each tensor is projected.

    Our reading: one batch of validation images in each iteration, and training images where there are none.
    Source: Tian et al., CVPR 2023, arXiv 2303.10720.
    Equation: W ← W0 + min(1, γ / |W - W0|) · (W - W0), γ from a second loop that lowers the loss on other images.
    Cost: full fine-tuning, the starting weights once more, and a further forward and backward pass for each iteration.
    Avoid when: time is short: FTP learns its radii without a second pass.
    """

    own_optimizer: ClassVar[bool] = True
    anchored: ClassVar[bool] = True

    iterations: Positive = 1
    gamma_lr: AboveZero = 0.01
    norm: Literal["mars", "l2"] = "mars"
    exclude: tuple[str, ...] = ("task.*",)

    def check(self, backbone: Backbone) -> None:
        if self.iterations < 1:
            raise UserError(f"method.iterations={self.iterations}: expected at least 1.")
        if self.gamma_lr <= 0:
            raise UserError(f"method.gamma_lr={self.gamma_lr}: expected a number above 0.")

    def optimizer(
        self, named: Sequence[tuple[str, nn.Parameter]], anchors: Mapping[str, Tensor], inner: Optimizer
    ) -> Optimizer:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise Refusal("method=tpgm: its second loop runs on one device; use trainer.devices=1, or method=ftp.")
        exclude = optim.matching(self.exclude, [n for n, _ in named], "method.exclude")
        return optim.TPGM(
            inner,
            anchors={n: anchors[n] for n, _ in named},
            exclude=exclude,
            iterations=self.iterations,
            gamma_lr=self.gamma_lr,
            norm=self.norm,
        )
