"""Whether an adapted backbone starts as the untouched one, asked of every method that says so (`identity_start`)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.methods.base import Method
from peftbench.models.model import Model, apply_side_nets

ROUNDING = 1e-4
"""Of the largest value. The bits are equal in nearly every model. In a few, sums are rounded by how their memory lies,
which a copy of the same bits may change (CaiT: 3e-7)."""


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

    @torch.no_grad()
    def remember(self, method: Method, model: Model) -> None:
        """Computes what the untouched backbone gives, before the method may change it."""
        if method.identity_start:
            self._compute(model, model.reads if method.side else range(len(self.backbone.facts.taps)))
            self._pooled = self._pool(model, self._taps[max(self._taps)])

    @torch.no_grad()
    def refuse_other(self, method: Method, name: str, model: Model) -> None:
        """Raises Refusal where the method called `name` says that it starts as the backbone, and `model` does not."""
        if not method.identity_start:
            return
        mode = model.training
        model.eval()
        if model.side is None:
            self._refuse_changed(name, model)
        else:
            self._refuse_side(name, model)
        model.train(mode)

    def _refuse_changed(self, name: str, model: Model) -> None:
        """As `refuse_other`, of a backbone that was changed in place."""
        taps = self.backbone.taps(model.frames(self.images), sorted(self._taps))
        for i, tap in zip(sorted(self._taps), taps, strict=True):
            _refuse_moved(self._taps[i], tap, self.backbone.facts.taps[i].module, name)
        if (pooled := self._pool(model, taps[-1])) is not None and self._pooled is not None:
            _refuse_moved(self._pooled, pooled, "what it pools", name)

    def _refuse_side(self, name: str, model: Model) -> None:
        """As `refuse_other`, of a side net; it may leave out tokens that the pooling does not read."""
        self._compute(model, [*map(self.backbone.facts.index, model.kept), *model.reads])
        kept = [self._taps[self.backbone.facts.index(i)] for i in model.kept]
        taps = apply_side_nets([model], model.condense(kept))[0]
        before = self._pool(model, self._taps[model.reads[-1]])
        if before is not None and (after := self._pool(model, taps[-1])) is not None:
            _refuse_moved(before, after, "what it pools", name)
            return
        for i, tap in zip(model.reads, taps, strict=True):
            _refuse_moved(self._taps[i], tap, self.backbone.facts.taps[i].module, name)

    def _compute(self, model: Model, indices: Iterable[int]) -> None:
        """Keeps the taps of these indices that are not kept yet."""
        if wanted := sorted(set(indices) - set(self._taps)):
            self.backbone.eval()
            self._taps |= zip(wanted, self.backbone.taps(model.frames(self.images), wanted), strict=True)

    def _pool(self, model: Model, tap: Tensor) -> Tensor | None:
        """The pooled features, where the task reads them."""
        return self.backbone.pool(tap) if model.task.uses_tail else None


def _refuse_moved(before: Tensor, after: Tensor, where: str, method: str) -> None:
    """Raises Refusal where what was computed at `where` is more than rounding away from what it was."""
    if torch.equal(before, after) or not before.isfinite().all():  # a net that gives no numbers says nothing
        return
    distance = ((after - before).abs().max() / before.abs().max().clamp_min(1e-12)).item()
    if not distance <= ROUNDING:
        far = f"{distance:.2g} of its largest value away" if math.isfinite(distance) else "no longer numbers"
        raise Refusal(
            f"method={method}: the adapted backbone does not start as the untouched one, though the method says so: "
            f"{where} is {far} before any step; method=linear changes nothing in the backbone."
        )
