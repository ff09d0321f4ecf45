"""The learned radii of projections: one number a tensor, and Adam on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TINY = 1e-8
"""Added to every norm; the smallest radius; Adam's epsilon."""
BETA1, BETA2 = 0.9, 0.999


class Radii:
    """gamma of each of some tensors, learned by Adam, which counts the steps of each tensor apart.

    All are kept in vectors of one entry a tensor, so that they are updated together.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device if tensors else torch.device("cpu")
        dtype = torch.float32 if device.type == "mps" else torch.float64  # a few numbers: precision costs nothing
        self.gamma = torch.full((len(tensors),), TINY, device=device, dtype=dtype)
        self._mean, self._square, self._count = (torch.zeros_like(self.gamma) for _ in range(3))

    def state(self, i: int) -> dict[str, Tensor]:
        """What is kept of tensor i, as scalars that share their memory with it."""
        return {
            "gamma": self.gamma[i],
            "gamma_mean": self._mean[i],
            "gamma_square": self._square[i],
            "step": self._count[i],
        }

    def learned(self, active: list[int], slopes: Sequence[Tensor] | Tensor, lr: float) -> Tensor:
        """The radii of the active tensors one Adam step down their slopes, not below 1e-8; moments and counts are kept.

        Args:
            active: indices of the tensors that have a gradient.
            slopes: the derivative along each one's radius, a scalar each, or all in one vector.
            lr: Adam's learning rate, in units of the norm.
        """
        gamma = self._take(self.gamma, active)
        if not active:
            return gamma
        slope = in_one(slopes).to(self.gamma)
        count = self._take(self._count, active) + 1
        mean = BETA1 * self._take(self._mean, active) + (1 - BETA1) * slope
        square = BETA2 * self._take(self._square, active) + (1 - BETA2) * slope.square()
        step = mean / (1 - BETA1**count) / ((square / (1 - BETA2**count)).sqrt() + TINY)
        for kept, new in ((self._mean, mean), (self._square, square), (self._count, count)):
            self._put(kept, active, new)
        return (gamma - lr * step).clamp_(min=TINY)

    def keep(self, active: list[int], gamma: Tensor, largest: Sequence[Tensor] | Tensor) -> None:
        """Keeps `gamma` of the active tensors, cut to the largest norm of each."""
        if active:
            self._put(self.gamma, active, torch.minimum(gamma, in_one(largest).to(gamma)))

    def begin(self, active: list[int], gamma: Tensor) -> None:
        """Sets those of the active tensors that have taken no step to `gamma`; all of them are then at least 1e-8."""
        fresh = self._take(self._count, active) == 0
        kept = self._take(self.gamma, active)
        self._put(self.gamma, active, torch.where(fresh, gamma.to(kept), kept).clamp(min=TINY))

    def of(self, active: list[int]) -> Tensor:
        """The radii of the active tensors."""
        return self._take(self.gamma, active)

    def _take(self, values: Tensor, active: list[int]) -> Tensor:
        return values if len(active) == len(self.gamma) else values[active]

    def _put(self, values: Tensor, active: list[int], new: Tensor) -> None:
        if len(active) == len(self.gamma):
            values.copy_(new)
        else:
            values[active] = new


def in_one(scalars: Sequence[Tensor] | Tensor) -> Tensor:
    """Scalars in one vector: where they are of one kind, in one call."""
    if isinstance(scalars, Tensor):
        return scalars
    if of_one_kind(scalars):
        return torch.stack(list(scalars))
    exact = torch.float32 if scalars[0].device.type == "mps" else torch.float64
    return torch.stack([s.to(scalars[0].device, exact) for s in scalars])


def each_like(values: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The scalars of a vector, each of the type and on the device of its tensor."""
    if of_one_kind(like):
        return list(values.to(like[0]).unbind())
    return [value.to(tensor) for value, tensor in zip(values.unbind(), like, strict=True)]


def of_one_kind(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are of one type and on one device."""
    return len({(t.dtype, t.device) for t in tensors}) == 1


def norms(difference: Tensor, norm: str, scratch: Tensor | None = None) -> Tensor:
    """The norms of a difference, shaped so that they divide it, each plus 1e-8.

    "mars": sum |c_i| over all dimensions but the first; one for a vector. "l2": one for the whole tensor. `scratch`
    is memory that may be written to, of at least as many elements.
    """
    if norm == "l2":
        return torch.linalg.vector_norm(difference).reshape([1] * difference.ndim) + TINY
    dims = tuple(range(1, difference.ndim)) or None
    room = None if scratch is None else scratch[: difference.numel()].view(difference.shape)
    return torch.abs(difference, out=room).sum(dims, keepdim=True).add_(TINY)  # on a CPU faster than vector_norm
