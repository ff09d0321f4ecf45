"""FTP, fast trainable projection (Tian et al., NeurIPS 2023, arXiv 2310.19182)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from peftbench.common.errors import UserError
from peftbench.optim.projection import Rows, project_together
from peftbench.optim.radii import Radii, each_like, in_one, norms, of_one_kind
from peftbench.optim.wrapper import Anchored

CHUNK = 1 << 19
"""Elements that are projected at once on a CPU: they fit its last cache, and threads are woken up seldom."""


class FTP(Anchored):
    """Projects each tensor, after the inner optimizer's step, into a ball around its anchor whose radius is learned.

    With W the tensor, W0 its anchor, g its gradient and c = W - W0 after the inner step, in every step:

    - n_i = sum |c_i| + 1e-8 over all dimensions but the first ("mars"; a vector has one norm), or one L2 norm of the
      whole tensor ("l2", the variant of TPGM);
    - gamma, one for each tensor, starts at 1e-8 (with `from_here`, of a tensor that is not at its anchor when this
      optimizer is built, at the largest n, so that nothing is taken back; our reading) and takes an Adam step along
      d = sum_i <g_i, c_i / n_i>, of the current g and the *previous* c and n, times `kappa` where d > 0; then it is cut
      to [1e-8, max n];
    - W = W0 + min(1, gamma / n_i) c_i.

    The first step of a tensor is therefore undone to 1e-8. Steps are counted for each tensor apart, as a gradient may
    come late or stay away (our reading; the official code counts them together, and fails there).

    Memory: an anchor and one direction (c_i / n_i) of each tensor's size, a few numbers a tensor beside them.

    Args:
        inner: any torch optimizer over the tensors; `gamma` reads gradients before it steps, as it may overwrite them.
        anchors: name -> tensor; None takes the values at construction.
        exclude: names that the inner optimizer has to itself.
        kappa: in [0, 1], the strength with which gamma shrinks; at 0 no gradient shrinks it.
        gamma_lr: Adam's learning rate of gamma, in units of the norm.
        norm: "mars" or "l2".
        from_here: whether tensors may stay as far from their anchors as they are now; else the first step takes each
            back to its anchor, as in the paper, where it is there already.

    Raises:
        UserError: a number outside its range, names that the inner optimizer has not (see `Anchored`).
    """

    def __init__(
        self,
        inner: Optimizer,
        *,
        anchors: Mapping[str, Tensor] | None = None,
        exclude: Collection[str] = (),
        kappa: float = 1.0,
        gamma_lr: float = 1e-2,
        norm: Literal["mars", "l2"] = "mars",
        from_here: bool = False,
    ) -> None:
        refuse_bad_options(kappa, gamma_lr, norm)
        super().__init__(inner, anchors=anchors, exclude=exclude)
        self.kappa, self.gamma_lr, self.norm = kappa, gamma_lr, norm
        self.directions = [torch.zeros_like(p) for p in self.tensors]
        self.radii = Radii(self.tensors)
        if from_here:
            for i, (w, anchor) in enumerate(zip(self.tensors, self.anchors, strict=True)):
                if not torch.equal(w, anchor):
                    self.radii.gamma[i] = norms(w.detach() - anchor, norm).max()
        self._scratch: Tensor | None = None
        self._rows: dict[tuple[int, ...], Rows] = {}

    def own_state(self) -> list[dict[str, Tensor]]:
        """gamma, its moments, the steps taken, and the last direction c / n, of each tensor."""
        return [self.radii.state(i) | {"direction": d} for i, d in enumerate(self.directions)]

    def _step(self) -> None:
        active = [i for i, p in enumerate(self.tensors) if p.grad is not None]
        if not active:
            self.inner.step()
            return
        # Before a tensor's first step its direction is 0, and so is the slope: gamma stays at 1e-8.
        slopes = in_one([_dot(self.tensors[i].grad, self.directions[i]) for i in active])
        gamma = self.radii.learned(active, torch.where(slopes > 0, self.kappa * slopes, slopes), self.gamma_lr)
        self.inner.step()
        # The projection needs no upper cut of gamma: beyond the largest norm it changes nothing.
        self.radii.keep(active, gamma, self._projected(active, gamma))

    def _projected(self, active: list[int], gamma: Tensor) -> list[Tensor] | Tensor:
        """Projects the active tensors in place, notes their directions, and returns the largest norm of each."""
        tensors, anchors, directions = (
            [kept[i] for i in active] for kept in (self.tensors, self.anchors, self.directions)
        )
        if tensors[0].device.type != "cpu" and of_one_kind(tensors):
            return project_together([t.detach() for t in tensors], anchors, directions, gamma, self._rows_of(active))
        parts = zip(active, each_like(gamma, tensors), strict=True)
        return [self._project(i, radius) for i, radius in parts]

    def _rows_of(self, active: list[int]) -> Rows:
        key = tuple(active)
        if key not in self._rows:  # made once: it is copied to the device, which waits
            self._rows[key] = Rows.of([self.tensors[i] for i in active], self.norm)
        return self._rows[key]

    def _project(self, i: int, gamma: Tensor) -> Tensor:
        """Projects tensor i in place, notes its direction, and returns its largest norm."""
        w, anchor, direction = self.tensors[i].detach(), self.anchors[i], self.directions[i]
        if self.norm == "l2" or w.ndim < 2 or w.device.type != "cpu" or w.numel() <= CHUNK:
            return project(w, anchor, direction, gamma, self.norm)
        # Rows are projected one by one anyway: a few of them at once stay in the CPU's cache.
        rows = max(1, CHUNK * w.shape[0] // w.numel())
        if self._scratch is None or self._scratch.numel() < rows * w[0].numel() or self._scratch.dtype != w.dtype:
            self._scratch = w.new_empty(max(CHUNK, rows * w[0].numel()))
        parts = zip(w.split(rows), anchor.split(rows), direction.split(rows), strict=True)
        return torch.stack([project(*part, gamma, self.norm, self._scratch) for part in parts]).max()


def refuse_bad_options(kappa: float, gamma_lr: float, norm: str, prefix: str = "") -> None:
    """Asks whether FTP's options are in their ranges.

    Args:
        kappa: see `FTP`.
        gamma_lr: see `FTP`.
        norm: see `FTP`.
        prefix: the config section, as in `method.`, for the message.

    Raises:
        UserError: a number is outside its range, or there is no such norm.
    """
    if not 0 <= kappa <= 1:
        raise UserError(f"{prefix}kappa={kappa}: expected a number from 0 to 1.")
    if not 0 < gamma_lr < float("inf"):
        raise UserError(f"{prefix}gamma_lr={gamma_lr}: expected a number above 0.")
    if norm not in ("mars", "l2"):
        raise UserError(f"{prefix}norm={norm!r}: expected 'mars' or 'l2'.")


def project(
    w: Tensor, anchor: Tensor, direction: Tensor, gamma: Tensor, norm: str, scratch: Tensor | None = None
) -> Tensor:
    """Projects w in place: w = anchor + min(1, gamma / n) (w - anchor), n the norms of w - anchor.

    Args:
        w: of any shape.
        anchor: of w's shape.
        direction: of w's shape; becomes (w - anchor) / n.
        gamma: the radius, a scalar in the unit of the norm.
        norm: "mars" or "l2", see `norms`.
        scratch: see `norms`.

    Returns:
        The largest n, a scalar.
    """
    torch.sub(w, anchor, out=direction)
    n = norms(direction, norm, scratch)
    direction.mul_(n.reciprocal())
    torch.addcmul(anchor, direction, torch.minimum(n, gamma), out=w)
    return n.max()


def _dot(gradient: Tensor | None, direction: Tensor) -> Tensor:
    assert gradient is not None
    if gradient.is_sparse:
        raise UserError("FTP: a sparse gradient has no rows to project; build the embedding with sparse=False.")
    if gradient.stride() == direction.stride() and gradient.dtype == direction.dtype and _dense(direction):
        size = (direction.numel(),)
        return torch.dot(gradient.as_strided(size, (1,)), direction.as_strided(size, (1,)))
    return (gradient * direction).sum()


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
