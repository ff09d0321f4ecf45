"""What is paired with what where two methods are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from peftbench.common.amounts import plural
from peftbench.results.stats import binomial_floor
from peftbench.results.summary import Run

ENOUGH_TASKS = 3  # shared by two methods, for a task to be a pair


@dataclass(frozen=True)
class Pairs:
    """First minus second for every pair, and in words what was paired.

    `floor` is the least variance that such a difference has, the mean over pairs: that of counting images. It is 0
    where the metric counts none, and None where a record does not say how many images were counted.
    """

    differences: list[float]
    over: str
    floor: float | None


def pair_up(
    first: Mapping[str, Sequence[Run]], second: Mapping[str, Sequence[Run]], tasks: Sequence[str], metric: str
) -> Pairs:
    """Pairs two methods: a pair is a task, its seeds averaged, where at least three tasks are shared; else it is a task
    and seed.

    Args:
        first: runs by task, each with the metric; likewise `second`.
    """
    by_task = [of_task for task in tasks if (of_task := list(runs_of_same_seeds(first, second, task)))]
    pairs, over = by_task, plural(len(by_task), "task")
    if len(by_task) < ENOUGH_TASKS:
        pairs = [[pair] for of_task in by_task for pair in of_task]
        seeds = plural(len(pairs), "seed")
        over = f"{seeds} on {len(by_task)} tasks" if len(by_task) > 1 else seeds
    differences = [fmean(a.metrics[metric] - b.metrics[metric] for a, b in pair) for pair in pairs]
    floors = [_floor(pair, metric) for pair in pairs]
    known = [floor for floor in floors if floor is not None]
    return Pairs(differences, over, fmean(known) if known and len(known) == len(floors) else None)


def runs_of_same_seeds(
    first: Mapping[str, Sequence[Run]], second: Mapping[str, Sequence[Run]], task: str
) -> Iterator[tuple[Run, Run]]:
    """The runs of both methods on a task, by rising seed, where both have the seed."""
    by_seed = {run.seed: run for run in first.get(task, ())}
    others = {run.seed: run for run in second.get(task, ())}
    for seed in sorted(by_seed.keys() & others.keys()):
        yield by_seed[seed], others[seed]


def _floor(pair: Sequence[tuple[Run, Run]], metric: str) -> float | None:
    """The least variance of the difference of one pair, whose seeds are tested on the same images."""
    if not any(run.counts(metric) for both in pair for run in both):
        return 0.0
    shares, images = [], []
    for runs in zip(*pair, strict=True):
        numbers = [run.images_behind(metric) for run in runs]
        if None in numbers:
            return None
        shares.append(fmean(run.metrics[metric] for run in runs))
        images.append(min(number for number in numbers if number is not None))
    return binomial_floor(shares[0], images[0], shares[1], images[1])
