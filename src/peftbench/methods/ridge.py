"""Ridge regression onto the targets, in closed form: the quickest of linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZero
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.linear import Last
from peftbench.methods.shared.solving import Features, Problem, Solution, best, tried

USUAL = tuple(10 ** (i / 2) for i in range(-8, 13))
"""The penalties to choose among where none are given: 1e-4 to 1e6, two to a power of ten. Our reading."""


@dataclass(frozen=True)
class Ridge(Method):
    """A linear head that is fitted by least squares with a penalty on its weights, solved exactly.

    Source: Hoerl and Kennard, "Ridge Regression", Technometrics 1970. That classes are targets of 0 and 1, labels of -1
    and 1, and numbers standardised, and the grid of penalties, are our reading.

    Equation: W = (Xc^T Xc + lambda I)^-1 Xc^T Yc, with X (N, d) and Y (N, K) less their means; the bias is free,
    mean(Y) - mean(X) W. With fewer images than d the same by Xc^T (Xc Xc^T + lambda I)^-1 Yc.

    Place: on the pooled features behind the final norm; nothing is put into the backbone.

    Cost: no gradient and no step. The features are computed once, from kept taps, and read twice; one
    eigendecomposition of d x d (or N x N) serves all penalties. The head is as large as a linear probe's.

    Avoid when: probabilities are wanted: outputs are no logits, and a loss computed of them says little. Outliers count
    with their squares.

    Options: `penalty` lambda, one value or several to choose among; null is 21 values from 1e-4 to 1e6.
    """

    side: ClassVar[bool] = True
    solves: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True
    solves_for: ClassVar[tuple[str, ...]] = ("classes", "labels", "numbers")
    identity_start: ClassVar[bool] = True

    penalty: tuple[AboveZero, ...] | None = None

    def check(self, backbone: Backbone) -> None:
        if self.penalty is not None and not len(self.penalty):
            raise UserError("method.penalty=[]: expected at least one value.")

    def adapt(self, backbone: Backbone, plan: Plan) -> Last:
        freeze(backbone)
        return Last()

    def chooses(self, images: int) -> bool:
        return self.penalty is None or len(self.penalty) > 1

    def solve(self, problem: Problem) -> Solution:
        penalties = self.penalty or USUAL
        merits: list[tuple[float, float]] = []
        fitted = LeastSquares(problem, problem.train)
        if problem.held is not None:
            heads = [fitted.head(penalty) for penalty in penalties]
            judges = [problem.judge() for _ in penalties]
            for values, targets in problem.held.chunks(problem.outputs):
                features = values.to(problem.device)
                for (weight, bias), judge in zip(heads, judges, strict=True):
                    judge.update(features @ weight.float().T + bias.float(), targets)
            merits = [judge.merit() for judge in judges]
        penalty = penalties[best(merits)] if merits else penalties[0]
        if problem.again:
            fitted = LeastSquares(problem, problem.whole)
        weight, bias = (tensor.float().cpu() for tensor in fitted.head(penalty))
        names = [{"penalty": value} for value in penalties]
        return Solution({"weight": weight, "bias": bias}, {"penalty": penalty}, tried(names, merits) if merits else ())


class LeastSquares:
    """Heads for one set of features and any penalty, in fp64.

    Args:
        problem: says what is wanted for the targets.
        features: of N images, read twice.
        dual: whether to solve for N numbers an output instead of d; by default where N is smaller.
    """

    def __init__(self, problem: Problem, features: Features, dual: bool | None = None) -> None:
        outputs, device = problem.outputs, problem.device
        count, width = len(features), features.width
        sums, totals = (torch.zeros(n, dtype=torch.float64, device=device) for n in (width, outputs))
        for values, targets in features.chunks(outputs):
            sums += values.to(device).double().sum(0)
            totals += problem.wanted(targets).to(device).sum(0)
        self.mean, self.level = sums / count, totals / count
        self.dual = count < width if dual is None else dual
        if self.dual:
            parts = [self._centred(problem, values, targets) for values, targets in features.chunks(outputs)]
            self.x, y = (torch.cat(part) for part in zip(*parts, strict=True))
            gram, across = self.x @ self.x.T, y
        else:
            gram = torch.zeros((width, width), dtype=torch.float64, device=device)
            across = torch.zeros((width, outputs), dtype=torch.float64, device=device)
            for values, targets in features.chunks(outputs):
                x, y = self._centred(problem, values, targets)
                gram.addmm_(x.T, x)
                across.addmm_(x.T, y)
        self.values, self.vectors = torch.linalg.eigh(gram)
        self.across = self.vectors.T @ across

    def _centred(self, problem: Problem, values: Tensor, targets: Tensor) -> Sequence[Tensor]:
        wanted = problem.wanted(targets).to(self.level.device)
        return values.to(self.mean.device).double() - self.mean, wanted - self.level

    def head(self, penalty: float) -> tuple[Tensor, Tensor]:
        """The weight (outputs, d) and bias (outputs,) for this penalty."""
        solved = self.vectors @ (self.across / (self.values.clamp_min(0) + penalty)[:, None])
        weight = (self.x.T @ solved if self.dual else solved).T
        return weight, self.level - weight @ self.mean
