"""L2-SP (Li et al., ICML 2018, arXiv 1802.01483): a quadratic penalty towards the starting point."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from peftbench.common.errors import UserError
from peftbench.optim.wrapper import Anchored


class L2SP(Anchored):
    """Adds the gradient of strength / 2 · |W - W0|² to each tensor's gradient before the inner optimizer's step.

    The paper's second term, a plain penalty on the new head, is the inner optimizer's weight decay.

    Args:
        inner, anchors, exclude: see `Anchored`.
        strength: alpha of the paper.

    Raises:
        UserError: see `Anchored`; a negative strength.
    """

    def __init__(
        self,
        inner: Optimizer,
        *,
        anchors: Mapping[str, Tensor] | None = None,
        exclude: Collection[str] = (),
        strength: float = 0.01,
    ) -> None:
        if not 0 <= strength < float("inf"):
            raise UserError(f"L2SP strength={strength}: expected 0 or more.")
        super().__init__(inner, anchors=anchors, exclude=exclude)
        self.strength = strength

    def _step(self) -> None:
        active = [(w.grad, w, a) for w, a in zip(self.tensors, self.anchors, strict=True) if w.grad is not None]
        if active:
            gradients, weights, anchors = map(list, zip(*active, strict=True))
            torch._foreach_add_(gradients, weights, alpha=self.strength)  # a few launches on a GPU, not two a tensor
            torch._foreach_sub_(gradients, anchors, alpha=self.strength)
        self.inner.step()
