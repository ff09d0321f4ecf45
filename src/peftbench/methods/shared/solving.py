"""What a method whose head is solved is given and gives back: features in chunks, and a choice by held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

CHUNK = 2**26
"""Bytes of a chunk of features and of what is computed from it, in fp64."""


class Features:
    """Pooled features of images, with their targets, read in chunks.

    Attributes:
        width: numbers in the features of an image.
        targets: (N,) classes, or (N, K) numbers.
        rows: which of the stored images these are, (N,), in increasing order.
    """

    def __init__(
        self, read: Callable[[int, int], Tensor], width: int, targets: Tensor, rows: Tensor | None = None
    ) -> None:
        """`read(first, last)` gives the stored features from one row to before another, float32 (n, width)."""
        self._read, self.width, self.targets = read, width, targets
        self.rows = torch.arange(len(targets)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, keep: Tensor) -> Features:
        """Those where `keep`, bool (N,), is true."""
        return Features(self._read, self.width, self.targets[keep], self.rows[keep])

    def chunks(self, outputs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(float32 (n, width), their targets) of all images in turn; the same chunks in each pass.

        Args:
            outputs: numbers that are computed for an image, for which a chunk leaves room.
        """
        size = max(CHUNK // (8 * self.width + 32 * outputs), 1)
        done = 0
        for first in range(0, int(self.rows[-1]) + 1 if len(self) else 0, size):
            last = int(torch.searchsorted(self.rows, first + size))
            if last > done:
                inside = self.rows[done:last]
                begin, end = int(inside[0]), int(inside[-1]) + 1
                values = self._read(begin, end)
                if end - begin > len(inside):
                    values = values[inside - begin]
                yield values, self.targets[done:last]
                done = last


class Judge(Protocol):
    """Judges one of several heads by the images that are held out."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes what the head gives for some images, (n, outputs), and what they are."""

    def merit(self) -> tuple[float, float]:
        """(the metric that the run is judged by, minus the loss); the larger the better."""


@dataclass(frozen=True)
class Problem:
    """What a head is worked out from.

    Attributes:
        train: what the heads to choose among are fitted to.
        held: what they are judged by; None where there is nothing to choose.
        whole: what the chosen one is fitted to: `train` itself, or that and `held`.
        outputs: how many numbers the head gives.
        judge: makes a judge of one head.
        wanted: from targets to what least squares aims at, float64 (n, outputs).
        device: where it is to be computed.
    """

    train: Features
    held: Features | None
    whole: Features
    outputs: int
    judge: Callable[[], Judge]
    wanted: Callable[[Tensor], Tensor]
    device: torch.device

    @property
    def again(self) -> bool:
        """Whether the chosen head is fitted to more images than the others were."""
        return self.whole is not self.train


@dataclass(frozen=True)
class Solution:
    """A head that was worked out.

    Attributes:
        tensors: of the module that `Method.head` gives, by their names there.
        chosen: option -> the value that was taken.
        tried: of each value that was judged, in order: the values, `merit` and `loss`.
        facts: what else the record says of it.
    """

    tensors: Mapping[str, Tensor]
    chosen: Mapping[str, Any]
    tried: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def best(merits: Sequence[tuple[float, float]]) -> int:
    """The place of the best: the larger metric, then the smaller loss, then the earlier one. NaN is worst."""
    ranks = [tuple(-float("inf") if value != value else value for value in merit) for merit in merits]
    return max(range(len(ranks)), key=lambda i: (ranks[i], -i))


def tried(points: Sequence[Mapping[str, Any]], merits: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """What a record says of the values that were judged."""
    return [{**point, "merit": metric, "loss": -loss} for point, (metric, loss) in zip(points, merits, strict=True)]
