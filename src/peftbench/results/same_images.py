"""Two runs compared image by image, where seeds are too few to compare their methods: exact McNemar tests.

It is about the weights of these two runs. Another seed gives other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from peftbench.results.board import Board, Compared, Row
from peftbench.results.pairing import runs_of_same_seeds
from peftbench.results.per_image import read_right
from peftbench.results.stats import ALPHA, LEAST_PAIRS, exact_mcnemar, holm_corrected, untold_words
from peftbench.results.summary import Run

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SameImages:
    """Two runs of one seed on the test images of a task: how many the first alone has right, and the second alone.

    `p` is of McNemar's exact test, two-sided; `holm` is `p` corrected for the tests made beside it.
    """

    first: Row
    second: Row
    task: str
    seed: int
    images: int
    only_first: int
    only_second: int
    p: float
    holm: float = 1.0

    @property
    def verdict(self) -> str:
        """better, worse, inside the noise or `ONLY_ALONE`; of the first one's weights."""
        if self.holm >= ALPHA:
            return untold_words(self.p, self.holm)
        return "better" if self.only_first > self.only_second else "worse"


def compared_by_image(board: Board, pairs: Sequence[Compared]) -> tuple[list[SameImages], list[Run]]:
    """Of every two rows with too few pairs for a verdict, the runs that both left what they have right; and the runs
    whose record names a file that is not there, or is another.

    Args:
        pairs: those of `board.pairs()`.
    """
    tests: list[SameImages] = []
    unread: dict[str, Run] = {}
    for first, second, difference, _ in pairs:
        if not difference.few:
            continue
        for task in board.tasks:
            same_seeds = list(runs_of_same_seeds(first.runs, second.runs, task))
            for run, other in same_seeds if len(same_seeds) < LEAST_PAIRS else ():
                if not _of_the_same_images(run, other, board.metric):
                    continue
                mine, theirs = _right(run), _right(other)
                unread |= {each.id: each for each, bits in ((run, mine), (other, theirs)) if bits is None}
                if mine is not None and theirs is not None:
                    counts = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
                    tests.append(SameImages(first, second, task, run.seed, len(mine), *counts, exact_mcnemar(*counts)))
    corrected = holm_corrected([test.p for test in tests])
    return [replace(test, holm=p) for test, p in zip(tests, corrected, strict=True)], list(unread.values())


def only_one_right(run: Run, other: Run, metric: str) -> tuple[int, int] | None:
    """How many test images the first alone has right, and the second alone; None where their files do not say it.

    Args:
        metric: such as `test/accuracy`.
    """
    if not _of_the_same_images(run, other, metric):
        return None
    mine, theirs = _right(run), _right(other)
    if mine is None or theirs is None or len(mine) != len(theirs):
        return None
    return int((mine & ~theirs).sum()), int((theirs & ~mine).sum())


def _of_the_same_images(run: Run, other: Run, metric: str) -> bool:
    """Whether their records say of both which images they have right, by this metric, and these are the same images.

    Runs of one board have the same list of test images, and may have left out damaged ones.
    """
    if run.right is None or other.right is None or metric != f"test/{run.right.metric}":
        return False
    return replace(run.right, sha256="") == replace(other.right, sha256="")


def _right(run: Run) -> np.ndarray | None:
    return None if run.right is None else read_right(run.folder, run.right)
