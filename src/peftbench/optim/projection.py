"""Many tensors projected at once: on a GPU starting a small kernel takes longer than the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peftbench.optim.radii import TINY


@dataclass(frozen=True)
class Rows:
    """Which norm is of which tensor, where the norms of many stand in one vector.

    Attributes:
        norm: "mars" or "l2", see `radii.norms`.
        counts: how many norms each tensor has.
        place: int64 (sum of counts,), the place among the tensors of the one that a norm is of.
    """

    norm: str
    counts: tuple[int, ...]
    place: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor], norm: str) -> Rows:
        """Those of tensors on one device."""
        counts = tuple(1 if norm == "l2" or t.ndim < 2 else t.shape[0] for t in tensors)
        places = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return cls(norm, counts, places.to(tensors[0].device))


def project_together(
    tensors: Sequence[Tensor], anchors: Sequence[Tensor], directions: Sequence[Tensor], gamma: Tensor, rows: Rows
) -> Tensor:
    """As `ftp.project` does with each of them, but for the order in which a norm is summed, in three launches a tensor.

    Args:
        tensors: of one type and on one device; projected in place.
        anchors: of the same shapes.
        directions: of the same shapes; become (w - anchor) / n.
        gamma: (tensors,), the radius of each.
        rows: of these tensors.

    Returns:
        (tensors,): the largest n of each.
    """
    tensors, anchors, directions = list(tensors), list(anchors), list(directions)
    torch._foreach_copy_(directions, tensors)
    torch._foreach_sub_(directions, anchors)
    n = _norms(directions, rows.norm).add_(TINY)
    radii = torch.minimum(n, gamma.to(n.dtype)[rows.place])
    torch._foreach_mul_(directions, _shaped(n.reciprocal(), rows, tensors))
    for w, anchor, direction, radius in zip(tensors, anchors, directions, _shaped(radii, rows, tensors), strict=True):
        torch.addcmul(anchor, direction, radius, out=w)
    return n.new_zeros(len(tensors)).scatter_reduce_(0, rows.place, n, "amax")


def _norms(differences: list[Tensor], norm: str) -> Tensor:
    """The norms of all of them in one vector, one after the other."""
    if norm == "l2":
        return torch.stack(list(torch._foreach_norm(differences)))
    parts = [torch.linalg.vector_norm(c, 1, tuple(range(1, c.ndim)) if c.ndim > 1 else None) for c in differences]
    return torch.cat([part.reshape(-1) for part in parts])


def _shaped(values: Tensor, rows: Rows, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The values of each tensor's norms, so that they go with its rows."""
    parts = zip(values.split(list(rows.counts)), tensors, strict=True)
    return [part.reshape([-1, *[1] * (t.ndim - 1)] if t.ndim else []) for part, t in parts]
