"""k-NN as DINO judges features by it (Caron et al., ICCV 2021, arXiv 2104.14294): the nearest training images vote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZero, Positive
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.linear import Last
from peftbench.methods.shared.solving import Features, Problem, Solution, best, tried
from peftbench.methods.shared.tracing import is_traced

USUAL = (10, 20, 100, 200)
"""The numbers of neighbours to choose among where none are given, as many of them as there are images."""
TOGETHER = 2**24
"""Cosines that are computed at once, so that they stay near the processor."""
SLAB = 2**14
"""Rows of the table that are looked at at once."""
FLOOR = 1e-6
"""The share of the votes that a class without any is given, so that the logarithm is a number."""


@dataclass(frozen=True)
class KNN(Method):
    """The k training images whose features have the largest cosine with an image's vote for their classes.

    Source: DINO (Caron et al., 2021, arXiv 2104.14294) and DINOv2, which give k and T = 0.07. That k and T are chosen
    by held-out images, that logits are logarithms of shares, and the floor below are our reading.

    Equation: c_i = <z, z_i> of features z (d) scaled to length 1; s_c = sum over the k largest c_i of
    exp(c_i / T) [y_i = c]; the logits are log max(s_c / sum s, 1e-6).

    Place: on the pooled features behind the final norm; nothing is put into the backbone.

    Cost: no gradient and no step. The features of all training images are computed once, from kept taps. They are what
    is learned and what it keeps to predict: a table of N x d numbers in fp16.

    Avoid when: there are a million training images and the model must be small or quick; classes differ in details that
    the features do not show.

    Options: `k` neighbours and `temperature` T, one value of each or several to choose among; k null is 10, 20, 100 and
    200, without those that are more than the training images.
    """

    side: ClassVar[bool] = True
    solves: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    k: tuple[Positive, ...] | None = None
    temperature: tuple[AboveZero, ...] = (0.07,)

    def check(self, backbone: Backbone) -> None:
        for name, values in (("k", self.k), ("temperature", self.temperature)):
            if values is not None and not len(values):
                raise UserError(f"method.{name}=[]: expected at least one value.")

    def adapt(self, backbone: Backbone, plan: Plan) -> Last:
        freeze(backbone)
        return Last()

    def neighbours(self, images: int) -> tuple[int, ...]:
        """The values of k to choose among, for so many training images. Raises UserError where one is more."""
        if self.k is None:
            return tuple(k for k in USUAL if k <= images) or (images,)
        if max(self.k) > images:
            raise UserError(
                f"method.k={list(self.k)}: there are {images} training images to be neighbours; expected at most that."
            )
        return self.k

    def head(self, linear: nn.Linear, images: int) -> NearestHead:
        return NearestHead(linear.in_features, linear.out_features, images, max(self.neighbours(images)))

    def chooses(self, images: int) -> bool:
        return len(self.neighbours(images)) * len(self.temperature) > 1

    def solve(self, problem: Problem) -> Solution:
        ks = self.neighbours(len(problem.whole))
        points = [(k, t) for t in self.temperature for k in ks]
        merits: list[tuple[float, float]] = []
        if problem.held is not None:
            merits = self._judged(problem, problem.held, points)
        k, temperature = points[best(merits)] if merits else points[0]
        table = _table(problem.whole, problem.device)
        counted = torch.zeros(max(ks))
        counted[:k] = 1
        labels = problem.whole.targets.clone()
        tensors = {"table": table, "labels": labels, "counted": counted, "temperature": torch.tensor(temperature)}
        names = [{"k": k, "temperature": t} for k, t in points]
        return Solution(tensors, {"k": k, "temperature": temperature}, tried(names, merits) if merits else ())

    def _judged(self, problem: Problem, held: Features, points: list[tuple[int, float]]) -> list[tuple[float, float]]:
        """The merit of each (k, T): one search serves all. Of the table a chunk at a time is in memory."""
        most, labels = max(k for k, _ in points), problem.train.targets.to(problem.device)
        judges = [problem.judge() for _ in points]
        for queries, targets in held.chunks(2 * most):
            slabs = (_unit(values.to(problem.device)).half() for values, _ in problem.train.chunks(2 * most))
            cosines, rows = nearest(_unit(queries.to(problem.device)), slabs, most)
            for (k, temperature), judge in zip(points, judges, strict=True):
                share = shares(cosines[:, :k], labels[rows[:, :k]], temperature, problem.outputs)
                judge.update(share.clamp_min(FLOOR).log(), targets)
        return [judge.merit() for judge in judges]


class NearestHead(nn.Module):
    """Features (B, d) to logits (B, classes), by the votes of the nearest rows of a table.

    Attributes:
        table: (N, d), features of length 1, in fp16; `labels` (N,) are their classes.
        counted: (most,), 1 for the neighbours that vote, the nearest first, and 0 for those behind them.
        temperature: of the votes.
    """

    table: Tensor
    labels: Tensor
    counted: Tensor
    temperature: Tensor

    def __init__(self, width: int, classes: int, images: int, most: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("table", torch.zeros(images, width, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(images, dtype=torch.long))
        self.register_buffer("counted", torch.ones(most))
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, features: Tensor) -> Tensor:
        most = len(self.counted)
        with torch.autocast(features.device.type, enabled=False):
            queries = _unit(features.float())
            if is_traced() or len(queries) * len(self.table) <= TOGETHER:
                cosines, rows = (queries @ self.table.float().T).topk(most)
            else:
                parts = [nearest(q, self.table.split(SLAB), most) for q in queries.split(TOGETHER // SLAB)]
                cosines, rows = (torch.cat(part) for part in zip(*parts, strict=True))
            share = shares(cosines, self.labels[rows], self.temperature, self.classes, self.counted)
            return share.clamp_min(FLOOR).log()


def nearest(queries: Tensor, slabs: Iterable[Tensor], most: int) -> tuple[Tensor, Tensor]:
    """The largest cosines (B, most) of each query, in falling order, and the rows (B, most) that they are with.

    Args:
        queries: (B, d), of length 1.
        slabs: the rows of a table, (n, d) each.
        most: how many are wanted; fewer where there are fewer rows.
    """
    cosines = queries.new_empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.long, device=queries.device)
    first = 0
    for slab in slabs:
        own, places = (queries @ slab.float().T).topk(min(most, len(slab)))
        rows = torch.cat([rows, places + first], 1)
        cosines, places = torch.cat([cosines, own], 1).topk(min(most, rows.shape[1]))
        rows = rows.gather(1, places)
        first += len(slab)
    return cosines, rows


def shares(
    cosines: Tensor, labels: Tensor, temperature: float | Tensor, classes: int, counted: Tensor | None = None
) -> Tensor:
    """The share of the votes (B, classes) of neighbours with these cosines and labels, (B, k) each.

    The votes are exp(c_i / T), divided by that of the nearest one, which leaves shares as they are.
    """
    votes = ((cosines - cosines[:, :1]) / temperature).exp()
    if counted is not None:
        votes = votes * counted
    votes = votes / votes.sum(1, keepdim=True)
    none = votes.new_zeros((votes.shape[0], classes))  # len() of it would fix the batch in an exported graph
    return none.scatter_add(1, labels, votes)


def _table(features: Features, device: torch.device) -> Tensor:
    """Of all images (N, d) in fp16."""
    table = torch.empty((len(features), features.width), dtype=torch.float16)
    done = 0
    for values, _ in features.chunks(0):
        table[done : done + len(values)] = _unit(values.to(device)).half().cpu()
        done += len(values)
    return table


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features, dim=-1)
