"""Multinomial logistic regression with an L2 penalty by L-BFGS, in fp64, over features that need not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from peftbench.methods.shared.solving import Features

IN_MEMORY = 2**28
"""Bytes of features in fp64 that stay in memory; more are read anew for each step."""
HISTORY = 10
"""Steps that L-BFGS remembers."""
_NOISE = 64 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Fitted:
    """A solution: `weight` (outputs, d) and `bias` (outputs,) of centred features, and the steps that it took.

    `converged`: whether the largest entry of the gradient of the mean loss is within the tolerance, or the loss no
    longer falls by more than rounding.
    """

    weight: Tensor
    bias: Tensor
    steps: int
    converged: bool


class _At(NamedTuple):
    """The objective at a point: its value, its gradients, and the mean of p (1 - p) of the probabilities."""

    value: float
    weight: Tensor
    bias: Tensor
    spread: float


class SoftmaxRegression:
    """Fits heads for one set of features and any C: C sum_i CE_i + |W|^2 / 2, with a free bias.

    What is minimised is the same divided by C N, as scikit-learn does it: the mean loss + |W|^2 / (2 C N).

    L-BFGS works in coordinates in which that is about as curved in all directions: the features are centred, which the
    free bias makes up for, and along the eigenvectors of their covariance, of eigenvalues s_j, weights are divided by
    sqrt(a s_j + 1 / (C N)), with a the mean of p (1 - p) at the start. The solution does not depend on them.

    Args:
        features: with targets that are classes.
        outputs: how many classes there are.
        device: where to compute.
    """

    def __init__(self, features: Features, outputs: int, device: torch.device) -> None:
        self.features, self.outputs, self.device = features, outputs, device
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        width = features.width
        total = torch.zeros(width, dtype=torch.float64, device=device)
        for values, _ in features.chunks(outputs):
            total += values.to(device).double().sum(0)
        self.mean = total / len(features)
        if 8 * len(features) * width <= IN_MEMORY:
            self._kept = list(self._chunks())
        covariance = torch.zeros((width, width), dtype=torch.float64, device=device)
        for x, _ in self._chunks():
            covariance.addmm_(x.T, x)
        self.spectrum, self.axes = torch.linalg.eigh(covariance / len(features))
        self.spectrum.clamp_(min=0)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(centred features in fp64 (n, d), classes (n, 1)) in turn."""
        if self._kept is not None:
            yield from self._kept
            return
        for values, targets in self.features.chunks(self.outputs):
            yield values.to(self.device).double() - self.mean, targets.to(self.device)[:, None]

    def fit(self, c: float, start: Fitted | None, steps: int, tolerance: float) -> Fitted:
        """The solution for C = `c`, begun from another one or from 0."""
        penalty = 1 / (c * len(self.features))
        if start is None:
            zeros = torch.zeros((self.outputs, self.features.width + 1), dtype=torch.float64, device=self.device)
            start = Fitted(zeros[:, 1:], zeros[:, 0], 0, False)
        now = self._at(start.weight, start.bias, penalty)
        scaled = _Coordinates(self.axes, (now.spread * self.spectrum + penalty).sqrt(), math.sqrt(now.spread))
        place = scaled.place(start.weight, start.bias)
        slope, memory, done, converged = scaled.slope(now), _Memory(), 0, False
        while done < steps and not converged and self._largest(now) > tolerance:
            taken = self._step(now, place, memory.direction(slope), slope, scaled, penalty)
            if taken is None:  # to the last bit: nothing near is less
                converged = True
                break
            step, after = taken
            slope_after = scaled.slope(after)
            memory.add(step, slope_after - slope)
            converged = now.value - after.value <= _NOISE * max(abs(now.value), 1)
            place, now, slope, done = place + step, after, slope_after, done + 1
        return Fitted(*scaled.point(place), done, converged or self._largest(now) <= tolerance)

    def _step(
        self, now: _At, place: Tensor, direction: Tensor, slope: Tensor, scaled: _Coordinates, penalty: float
    ) -> tuple[Tensor, _At] | None:
        """(a step, the objective after it) by Armijo's rule; None where nothing is less."""
        length, along = 1.0, float(slope @ direction)
        for _ in range(30):
            step = length * direction
            after = self._at(*scaled.point(place + step), penalty)
            if after.value <= now.value + 1e-4 * length * along:
                return step, after
            bend = after.value - now.value - length * along
            length *= min(max(-length * along / (2 * bend), 0.1), 0.5) if bend > 0 else 0.5
        return None

    def _largest(self, at: _At) -> float:
        """The largest entry of the gradient, in the coordinates of the features as they are."""
        weight = at.weight + at.bias[:, None] * self.mean
        return max(weight.abs().max().item(), at.bias.abs().max().item())

    def _at(self, weight: Tensor, bias: Tensor, penalty: float) -> _At:
        value, spread = (torch.zeros((), dtype=torch.float64, device=self.device) for _ in range(2))
        of_weight, of_bias = penalty * weight, torch.zeros_like(bias)
        count = len(self.features)
        for x, classes in self._chunks():
            logits = torch.addmm(bias, x, weight.T)
            logits -= logits.amax(1, keepdim=True)
            value -= logits.gather(1, classes).sum()
            powers = logits.exp_()
            sums = powers.sum(1, keepdim=True)
            value += sums.log().sum()
            shares = powers.div_(sums)
            spread += len(x) - shares.square().sum()
            shares.scatter_add_(1, classes, shares.new_full((1, 1), -1.0).expand(len(x), 1))
            of_weight = of_weight.addmm(shares.T, x, alpha=1 / count)
            of_bias += shares.sum(0) / count
        value = value / count + penalty / 2 * weight.square().sum()
        return _At(value.item(), of_weight, of_bias, max(spread.item() / (count * self.outputs), 1e-12))


class _Coordinates(NamedTuple):
    """Weights along `axes` (d, d), times `scale` (d,), and biases times `scale_of_bias`, as one vector."""

    axes: Tensor
    scale: Tensor
    scale_of_bias: float

    def place(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The vector of a weight (outputs, d) and a bias (outputs,)."""
        return torch.cat([bias[:, None] * self.scale_of_bias, (weight @ self.axes) * self.scale], 1).flatten()

    def point(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """The weight and the bias of a vector."""
        pair = place.view(-1, len(self.axes) + 1)
        return (pair[:, 1:] / self.scale) @ self.axes.T, pair[:, 0] / self.scale_of_bias

    def slope(self, at: _At) -> Tensor:
        """The gradient as a vector."""
        return torch.cat([at.bias[:, None] / self.scale_of_bias, (at.weight @ self.axes) / self.scale], 1).flatten()


class _Memory:
    """What L-BFGS remembers of its last steps (Nocedal and Wright, algorithm 7.4)."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, float]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """A step and the change of the gradient in it."""
        if (product := float(step @ change)) > 0:
            self.pairs = [*self.pairs[1 - HISTORY :], (step, change, product)]

    def direction(self, slope: Tensor) -> Tensor:
        """Where to go from a gradient."""
        left, shares = -slope, []
        for step, change, product in reversed(self.pairs):
            share = float(step @ left) / product
            shares.append(share)
            left = left - share * change
        if self.pairs:
            _, change, product = self.pairs[-1]
            left = left * (product / float(change @ change))
        for (step, change, product), share in zip(self.pairs, reversed(shares), strict=True):
            left = left + (share - float(change @ left) / product) * step
        return left
