"""Logistic regression on pooled features, as DINOv2 (Oquab et al., 2023, arXiv 2304.07193) evaluates backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZero, Positive
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.linear import Last
from peftbench.methods.shared.softmax_regression import Fitted, SoftmaxRegression
from peftbench.methods.shared.solving import Problem, Solution, best, tried

USUAL = tuple(10 ** (-6 + 11 * i / 44) for i in range(45))
"""DINOv2's: 45 values of C from 1e-6 to 1e5, evenly in their logarithms."""


@dataclass(frozen=True)
class LogReg(Method):
    """A linear head that is fitted to its end by L-BFGS, with C chosen by held-out images.

    Source: DINOv2 (Oquab et al., 2023, arXiv 2304.07193): its values of C, at most 1000 steps, tolerance 1e-12, fp64,
    features that are not normalised. That the fit of each C begins from those before, and each direction from the
    curvature of the loss, is ours, and does not change what is fitted.

    Equation: min over W (K, d), b (K): C sum_i CE(W z_i + b, y_i) + |W|^2 / 2; the bias b is free. By the mean loss the
    weight decay is 1 / (C N).

    Place: on the pooled features behind the final norm; nothing is put into the backbone.

    Cost: no gradient through the backbone. The features are computed once, from kept taps; a step reads them once, from
    memory or from disk. The head is as large as a linear probe's.

    Avoid when: seconds count (ridge takes one pass), or labels are several an image.

    Options: `C`, one value or several to choose among, null is DINOv2's 45; at most `iterations` steps for each, until
    the largest entry of the gradient of the mean loss is below `tolerance` or the loss falls no more.
    """

    side: ClassVar[bool] = True
    solves: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    C: tuple[AboveZero, ...] | None = None
    iterations: Positive = 1000
    tolerance: AboveZero = 1e-12

    def check(self, backbone: Backbone) -> None:
        if self.C is not None and not len(self.C):
            raise UserError("method.C=[]: expected at least one value.")

    def adapt(self, backbone: Backbone, plan: Plan) -> Last:
        freeze(backbone)
        return Last()

    def chooses(self, images: int) -> bool:
        return self.C is None or len(self.C) > 1

    def solve(self, problem: Problem) -> Solution:
        values = sorted(self.C or USUAL)  # rising, so that each begins near where the one before ended
        merits: list[tuple[float, float]] = []
        found: list[Fitted] = []
        regression = SoftmaxRegression(problem.train, problem.outputs, problem.device)
        if problem.held is not None:
            found += regression.path(values, self.iterations, self.tolerance)
            merits = _judged(problem, regression, found)
        place = best(merits) if merits else 0
        if problem.again:
            regression = SoftmaxRegression(problem.whole, problem.outputs, problem.device)
        fitted = found[place] if found else None
        if fitted is None or problem.again:
            start = None if fitted is None else fitted.place
            fitted = regression.fit(values[place], start, self.iterations, self.tolerance)
        weight, bias = (tensor.float().cpu() for tensor in regression.head(fitted))
        tensors = {"weight": weight, "bias": bias}
        facts = {"steps": fitted.steps, "converged": fitted.converged, "steps_of_all": sum(f.steps for f in found)}
        names = [{"C": value} for value in values]
        return Solution(tensors, {"C": values[place]}, tried(names, merits) if merits else (), facts)


def _judged(problem: Problem, regression: SoftmaxRegression, found: list[Fitted]) -> list[tuple[float, float]]:
    """The merit of each head, of one reading of the held-out images."""
    assert problem.held is not None
    judges, heads = [problem.judge() for _ in found], [regression.head(fitted) for fitted in found]
    for values, targets in problem.held.chunks(problem.outputs):
        x = values.to(problem.device).double()
        for (weight, bias), judge in zip(heads, judges, strict=True):
            judge.update((x @ weight.T + bias).float(), targets)
    return [judge.merit() for judge in judges]
