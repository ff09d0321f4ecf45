"""WiSE-FT (Wortsman et al., CVPR 2022, arXiv 2109.01903): full fine-tuning, then half the way back to the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import FromZeroToOne
from peftbench.methods.full import Full


@dataclass(frozen=True)
class WiseFT(Full):
    """After the last epoch every tensor becomes (1 - alpha) · start + alpha · tuned, batch-norm statistics too.

    Our reading: the head stays as it was tuned (`exclude`), since ours starts fresh, where the paper's comes from a
    zero-shot model and is interpolated; batch-norm statistics are interpolated.

    Source: Wortsman et al., CVPR 2022, arXiv 2109.01903.
    Equation: W = (1 - alpha) · W0 + alpha · W_tuned, once, after training.
    Cost: full fine-tuning, and the starting weights once more.
    Avoid when: tuned weights lie far from the start: their mean is then neither. The paper's gain is on
        shifted test sets.
    """

    finishes: ClassVar[bool] = True
    anchored: ClassVar[bool] = True

    alpha: FromZeroToOne = 0.5
    exclude: tuple[str, ...] = ("task.*",)

    def check(self, backbone: Backbone) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"method.alpha={self.alpha}: expected a number from 0 (the start) to 1 (the tuned one).")

    @torch.no_grad()
    def finish(self, model: nn.Module, anchors: Mapping[str, Tensor]) -> None:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in anchors and not any(fnmatchcase(name, p) for p in self.exclude):
                tensor.copy_(torch.lerp(anchors[name].to(tensor), tensor, self.alpha))
