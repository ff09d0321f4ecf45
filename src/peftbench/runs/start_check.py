"""Whether an adapted backbone starts as the untouched one, asked of every method that says so (`identity_start`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.methods.base import Method
from peftbench.models.model import Model, apply_side_nets

ROUNDING = 1e-6
"""Of the largest value: on the machines that we know the bits are equal; elsewhere a copy of a weight that lies
otherwise in memory may be multiplied in another order."""


class Start:
    """What a backbone computes of an image of noise, or of a clip, before any method changes it.

    Under a side method the backbone stays as it is: then each tap is computed once for all runs that share it.

    Args:
        backbone: before any method.
        frames: of a clip; None for images.
    """

    def __init__(self, backbone: Backbone, frames: int | None) -> None:
        self.backbone = backbone
        shape = (1, 3) if frames is None else (1, frames, 3)
        noise = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (*shape, *backbone.facts.canvas), dtype=torch.uint8, generator=noise)
        self._taps: dict[int, Tensor] = {}
        self._pooled: Tensor | None = None
        self._pooling = backbone.pooling

    def remember(self, method: Method, model: Model) -> None:
        """Computes what the untouched backbone gives, before the method may change it."""
        if method.identity_start:
            self._compute(model, model.reads if method.side else range(len(self.backbone.facts.taps)))
            self._pool(model)

    def refuse_other(self, method: Method, name: str, model: Model) -> None:
        """Raises Refusal where the method called `name` says that it starts as the backbone, and `model` does not."""
        if not method.identity_start:
            return
        mode = model.training
        model.eval()
        facts = self.backbone.facts
        with torch.no_grad():
            if model.side is None:
                indices = tuple(sorted(self._taps))
                taps = self.backbone.taps(model.frames(self.images), indices)
            else:
                self._compute(model, (*model.kept, *model.reads))
                taps = apply_side_nets([model], model.condense([self._taps[i] for i in model.kept]))[0]
                indices = model.reads
            for i, tap in zip(indices, taps, strict=True):
                _refuse_moved(self._taps[i], tap, f"{facts.taps[i].module} of {facts.name}", name)
            if model.task.uses_tail and self.backbone.pooling == self._pooling:
                self._pool(model)
                assert self._pooled is not None
                _refuse_moved(self._pooled, self.backbone.pool(taps[-1]), f"the pooling of {facts.name}", name)
        model.train(mode)

    @torch.no_grad()
    def _compute(self, model: Model, indices: Sequence[int]) -> None:
        """Keeps the taps of these indices that are not kept yet."""
        places = {i: self.backbone.facts.index(i) for i in indices}
        if wanted := sorted(set(places.values()) - set(self._taps)):
            self.backbone.eval()
            self._taps |= zip(wanted, self.backbone.taps(model.frames(self.images), wanted), strict=True)
        self._taps |= {i: self._taps[place] for i, place in places.items()}

    @torch.no_grad()
    def _pool(self, model: Model) -> None:
        if model.task.uses_tail and self._pooled is None:
            self._pooled = self.backbone.pool(self._taps[len(self.backbone.facts.taps) - 1])


def _refuse_moved(before: Tensor, after: Tensor, where: str, method: str) -> None:
    if torch.equal(before, after) or not before.isfinite().all():  # a net that gives no numbers says nothing
        return
    distance = ((after - before).abs().max() / before.abs().max().clamp_min(1e-12)).item()
    if not distance <= ROUNDING:
        far = f"{distance:.2g} of its largest value away" if math.isfinite(distance) else "no longer numbers"
        raise Refusal(
            f"method={method}: the adapted backbone does not start as the untouched one, though the method says so: "
            f"{where} is {far} before any step; method=linear changes nothing in the backbone."
        )
