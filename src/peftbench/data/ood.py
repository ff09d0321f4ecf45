"""Shifted test sets of a run: `data.ood`, a list of folders and of built-in corruptions."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.amounts import agreeing
from peftbench.common.errors import UserError, nearest
from peftbench.config import Config
from peftbench.data.base import Split, Splits, split_hash
from peftbench.data.class_folders import read_class_folders
from peftbench.data.copies import first_copies
from peftbench.data.corruptions import CORRUPTIONS, SEVERITIES, Corrupted
from peftbench.data.folder import Folder
from peftbench.data.heif import require_heif
from peftbench.data.images import Images
from peftbench.data.layout import ALL as EVERY
from peftbench.data.layout import Layout, role_of
from peftbench.data.listing import folders_in
from peftbench.data.loading import BatchOrder, Loaders
from peftbench.data.read_ahead import Loader
from peftbench.data.readers import cores, reading
from peftbench.data.trial import first_of_trial
from peftbench.data.worker_handover import whole_batch

ALL = "corruptions"
Shifts = dict[str, Split | tuple[str, int]]


def read_shifts(config: Config, splits: Splits, tell: Callable[[str], None] = lambda text: None) -> Shifts:
    """Name -> a folder's images, or a corruption and its severity, in the order in which `data.ood` names them.

    First come the shifted sets that the data set has by itself; a run that leaves test images alone has none of these.

    Raises:
        UserError: a data set of clips, an entry that is neither, a severity that there is not, a folder without images
            or with classes that the data set has not, one where images have no single class each, or two sets of one
            name.
    """
    if config.data.ood and splits.train.frames is not None:
        raise UserError(f"data.ood: {splits.name} holds clips, and only images can be shifted so far; leave it out.")
    named: Shifts = {}
    if config.data.stage != "tune":
        named |= {name: first_of_trial(split, config) for name, split in splits.shifted.items()}
    for entry in config.data.ood:
        corruptions = named_corruptions(entry)
        if both := splits.shifted.keys() & {entry, *corruptions, *(kind for kind, _ in corruptions.values())}:
            raise UserError(
                f"data.ood={entry}: {splits.name} has a shifted test set of its own that is called {min(both)}; leave "
                f"it out, or give that set another name."
            )
        if corruptions:
            named |= corruptions
        elif splits.train.labels.dtype.kind in "fO":
            raise UserError(
                f"data.ood={entry}: is no corruption{nearest(entry, [*CORRUPTIONS, ALL])}, and a folder of classes "
                f"does not go with {splits.name}, whose images have several labels, numbers, boxes or masks; give "
                f"corruptions ({', '.join(CORRUPTIONS)})."
            )
        else:
            named[entry] = first_of_trial(_folder(entry, splits, tell), config)
    return named


def named_corruptions(entry: str, key: str = "data.ood") -> dict[str, tuple[str, int]]:
    """Name -> (corruption, severity) of what an entry such as noise, noise:3 or corruptions stands for, if anything.

    Raises:
        UserError: a severity that there is not; `key` is that of the entry.
    """
    name, colon, severity = entry.partition(":")
    if name != ALL and name not in CORRUPTIONS:
        return {}
    kinds = CORRUPTIONS if name == ALL else (name,)
    levels = (_severity(entry, severity, key),) if colon else SEVERITIES
    return {f"{kind}:{level}": (kind, level) for kind in kinds for level in levels}


def stamps_of_shifts(shifts: Shifts) -> dict[str, Any]:
    """What a figure on a folder needs to be compared: images, classes and their hash."""
    return {
        name: {"images": len(shift), "classes": len(np.unique(shift.labels)), "hash": split_hash(shift)}
        for name, shift in shifts.items()
        if isinstance(shift, Split)
    }


def shifted_loaders(shifts: Shifts, data: Loaders, config: Config) -> dict[str, Loader]:
    """Loaders of the shifted sets, shared out as `data` is. Corruptions are of the run's own test images."""
    if not shifts:
        return {}
    assert data.test is not None
    test: Images = data.test.dataset  # type: ignore[assignment]
    share, limit = data.order.share, config.trainer.max_batches
    batch_size = config.data.eval_batch_size * share.processes
    loaders: dict[str, Loader] = {}
    for name, shift in shifts.items():
        if isinstance(shift, Split):
            plain = test.transform.plain()
            images: Any = Images(shift, plain, config.data.on_error, config.data.memory_gb, lambda done, of: None)
        else:
            images = Corrupted(test, *shift)
        order = BatchOrder(len(images), batch_size, config.seed, False, share, limit)
        readers = reading(
            config.data.workers,
            images=order.images // share.processes,
            batch_bytes=config.data.eval_batch_size * math.prod(test.shape),
            from_memory=test.fits,
            again=False,
            share=max(cores(config.trainer.threads) // config.trainer.devices, 1),
        )
        loaders[name] = Loader(images, batch_sampler=order, collate_fn=whole_batch, **readers)
    return loaders


def average_over_shifts(results: dict[str, dict[str, float]], metric: str) -> dict[str, float]:
    """`ood/<set>/<metric>` of every set, `ood/<corruption>/accuracy` over its severities, `ood/accuracy` over all.

    In the place of `accuracy` stands the `metric` that the task is judged by.

    The last is the mean of the folders and corruptions, each of which counts once.
    """
    figures = {f"ood/{name}/{each}": v for name, row in results.items() for each, v in row.items()}
    kinds: dict[str, list[float]] = {}
    for name, row in results.items():
        kind = name.partition(":")[0]
        if metric in row:
            kinds.setdefault(kind if kind in CORRUPTIONS else name, []).append(row[metric])
    means = {kind: sum(v) / len(v) for kind, v in kinds.items()}
    figures |= {f"ood/{kind}/{metric}": v for kind, v in means.items()}
    if means:
        figures[f"ood/{metric}"] = sum(means.values()) / len(means)
    return figures


def _severity(entry: str, text: str, key: str) -> int:
    if text not in map(str, SEVERITIES):
        raise UserError(f"{key}={entry}: expected a severity from 1 to 5, such as {entry.partition(':')[0]}:3.")
    return int(text)


def _folder(entry: str, splits: Splits, tell: Callable[[str], None]) -> Split:
    root = Path(os.path.expanduser(entry))
    if not root.is_dir():
        raise UserError(
            f"data.ood={entry}: is neither a folder nor a corruption{nearest(entry, [*CORRUPTIONS, ALL])}; there are "
            f"{', '.join(CORRUPTIONS)} (all: {ALL}), with a severity as in noise:3."
        )
    root = next((folder for folder in folders_in(root) if role_of(folder.name) == "test"), root)
    try:
        rows_of, notes = read_class_folders(root, Layout(root, {EVERY: root}), Folder.kind)
    except UserError as problem:
        raise UserError(f"data.ood={entry}: {problem}") from None
    rows = rows_of[EVERY]
    for note in notes:
        tell(f"data.ood={entry}: {note}")
    number = {name: i for i, name in enumerate(splits.classes)}
    for row in rows:
        if row.label not in number:
            raise UserError(
                f"data.ood={entry}: {row.path} is of class '{row.label}', which {splits.name} has not"
                f"{nearest(row.label, number)}; expected folders named as its {len(number)} classes."
            )
    files = [root / row.path for row in rows]
    require_heif(files)
    trained = [path for path in splits.train.images if isinstance(path, Path)]
    copies = first_copies([*trained, *files])[len(trained) :]
    if seen := [row.path for row, copy in zip(rows, copies.tolist(), strict=True) if copy < len(trained)]:
        too = agreeing(len(seen), "is a training image", "are training images")
        tell(f"data.ood={entry}: {len(seen):,} of the images {too} too, such as {seen[0]}")
    return Folder(str(root)).split(root, rows, np.array([number[row.label] for row in rows], dtype=np.int64))
