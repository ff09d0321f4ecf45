"""Whether two rows are told apart on some tasks, and by what: seeds, the same images, or the number of images alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from peftbench.results.board import VTAB_TASKS, Row, weights_of
from peftbench.results.pairing import pair_up, runs_of_same_seeds
from peftbench.results.same_images import only_one_right
from peftbench.results.stats import ALPHA, LEAST_PAIRS, Difference, exact_mcnemar, mean_difference, paired
from peftbench.results.summary import Run

SEEDS, SAME_IMAGES, IMAGES = "seeds", "the same test images", "the number of test images"
SPREAD = "the spread of few seeds"


@dataclass(frozen=True)
class Telling:
    """The p-value, two-sided, of a difference between two rows, and `by` what it is reckoned.

    By `SEEDS` it is the paired t-test over at least three seeds of each task, or over VTAB's tasks, whose spread is at
    least that of counting images. With fewer it says nothing of other seeds: by `SAME_IMAGES` it is McNemar's exact
    test, by `IMAGES` a difference of two shares of so many images, by `SPREAD` the same where the seeds differ by more
    than these do. `p` is None where nothing tells them apart, and then `untold` says why.
    """

    p: float | None
    by: str
    untold: str = ""

    @property
    def apart(self) -> bool:
        """Whether the difference is more than chance at 5 %, not corrected for other comparisons."""
        return self.p is not None and self.p < ALPHA


def tell(first: Row, second: Row, tasks: Sequence[str], metric: str) -> Telling:
    """Whether two rows differ; both have runs on each of the tasks, on the same test images."""
    if set(tasks) == set(VTAB_TASKS):  # which stand for others: a pair is a task
        pairs = pair_up(first.runs, second.runs, tasks, metric)
        if len(pairs.differences) >= LEAST_PAIRS:
            return _by_seeds(paired(pairs.differences, pairs.floor, ranks=False))
    pairs_by_task = {task: pair_up(first.runs, second.runs, (task,), metric) for task in tasks}
    if all(len(pairs.differences) >= LEAST_PAIRS for pairs in pairs_by_task.values()):
        by_task = [paired(pairs.differences, pairs.floor, ranks=False) for pairs in pairs_by_task.values()]
        return _by_seeds(by_task[0] if len(by_task) == 1 else mean_difference(by_task))
    if len(tasks) == 1 and (p := _by_image(first, second, tasks[0], metric)) is not None:
        return Telling(p, SAME_IMAGES)
    return _by_number_of_images(first, second, tasks, metric)


def _by_seeds(difference: Difference) -> Telling:
    return Telling(1.0 if difference.verdict == "equal" else difference.p, SEEDS, difference.untold)


def _by_image(first: Row, second: Row, task: str, metric: str) -> float | None:
    """The largest p-value of the seeds that both have; 1 where the seeds disagree on which is better."""
    p_values, directions = [], set()
    for run, other in runs_of_same_seeds(first.runs, second.runs, task):
        counts = only_one_right(run, other, metric)
        if counts is None:
            return None
        p_values.append(exact_mcnemar(*counts))
        directions.add(counts[0] > counts[1])
    if not p_values:
        return None
    return max(p_values) if len(directions) == 1 else 1.0


def _by_number_of_images(first: Row, second: Row, tasks: Sequence[str], metric: str) -> Telling:
    difference, spread, by = 0.0, 0.0, IMAGES
    for task, weight in weights_of(tasks).items():
        runs, others = first.runs[task], second.runs[task]
        if not any(run.counts(metric) for run in (*runs, *others)):
            name = metric.rpartition("/")[2]
            return Telling(None, IMAGES, f"{name} counts no images, so that it needs {LEAST_PAIRS} seeds to tell")
        if (mine := _share(runs, metric)) is None or (theirs := _share(others, metric)) is None:
            return Telling(None, IMAGES, "a record does not say how many images it was tested on")
        between = _variance_over_seeds(runs, metric) + _variance_over_seeds(others, metric)
        if between > mine[1] + theirs[1]:
            by = SPREAD
        difference += weight * (mine[0] - theirs[0])
        spread += weight**2 * max(mine[1] + theirs[1], between)
    return Telling(math.erfc(abs(difference) / math.sqrt(2 * spread)), by)


def _share(runs: Sequence[Run], metric: str) -> tuple[float, float] | None:
    """The share of images and its variance; None where no record says of how many.

    Near 0 and 1 the plain variance is too small. Two more images, one of them right, mend that (Agresti and Caffo,
    2000). Seeds are tested on the same images, so that more seeds do not make the variance less.
    """
    numbers = [n for run in runs if (n := run.images_behind(metric)) is not None]
    if len(numbers) < len(runs):
        return None
    images = min(numbers) + 2
    share = (min(max(fmean(run.metrics[metric] for run in runs), 0.0), 1.0) * min(numbers) + 1) / images
    return share, share * (1 - share) / images


def _variance_over_seeds(runs: Sequence[Run], metric: str) -> float:
    """Of the mean; 0 where one seed has no spread."""
    values = [run.metrics[metric] for run in runs]
    return variance(values) / len(values) if len(values) > 1 else 0.0


def least_told_apart(share: float, images: int) -> float:
    """About which difference of two shares of so many images, near this one, is told apart: two standard errors."""
    nearer = (min(max(share, 0.0), 1.0) * images + 1) / (images + 2)
    return 2 * math.sqrt(2 * nearer * (1 - nearer) / (images + 2))
