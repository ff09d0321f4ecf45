"""The classes of a data set in groups, which are learned one after the other (`data.class_groups`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from peftbench.common.errors import UserError, nearest
from peftbench.config import Data
from peftbench.data.base import Split, Splits


def classes_in_groups(classes: Sequence[str], data: Data) -> list[list[int]]:
    """The indices of the classes in each group: as they are named, or drawn with `data.class_seed` in near equal parts.

    Raises:
        UserError: more groups than there are pairs of classes; or names that are no classes, named twice or left out.
    """
    wanted = data.class_groups
    if isinstance(wanted, int):
        if wanted > len(classes) // 2:
            raise UserError(
                f"data.class_groups={wanted}: data={data.name} has {len(classes)} classes, and a group needs two; "
                f"expected 2 to {len(classes) // 2}."
            )
        order = np.random.default_rng(data.class_seed).permutation(len(classes))
        return [part.tolist() for part in np.array_split(order, wanted)]
    number = {name: i for i, name in enumerate(classes)}
    groups: list[list[int]] = []
    for named in wanted or ():
        for name in named:
            if name not in number:
                raise UserError(f"data.class_groups: '{name}' is no class of data={data.name}{nearest(name, number)}.")
            if any(number[name] in group for group in groups):
                raise UserError(f"data.class_groups: names '{name}' twice; expected each class in one group.")
        groups.append(list(dict.fromkeys(number[name] for name in named)))
        if len(groups[-1]) < 2:
            raise UserError(f"data.class_groups: group {len(groups)} is {list(named)}; expected two classes or more.")
    if left := [name for name in classes if not any(number[name] in group for group in groups)]:
        raise UserError(f"data.class_groups: leaves out '{left[0]}'; expected each of the {len(classes)} classes.")
    return groups


def group_of_classes(splits: Splits, data: Data) -> Splits:
    """What a run of one group learns and is tested on; the same splits where `data.class_group` names none.

    It trains on the images of its group, and on `data.replay` of each class of the groups before; which these are does
    not depend on the group. It validates on its group (with `replay=all` on all so far), and is tested on the classes
    that its head tells apart, which are in the order in which they were learned.

    Raises:
        UserError: as `classes_in_groups`, or a group without images to train on or to test.
    """
    if data.class_groups is None or data.class_group is None:
        return splits
    groups, at = classes_in_groups(splits.classes, data), data.class_group - 1
    told = groups[: at + 1] if data.class_scope == "seen" else [groups[at]]
    order = [index for group in told for index in group]
    number = np.full(len(splits.classes), -1)
    number[order] = np.arange(len(order))

    def part(split: Split | None, classes: Sequence[int], kept: np.ndarray | None = None) -> Split | None:
        if split is None:
            return None
        chosen = np.isin(split.labels, classes)
        if kept is not None:
            chosen[kept] = True
        taken = split.take(np.flatnonzero(chosen))
        return replace(taken, labels=number[taken.labels]) if len(taken) else None

    old = [index for group in told[:-1] for index in group]
    learned = order if data.replay == "all" else groups[at]
    train = part(splits.train, learned, _replayed(splits.train, old, data))
    trainval = splits.trainval and part(splits.trainval, learned, _replayed(splits.trainval, old, data))
    name = f"data.class_group={data.class_group}"
    if train is None:
        raise UserError(f"{name}: {splits.name} has no image to train on of {_named(splits, groups[at])}.")
    test = part(splits.test, order)
    if splits.test is not None:
        for number_of, group in enumerate(told, start=1):
            if part(splits.test, group) is None:
                raise UserError(
                    f"data.class_groups={data.groups}: {splits.name} has no image to test of "
                    f"{_named(splits, group)}, group {number_of}; give other groups (data.class_seed)."
                )
    shifted = {key: cut for key, split in splits.shifted.items() if (cut := part(split, order)) is not None}
    base, at_sign, lists = splits.name.partition("@")
    first = 1 if data.class_scope == "seen" else data.class_group
    return replace(
        splits,
        name=f"{base}-group-{data.class_group}-of-{data.groups}{at_sign}{lists}",
        classes=tuple(splits.classes[index] for index in order),
        train=train,
        val=part(splits.val, learned),
        test=test,
        trainval=trainval,
        shifted=shifted,
        groups=tuple(first + i for i, group in enumerate(told) for _ in group),
    )


def _replayed(split: Split, classes: Sequence[int], data: Data) -> np.ndarray:
    """The images that are kept of classes that were learned before, int64 (n,): drawn for each class by itself."""
    if not data.replay or data.replay == "all":
        return np.zeros(0, dtype=np.int64)
    kept = []
    for index in classes:
        members = np.flatnonzero(split.labels == index)
        kept.append(np.random.default_rng([data.class_seed, index]).permutation(members)[: data.replay])
    return np.concatenate([np.zeros(0, dtype=np.int64), *kept])


def _named(splits: Splits, group: Sequence[int]) -> str:
    names = ", ".join(splits.classes[index] for index in group[:3])
    return names + (", …" if len(group) > 3 else "")
