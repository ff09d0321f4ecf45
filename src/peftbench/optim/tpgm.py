"""TPGM, trainable projected gradient method (Tian et al., CVPR 2023, arXiv 2303.10720), the predecessor of FTP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from peftbench.common.errors import UserError
from peftbench.optim.radii import TINY, Radii, norms
from peftbench.optim.wrapper import Anchored


class TPGM(Anchored):
    """Projects each tensor into a ball around its anchor, whose radius is learned on held-out batches in a second loop.

    After the inner optimizer's step, `iterations` times: the tensors are set to their projections
    W0 + min(1, gamma / n_i) c_i, the objective is differentiated there, and gamma takes an Adam step along its
    derivative, the sum of <g_i, c_i / n_i> over the rows that are being cut. Then the projection is applied. gamma
    starts at half the smallest norm and is cut to [1e-8, max n].

    Args:
        inner, anchors, exclude: see `Anchored`.
        objective: the loss of the next held-out batch, in eval mode; may be given later, as the attribute.
        scaled: multiplies a loss as fp16 needs, so that small gradients do not become zero; they are divided again.
            What overflows then counts as no slope. May be given later, as the attribute.
        iterations: steps of gamma for every step of the weights.
        gamma_lr: Adam's learning rate of gamma.
        norm: "mars" (a norm a row) or "l2" (one a tensor).

    Raises:
        UserError: see `Anchored`; a step without an objective.
    """

    needs_held_out_loss: ClassVar[bool] = True

    def __init__(
        self,
        inner: Optimizer,
        *,
        objective: Callable[[], Tensor] | None = None,
        scaled: Callable[[Tensor], Tensor] | None = None,
        anchors: Mapping[str, Tensor] | None = None,
        exclude: Collection[str] = (),
        iterations: int = 1,
        gamma_lr: float = 1e-2,
        norm: Literal["mars", "l2"] = "mars",
    ) -> None:
        super().__init__(inner, anchors=anchors, exclude=exclude)
        self.objective, self.scaled = objective, scaled
        self.iterations, self.gamma_lr, self.norm = iterations, gamma_lr, norm
        self.radii = Radii(self.tensors)

    def own_state(self) -> list[dict[str, Tensor]]:
        """gamma, its moments and the steps it took, of each tensor."""
        return [self.radii.state(i) for i in range(len(self.tensors))]

    def _step(self) -> None:
        if self.objective is None:
            raise UserError("TPGM: there is no objective; give the loss of a held-out batch.")
        active = [i for i, p in enumerate(self.tensors) if p.grad is not None]
        self.inner.step()
        steps = [self.tensors[i] - self.anchors[i] for i in active]
        sizes = [norms(c, self.norm) for c in steps]
        new = [self.radii.state(i)["step"] == 0 for i in active]
        halves = [n.min() / 2 for n in sizes]
        for i, fresh, half in zip(active, new, halves, strict=True):
            self.radii.gamma[i] = torch.where(fresh, half.to(self.radii.gamma), self.radii.gamma[i]).clamp(min=TINY)
        directions = [c.div_(n) for c, n in zip(steps, sizes, strict=True)]
        for _ in range(self.iterations):
            self._apply(active, directions, sizes)
            with torch.enable_grad():
                loss = self.objective() if self.scaled is None else self.scaled(self.objective())
                gradients = torch.autograd.grad(
                    loss, [self.tensors[i] for i in active], allow_unused=True, materialize_grads=True
                )
            slopes = [
                (g * d * (self.radii.gamma[i].to(n) < n)).sum()
                for i, g, d, n in zip(active, gradients, directions, sizes, strict=True)
            ]
            if self.scaled is not None:
                scale = self.scaled(torch.ones_like(loss))
                slopes = [torch.nan_to_num(s / scale, nan=0.0, posinf=0.0, neginf=0.0) for s in slopes]
            gamma = self.radii.learned(active, slopes, self.gamma_lr)
            self.radii.keep(active, gamma, [n.max() for n in sizes])
        self._apply(active, directions, sizes)

    def _apply(self, active: list[int], directions: list[Tensor], sizes: list[Tensor]) -> None:
        for i, direction, n in zip(active, directions, sizes, strict=True):
            radius = torch.minimum(n, self.radii.gamma[i].to(n))
            self.tensors[i].copy_(torch.addcmul(self.anchors[i], direction, radius))
