"""TPGM, trainable projected gradient method (Tian et al., CVPR 2023, arXiv 2303.10720), the predecessor of FTP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from peftbench.common.errors import UserError
from peftbench.optim.radii import Radii, each_like, in_one, norms
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
        if not active:
            return
        tensors, anchors = ([kept[i] for i in active] for kept in (self.tensors, self.anchors))
        steps = list(torch._foreach_sub(tensors, anchors))
        sizes = [norms(c, self.norm) for c in steps]
        self.radii.begin(active, in_one([n.min() for n in sizes]) / 2)
        largest = in_one([n.max() for n in sizes])
        directions = [c.div_(n) for c, n in zip(steps, sizes, strict=True)]
        for _ in range(self.iterations):
            radii = self._apply(active, directions, sizes)
            with torch.enable_grad():
                loss = self.objective() if self.scaled is None else self.scaled(self.objective())
                gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
            slopes = [
                (g * d * (radius < n)).sum()
                for g, d, n, radius in zip(gradients, directions, sizes, radii, strict=True)
            ]
            if self.scaled is not None:
                scale = self.scaled(torch.ones_like(loss))
                slopes = [torch.nan_to_num(s / scale, nan=0.0, posinf=0.0, neginf=0.0) for s in slopes]
            gamma = self.radii.learned(active, slopes, self.gamma_lr)
            self.radii.keep(active, gamma, largest)
        self._apply(active, directions, sizes)

    def _apply(self, active: list[int], directions: list[Tensor], sizes: list[Tensor]) -> list[Tensor]:
        """Sets the active tensors to their projections; returns their radii."""
        radii = each_like(self.radii.of(active), sizes)
        for i, direction, n, radius in zip(active, directions, sizes, radii, strict=True):
            torch.addcmul(self.anchors[i], direction, torch.minimum(n, radius), out=self.tensors[i].detach())
        return radii
