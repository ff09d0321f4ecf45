"""Heads that are solved, logistic regression over 45 values of C and k-NN, against what they are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.tables import Row
from bench.timing import interleaved_row

LOGREG = "logistic regression, 45 values of C, 4,000 x 192, 20 classes, fp64: scikit-learn's fit at C = 1"
KNN = "k-NN, 5,000 queries, 50,000 x 768, k = 200: the chunked matrix product"
TOLERANCE = 1e-12
"""Of both, as DINOv2 has it; both end besides when the loss falls no more, and after 1000 steps at the most."""


def names() -> list[str]:
    return [LOGREG, KNN]


def measure(quick: bool = False) -> list[Row]:
    rounds = 1 if quick else 3
    ours, peer = logistic_regressions(*((400, 16, 5) if quick else (4000, 192, 20)))
    rows = [interleaved_row(LOGREG, ours, peer, rounds, 12.0)]
    ours, peer = neighbours(*((100, 2000, 64) if quick else (5000, 50_000, 768)))
    return [*rows, interleaved_row(KNN, ours, peer, rounds, 2.0)]


def logistic_regressions(
    images: int, width: int, classes: int, tolerance: float = TOLERANCE
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours over all C, and scikit-learn's at one, on overlapping clouds."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from peftbench.methods.logreg import USUAL
    from peftbench.methods.shared.softmax_regression import SoftmaxRegression
    from peftbench.methods.shared.solving import Features

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    centres = 0.3 * torch.randn(classes, width, generator=generator)
    values = centres[labels] + torch.randn(images, width, generator=generator)
    values *= torch.logspace(-0.5, 0.5, width)  # features of networks are not equally large

    def ours() -> None:
        features = Features(lambda first, last: values[first:last], width, labels)
        list(SoftmaxRegression(features, classes, torch.device("cpu")).path(USUAL, 1000, tolerance))

    fit = LogisticRegression(C=1.0, tol=tolerance, max_iter=1000).fit
    return ours, partial(fit, values.double().numpy(), labels.numpy())


def neighbours(queries: int, rows: int, width: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The head of k-NN, and the products of the same parts."""
    import torch
    from torch.nn import functional as F

    from peftbench.methods.knn import SLAB, TOGETHER, NearestHead

    generator = torch.Generator().manual_seed(0)
    table = F.normalize(torch.randn(rows, width, generator=generator))
    asked = F.normalize(torch.randn(queries, width, generator=generator))
    head = NearestHead(width, 100, rows, 200)
    head.table.copy_(table)
    head.labels.copy_(torch.arange(rows) % 100)

    def product() -> None:
        for part in asked.split(TOGETHER // SLAB):
            for slab in table.split(SLAB):
                part @ slab.T

    return torch.no_grad()(partial(head, asked)), torch.no_grad()(product)
