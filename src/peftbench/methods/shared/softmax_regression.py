"""Multinomial logistic regression with an L2 penalty by L-BFGS, in fp64, over features that need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from peftbench.methods.shared.solving import Features

IN_MEMORY = 2**28
"""Bytes of features in fp64 that stay in memory; more are read anew for each step."""
HISTORY = 10
"""Steps that L-BFGS remembers."""
CURVED = 4
"""For how many images as features have dimensions the curvature is summed exactly."""
FEW, MANY = 6, 15
"""Steps of a fit: up to so many the curvature need not be worked out anew, and from so many on it is class by class."""
ROOM = 2**27
"""Bytes of a matrix of curvature for each class; where it would be more, all classes have one."""
_NOISE = 64 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Fitted:
    """A solution: `place` (outputs, d + 1), weights of centred features and the bias, and the steps that it took.

    `converged`: whether the largest entry of the gradient of the mean loss is within the tolerance, or the loss no
    longer falls by more than rounding.
    """

    place: Tensor
    steps: int
    converged: bool


class _At(NamedTuple):
    """The objective at a place: its value and its gradient (outputs, d + 1)."""

    value: float
    slope: Tensor


class SoftmaxRegression:
    """Fits heads for one set of features and any C: C sum_i CE_i + |W|^2 / 2, with a free bias.

    What is minimised is the same divided by C N, as scikit-learn does it: the mean loss + |W|^2 / (2 C N).

    The features are centred, which the free bias makes up for. L-BFGS begins each direction from the inverse of the
    objective's curvature at the start, class by class: the sum of p (1 - p) x x^T over the images with the largest
    p (1 - p), and the covariance of all for the rest. That takes fewer steps, and leaves the solution as it is.

    Args:
        features: with targets that are classes.
        outputs: how many classes there are.
        device: where to compute.
    """

    def __init__(self, features: Features, outputs: int, device: torch.device) -> None:
        self.features, self.outputs, self.device = features, outputs, device
        self.size = features.width + 1
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        total = torch.zeros(features.width, dtype=torch.float64, device=device)
        for values, _ in features.chunks(outputs):
            total += values.to(device).double().sum(0)
        self.mean = total / len(features)
        if 8 * len(features) * self.size <= IN_MEMORY:
            self._kept = list(self._chunks())
        self.penalised = torch.ones(self.size, dtype=torch.float64, device=device)
        self.penalised[-1] = 0
        self.covariance = torch.zeros((self.size, self.size), dtype=torch.float64, device=device)
        for x, _ in self._chunks():
            self.covariance.addmm_(x.T, x, alpha=1 / len(features))
        self._curved: Tensor | None = None  # of the last fit, that took so many steps
        self._steps = 0

    def head(self, fitted: Fitted) -> tuple[Tensor, Tensor]:
        """Weight (outputs, d) and bias (outputs,) of the features as they are."""
        weight = fitted.place[:, :-1]
        return weight, fitted.place[:, -1] - weight @ self.mean

    def path(self, values: Sequence[float], steps: int, tolerance: float) -> Iterator[Fitted]:
        """The solution for each C in turn, rising evenly in its logarithm: each begins where the two before point."""
        before: list[Tensor] = []
        for c in values:
            start = 2 * before[-1] - before[-2] if len(before) > 1 else before[-1] if before else None
            fitted = self.fit(c, start, steps, tolerance)
            before = [*before[-1:], fitted.place]
            yield fitted

    def fit(self, c: float, start: Tensor | None, steps: int, tolerance: float) -> Fitted:
        """The solution for C = `c`, begun from a place or from 0, after so many steps at most."""
        penalty = 1 / (c * len(self.features))
        place = torch.zeros((self.outputs, self.size), dtype=torch.float64, device=self.device)
        if start is not None:
            place += start
        now, done, converged = self._at(place, penalty), 0, False
        if self._largest(now) <= tolerance:
            return Fitted(place, done, True)
        memory = _Memory(self._inverse(place, penalty))
        while done < steps and not converged:
            taken = self._step(now, place, memory.direction(now.slope), penalty)
            if taken is None:  # to the last bit: nothing near is less
                converged = True
                break
            step, after = taken
            memory.add(step, after.slope - now.slope)
            converged = now.value - after.value <= _NOISE * max(abs(now.value), 1) or self._largest(after) <= tolerance
            place, now, done = place + step, after, done + 1
        self._steps = done
        return Fitted(place, done, converged)

    def _step(self, now: _At, place: Tensor, direction: Tensor, penalty: float) -> tuple[Tensor, _At] | None:
        """(a step, the objective after it) by Armijo's rule; None where nothing is less."""
        length, along = 1.0, float((now.slope * direction).sum())
        for _ in range(30):
            step = length * direction
            after = self._at(place + step, penalty)
            if after.value <= now.value + 1e-4 * length * along:
                return step, after
            bend = after.value - now.value - length * along
            length *= min(max(-length * along / (2 * bend), 0.1), 0.5) if bend > 0 else 0.5
        return None

    def _largest(self, at: _At) -> float:
        """The largest entry of the gradient, in the coordinates of the features as they are."""
        bias = at.slope[:, -1]
        return max((at.slope[:, :-1] + bias[:, None] * self.mean).abs().max().item(), bias.abs().max().item())

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(centred features in fp64, and 1, (n, d + 1), classes (n, 1)) in turn."""
        if self._kept is not None:
            yield from self._kept
            return
        for values, targets in self.features.chunks(self.outputs):
            x = torch.ones((len(values), self.size), dtype=torch.float64, device=self.device)
            x[:, :-1] = values.to(self.device).double() - self.mean
            yield x, targets.to(self.device)[:, None]

    def _at(self, place: Tensor, penalty: float) -> _At:
        value, slope = torch.zeros((), dtype=torch.float64, device=self.device), penalty * place * self.penalised
        count = len(self.features)
        value += penalty / 2 * (place[:, :-1]).square().sum()
        for x, classes in self._chunks():
            logits = x @ place.T
            logits -= logits.amax(1, keepdim=True)
            value -= logits.gather(1, classes).sum() / count
            shares = logits.exp_()
            sums = shares.sum(1, keepdim=True)
            value += sums.log().sum() / count
            shares /= sums
            shares.scatter_add_(1, classes, shares.new_full((1, 1), -1.0).expand(len(x), 1))
            slope.addmm_(shares.T, x, alpha=1 / count)
        return _At(value.item(), slope)

    def _inverse(self, place: Tensor, penalty: float) -> Tensor:
        """The inverse of the objective's curvature, (outputs, d + 1, d + 1), or (1, …) for all classes alike.

        That of the loss is worked out anew only where the last fit took more than a few steps, and class by class where
        it took many and there is room.
        """
        if self._curved is None or self._steps > FEW:
            by_class = self._steps > MANY and 8 * self.outputs * self.size**2 <= ROOM
            self._curved = self._curvature(place, self.outputs if by_class else 1)
        least = 1e-12 * self._curved.diagonal(dim1=1, dim2=2).amax(1) + 1e-15
        ridge = penalty * self.penalised + least[:, None]
        return torch.cholesky_inverse(torch.linalg.cholesky(self._curved + torch.diag_embed(ridge)))

    def _curvature(self, place: Tensor, groups: int) -> Tensor:
        """Of the mean loss, (groups, d + 1, d + 1), where `groups` is the number of classes or 1."""
        count = len(self.features)
        exact = torch.zeros((groups, self.size, self.size), dtype=torch.float64, device=self.device)
        rest = torch.zeros(groups, dtype=torch.float64, device=self.device)
        for x, _ in self._chunks():
            shares = (x @ place.T).softmax(1)
            curved = shares * (1 - shares)
            curved = curved if groups > 1 else curved.mean(1, keepdim=True)
            most = max(CURVED * self.size * len(x) // count, 64)
            chosen = curved.sum(1).topk(min(most, len(x))).indices
            rest += curved.sum(0) - curved[chosen].sum(0)
            for i in range(groups):
                exact[i].addmm_((x[chosen] * curved[chosen, i, None]).T, x[chosen], alpha=1 / count)
        return exact + (rest.clamp_min(0) / count)[:, None, None] * self.covariance


class _Memory:
    """What L-BFGS remembers of its last steps (Nocedal and Wright, algorithm 7.4)."""

    def __init__(self, inverse: Tensor) -> None:
        self.inverse = inverse
        self.pairs: list[tuple[Tensor, Tensor, float]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """A step and the change of the gradient in it."""
        if (product := float((step * change).sum())) > 0:
            self.pairs = [*self.pairs[1 - HISTORY :], (step, change, product)]

    def direction(self, slope: Tensor) -> Tensor:
        """Where to go from a gradient."""
        left, shares = -slope, []
        for step, change, product in reversed(self.pairs):
            share = float((step * left).sum()) / product
            shares.append(share)
            left = left - share * change
        left = self._first(left)
        for (step, change, product), share in zip(self.pairs, reversed(shares), strict=True):
            left = left + (share - float((change * left).sum()) / product) * step
        return left

    def _first(self, slope: Tensor) -> Tensor:
        """The inverse of the curvature times a gradient, without what all classes share, which is of no effect."""
        left = torch.matmul(slope[:, None], self.inverse)[:, 0] if len(self.inverse) > 1 else slope @ self.inverse[0]
        return left - left.mean(0)
