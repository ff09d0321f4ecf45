"""Folds of small data sets: every image that is not for the test judges once, by a model that has not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from peftbench.answering.candidates import Candidate
from peftbench.answering.look import SMALL
from peftbench.answering.probes import SHARE, pass_over, reserve_for
from peftbench.answering.search import Search
from peftbench.data.base import Splits

FOLDS = 5
_STEP = "folds"


def choose_folds(search: Search, candidates: Sequence[Candidate]) -> None:
    """Has the search judge by folds where there are few images and time for it with the first backbone of the list.

    Not where the validation images are the user's own, or of a size that the user gave. What was chosen by an earlier
    command stays: figures of one kind do not compare with those of the other.
    """
    looked, state = search.looked, search.state
    images = len(looked.train) + len(looked.val)
    if not looked.cut or images >= SMALL:
        return
    if state.folds == 0:
        first = candidates[0]
        needed = FOLDS * pass_over(search, first, images)
        room = search.clock.has_room(needed, reserve_for(search, first), SHARE)
        state.folds = FOLDS if room and images >= 2 * FOLDS else 1
        if state.folds == 1:
            search.decide(_STEP, f"none, since they would take too much of the time on {first.name}")
    if state.folds > 1:
        search.folds = folds_of(looked.splits, state.folds, search.base.seed)
        search.decide(_STEP, f"{state.folds}, each of about {images // state.folds} images, judge all that is tried")


def folds_of(splits: Splits, count: int, seed: int) -> list[Splits]:
    """The training and validation images dealt out so often, each class as evenly as can be; the names say which.

    Args:
        splits: with validation images.
        count: of folds.
        seed: of the deal.
    """
    assert splits.val is not None
    pool = splits.train + splits.val
    rng = np.random.default_rng(seed)
    plain = pool.labels.dtype.kind == "i" and pool.labels.ndim == 1
    labels = pool.labels if plain else np.zeros(len(pool), dtype=np.int64)
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    fold = np.empty(len(pool), dtype=np.int64)
    fold[order] = np.arange(len(pool)) % count
    return [
        replace(
            splits,
            name=f"{splits.name}-fold-{one + 1}-of-{count}-s{seed}",
            train=pool.take(np.flatnonzero(fold != one)),
            val=pool.take(np.flatnonzero(fold == one)),
            trainval=None,
        )
        for one in range(count)
    ]
