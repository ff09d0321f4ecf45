"""SPD, selective projection decay (Tian et al., NeurIPS 2024, arXiv 2411.01713)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from peftbench.common.errors import UserError
from peftbench.optim.wrapper import Anchored


class SPD(Anchored):
    """Decays a tensor towards its anchor where the inner optimizer's step takes it further out against its gradient.

    With W the tensor, W0 its anchor, g its gradient and W~ what the inner optimizer makes of it, in every step:

    - where <g, W - W0> > 0, over the whole tensor, descent would lead back to W0: then
      r = (|W~ - W0| - |W - W0|) / |W~ - W0|, cut to [0, 1], in L2 norms, and W = W~ - strength r (W~ - W0);
    - elsewhere W = W~, to the bit.

    So at strength 1 a tensor in conflict stays within its radius, and the first step, at W = W0, is the inner
    optimizer's. The learning rate does not scale the decay. Where W~ = W0 nothing is left to decay: r is 0.

    Memory: an anchor of each tensor's size. Nothing else is kept, so that resuming needs the anchors alone.

    Args:
        inner, anchors, exclude: see `Anchored`. Our reading of LoRA: its anchors are its starts, as of any tensor; the
            authors take 0 for both factors (`anchors` of zeros does so).
        strength: of the decay; 0 is the inner optimizer.

    Raises:
        UserError: see `Anchored`; a negative strength.
    """

    def __init__(
        self,
        inner: Optimizer,
        *,
        anchors: Mapping[str, Tensor] | None = None,
        exclude: Collection[str] = (),
        strength: float = 1.0,
    ) -> None:
        if not 0 <= strength < float("inf"):
            raise UserError(f"SPD strength={strength}: expected 0 or more.")
        super().__init__(inner, anchors=anchors, exclude=exclude)
        self.strength = strength

    def _step(self) -> None:
        active = [(w, a) for w, a in zip(self.tensors, self.anchors, strict=True) if w.grad is not None]
        before = [_slope_and_radius(w, anchor) for w, anchor in active]  # the inner step may overwrite gradients
        self.inner.step()
        for (w, anchor), (slope, radius) in zip(active, before, strict=True):
            far = w - anchor
            norm = _dot(far, far).sqrt()
            share = ((norm - radius) / norm).nan_to_num(0.0).clamp(0, 1)
            w.sub_(far.mul_(torch.where(slope > 0, self.strength * share, 0.0)))


def _slope_and_radius(w: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """<g, w - anchor> and |w - anchor|, scalars."""
    assert w.grad is not None
    if w.grad.is_sparse:
        raise UserError("SPD: a sparse gradient has no direction of the whole tensor; build it with sparse=False.")
    far = w - anchor
    return _dot(w.grad, far), _dot(far, far).sqrt()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the products, a scalar; without a tensor for these where memory is in order."""
    if a.is_contiguous() and b.is_contiguous() and a.dtype == b.dtype:
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()
