"""The first step: what the images are, and whether they can be learned from; the test set is put aside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from peftbench.answering.time_left import OutOfTime
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.data.base import Split, Splits, split_hash, stratified
from peftbench.data.check.findings import Findings, examine
from peftbench.runs.data_sets import load_splits, targets_of

SMALL = 500
"""Images; a data set with fewer gives a larger share to validation."""
CHECKING = 0.1
"""The share of the time in which images are checked one by one; who has more of them is told so."""


_SKIP = "data.on_error=skip"


@dataclass(frozen=True)
class Looked:
    """The data of an answer.

    Attributes:
        splits: with validation and test images, of which the latter are looked at once, at the very end.
        hash: of all of their images and labels.
        words: overrides that the look added.
        notes: what was found, a sentence each.
        reading: seconds to read an image.
        cut: whether the validation images were cut from the training images here, and are not the user's.
    """

    splits: Splits
    hash: str
    words: tuple[str, ...]
    notes: tuple[str, ...]
    reading: float
    cut: bool = False

    @property
    def train(self) -> Split:
        """To train on."""
        return self.splits.train

    @property
    def val(self) -> Split:
        """To choose by."""
        assert self.splits.val is not None
        return self.splits.val

    @property
    def test(self) -> Split:
        """To judge the choice by, once."""
        assert self.splits.test is not None
        return self.splits.test

    @property
    def images(self) -> int:
        """In all splits."""
        return len(self.train) + len(self.val) + len(self.test)


def sample_of(splits: Splits, most: int, seed: int) -> Splits:
    """The same with so many training images at most, and as many validation images; the name says so."""
    part = part_of(splits, most / len(splits.train), seed)
    if splits.val is None or len(splits.val) <= most:
        return part
    return replace(part, val=_part(splits.val, most / len(splits.val), seed))


def part_of(splits: Splits, share: float, seed: int) -> Splits:
    """The same with a share of the training images, of each class alike where images have one; the name says so."""
    name = f"{splits.name}-part-{share:g}-s{seed}"
    return replace(splits, name=name, train=_part(splits.train, share, seed), trainval=None)


def _part(train: Split, share: float, seed: int) -> Split:
    whole = np.zeros(len(train), dtype=np.int64)
    labels = train.labels if train.labels.dtype.kind == "i" and train.labels.ndim == 1 else whole
    _, taken = stratified(labels, [min(share, 1.0)], seed)
    missing = np.setdiff1d(np.unique(labels), labels[taken])  # of a class too small for its share, the first
    first = [int(np.flatnonzero(labels == label)[0]) for label in missing]
    return train.take(np.sort(np.concatenate([taken, np.array(first, dtype=np.int64)])))


def validation_words(config: Config, words: Sequence[str]) -> tuple[str, ...]:
    """The share of validation images, where the data set cuts them and the user says nothing of it.

    Raises:
        UserError: as `DataSet.load`.
    """
    given = any(word.lstrip("+").startswith("data.val_fraction=") for word in words)
    if given or "val_fraction" not in config.data.options:
        return ()
    splits = load_splits(config)
    images = len(splits.train) + len(splits.val or ())
    return (f"data.val_fraction={0.25 if images < SMALL else 0.15}",)


def look_at_data(config: Config, words: tuple[str, ...], minutes: float) -> Looked:
    """Reads lists, labels and, where there is time for it, every image.

    Args:
        config: of any run on these data.
        words: the overrides that `validation_words` gave.
        minutes: that the answer may take.

    Raises:
        UserError: no validation or test images, one class, or a class with fewer than two images.
    """
    splits = load_splits(config)
    splits.roles("tune")  # which say what is missing, and what would help
    splits.roles("fit")
    assert splits.val is not None
    assert splits.test is not None
    _refuse_few(config, splits)
    notes, cut = list(splits.notes), bool(words)
    sizes = f"{len(splits.train):,} images to train on, {len(splits.val):,} to choose by and {len(splits.test):,}"
    notes.append(f"{sizes} that are put aside to test the answer on, once")
    images = len(splits.train) + len(splits.val) + len(splits.test)
    findings, reading = _examined(config, splits, CHECKING * 60 * minutes)
    if findings is not None:
        notes += [line for line in findings.lines() if line not in notes]
        words = (*words, *_leave_out(config, findings))
    else:
        words = (*words, _SKIP)
        notes.append(
            f"not all images are checked, for want of time: peftbench data check looks at all {images:,}; those that "
            f"cannot be read are left out"
        )
    hash_of_data = split_hash(splits.train, splits.val, splits.test)
    return Looked(splits, hash_of_data, words, tuple(notes), reading, cut)


def _examined(config: Config, splits: Splits, most: float) -> tuple[Findings | None, float]:
    """What a look at every image finds, None where it would take more than so many seconds; seconds of an image."""
    begun, before, last = time.perf_counter(), 0, 0

    def watch(done: int, _: int) -> None:
        nonlocal before, last
        before, last = before + (last if done <= last else 0), done  # of each split it counts anew
        if time.perf_counter() - begun > most:
            raise OutOfTime

    try:
        findings = examine(splits, targets_of(config), config.data.range, watch)
    except OutOfTime:
        findings = None
    return findings, (time.perf_counter() - begun) / max(before + last, 1)


def _refuse_few(config: Config, splits: Splits) -> None:
    """Raises UserError for one class, or one with a single image."""
    labels = splits.train.labels
    if labels.dtype.kind != "i" or labels.ndim != 1 or not splits.classes:
        return
    if len(splits.classes) < 2:
        raise UserError(
            f"data={config.data.name}: has the one class '{splits.classes[0]}'; expected two or more to tell apart."
        )
    every = [split.labels for split in (splits.train, splits.val, splits.test) if split is not None]
    counts = np.bincount(np.concatenate(every), minlength=len(splits.classes))
    few = np.flatnonzero(counts < 2)
    if len(few):
        name, count = splits.classes[few[0]], int(counts[few[0]])
        raise UserError(
            f"data={config.data.name}: class '{name}' has {plural(count, 'image')}; expected two or more of each "
            f"class, one to learn from and one to judge by; add some, or leave the class out."
        )


def _leave_out(config: Config, findings: Findings) -> tuple[str, ...]:
    """The override that leaves damaged images out. Raises UserError where none can be read."""
    broken = {role: len(images) for role, images in findings.broken.items() if images}
    for role, count in broken.items():
        if count == len(findings.splits[role]):
            first = next(iter(findings.broken[role]))
            raise UserError(
                f"data={config.data.name}: none of the {count:,} {role} images can be read, such as "
                f"{findings.splits[role].names[first]} ({findings.broken[role][first]}); expected images."
            )
    return (_SKIP,) if broken else ()
