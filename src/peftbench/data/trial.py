"""A trial of a few batches (`trainer.trial`, as `debug=smoke` sets it): the images that these read, and no others."""

from __future__ import annotations

import numpy as np

from peftbench.config import Config
from peftbench.data.base import Split

Roles = tuple[Split, Split | None, Split | None]


def images_of_trial(roles: Roles, config: Config) -> Roles:
    """(train, val, test) with as many images as `trainer.max_batches` batches hold; all of them where that is not set.

    Training images are drawn, since a list is often in the order of the classes; the draw is the same for every seed.
    Those to evaluate on are the first, as an evaluation of so many batches reads them.
    """
    batches = config.trainer.max_batches
    if not config.trainer.trial or batches is None:
        return roles
    train, val, test = roles
    count = min(batches * config.data.batch_size, len(train))
    drawn = np.sort(np.random.default_rng(0).permutation(len(train))[:count])
    rest = [None if split is None else first_of_trial(split, config) for split in (val, test)]
    return train.take(drawn), rest[0], rest[1]


def first_of_trial(split: Split, config: Config) -> Split:
    """The images of a split to evaluate on that a trial reads; all where this is none."""
    batches, processes = config.trainer.max_batches, config.trainer.devices * config.trainer.nodes
    if not config.trainer.trial or batches is None:
        return split
    return split.take(np.arange(min(batches * config.data.eval_batch_size * processes, len(split))))
