"""Training images that are mixed with others of their batch, and their targets with theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.common.seeds import random_numbers_kept
from peftbench.config import Data


@dataclass(frozen=True)
class Mixing:
    """Mixup and cutmix as torchvision does them: each image with the one before it in the batch, with one draw a batch.

    Where both are on, each batch has one of them, by an even chance (our reading; timm does so too).

    Attributes:
        mixup, cutmix: the parameter of the Beta distribution that shares are drawn from; 0 is off.
        classes: how many there are; 0 where targets are numbers.
    """

    mixup: float
    cutmix: float
    classes: int

    @staticmethod
    def of(data: Data, classes: int) -> Mixing | None:
        """What the config asks for; None where that is nothing."""
        return Mixing(data.mixup, data.cutmix, classes) if data.mixing else None

    def __call__(
        self, images: Tensor, before: Tensor, targets: Tensor, targets_before: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Images in uint8, (B, 3, H, W) or clips (B, T, 3, H, W), each mixed with the one before it; and their targets.

        Pixels are rounded. Labels (B,) become shares (B, classes) in float32; targets in floats stay in their form.

        Args:
            images, targets: any part of a batch.
            before, targets_before: for each of these the image before it in the whole batch.
            seed: of the whole batch, so that all its parts are mixed alike.
        """
        from torchvision.transforms import v2

        kinds = [kind for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)) if alpha]
        with random_numbers_kept():
            torch.manual_seed(seed)
            kind = kinds[int(torch.randint(len(kinds), ()))]
            drawn: dict[str, Any] = kind(alpha=self.mixup if kind is v2.MixUp else self.cutmix).make_params([images])
        if kind is v2.MixUp:
            share = drawn["lam"]
            mixed = images.float().mul_(share).add_(before.float(), alpha=1 - share).round_().to(torch.uint8)
        else:
            share, (x1, y1, x2, y2) = drawn["lam_adjusted"], drawn["box"]
            mixed = images.clone()
            mixed[..., y1:y2, x1:x2] = before[..., y1:y2, x1:x2]
        return mixed, share * self._shares(targets) + (1 - share) * self._shares(targets_before)

    def _shares(self, targets: Tensor) -> Tensor:
        return targets if targets.is_floating_point() else F.one_hot(targets, self.classes).float()
