"""Nearest class mean: a head without training, whose class is the one with the nearest mean of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.linear import Last
from peftbench.methods.shared.solving import Features, Problem, Solution, best, tried


@dataclass(frozen=True)
class NCM(Method):
    """The class whose mean of pooled features is nearest; a linear head, in closed form.

    Source: the rule of iCaRL's classifier (Rebuffi et al., CVPR 2017, arXiv 1611.07725), with means of all images over
    a frozen backbone. That features are not scaled to length 1, and the shrinkage, are our reading.

    Equation: argmin_c |x - m'_c|² as logits x·m'_c - |m'_c|² / 2, with m'_c = (1 - shrink) m_c + shrink m, m_c (d,) the
    mean of class c and m the mean over the classes.

    Place: on the pooled features behind the final norm; nothing is put into the backbone.

    Cost: no gradient and no step. The features are computed once, from kept taps; sums of them by class are all that it
    needs, so that classes that come later change none of those before.

    Avoid when: features of a class are spread more in some directions than in others: `ridge` weighs directions.
    Outputs are no calibrated logits.

    Options: `shrink`, how far each mean is drawn to the mean of all: one value or several to choose among.
    """

    side: ClassVar[bool] = True
    solves: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    shrink: tuple[float, ...] = (0.0,)

    def check(self, backbone: Backbone) -> None:
        if not self.shrink or not all(0 <= value < 1 for value in self.shrink):
            raise UserError(f"method.shrink={list(self.shrink)}: expected one value or several, from 0 to below 1.")

    def adapt(self, backbone: Backbone, plan: Plan) -> Last:
        freeze(backbone)
        return Last()

    def chooses(self, images: int) -> bool:
        return len(self.shrink) > 1

    def solve(self, problem: Problem) -> Solution:
        heads = [_head(problem, problem.train, shrink) for shrink in self.shrink]
        merits: list[tuple[float, float]] = []
        if problem.held is not None and len(heads) > 1:
            judges = [problem.judge() for _ in heads]
            for values, targets in problem.held.chunks(problem.outputs):
                features = values.to(problem.device).double()
                for (weight, bias), judge in zip(heads, judges, strict=True):
                    judge.update((features @ weight.T + bias).float(), targets)
            merits = [judge.merit() for judge in judges]
        at = best(merits) if merits else 0
        weight, bias = _head(problem, problem.whole, self.shrink[at]) if problem.again else heads[at]
        tensors = {"weight": weight.float().cpu(), "bias": bias.float().cpu()}
        names = [{"shrink": value} for value in self.shrink]
        return Solution(tensors, {"shrink": self.shrink[at]}, tried(names, merits) if merits else ())


NEVER = -1e9
"""The bias of a class without an image, which is never said."""


def _head(problem: Problem, features: Features, shrink: float) -> tuple[Tensor, Tensor]:
    """The weight (classes, d) and bias (classes,), in fp64, of the classes' means."""
    sums = torch.zeros((problem.outputs, features.width), dtype=torch.float64, device=problem.device)
    counts = torch.zeros(problem.outputs, dtype=torch.float64, device=problem.device)
    for values, targets in features.chunks(problem.outputs):
        labels = targets.to(problem.device)
        sums.index_add_(0, labels, values.to(problem.device).double())
        counts += torch.bincount(labels, minlength=problem.outputs)
    there = counts > 0
    means = sums / counts.clamp(min=1)[:, None]
    means = torch.lerp(means, means[there].mean(0, keepdim=True), shrink)
    bias = torch.where(there, -means.square().sum(1) / 2, NEVER)
    return means * there[:, None], bias
