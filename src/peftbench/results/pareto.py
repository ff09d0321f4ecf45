"""Pareto fronts: which rows of a board no other beats both in what they reach and in what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from peftbench.results.board import Row, has_comparable_costs


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, merit) that none beats in both, by rising cost; of equal points the first."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def comparable_rows(rows: Sequence[Row], cost: str) -> list[list[int]]:
    """Indices of the rows whose costs may be compared, a list for each kind.

    Counts of parameters are alike everywhere. Memory is compared on one machine, times on one machine and of one kind;
    neither is of runs that were trained together.

    Args:
        cost: train, memory or parameters.
    """
    kinds: dict[Hashable, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if cost == "parameters":
            kinds[()].append(i)
        elif has_comparable_costs(row):
            kinds[row.machines if cost == "memory" else (row.machines, row.times)].append(i)
    return list(kinds.values())
