"""Which images a task consists of: the first of each pool, in an order that a hash of their names gives.

TFDS, from which VTAB-1k's lists were drawn, sorts the records of a split by the md5 of the split's name followed by
the record's key (tensorflow_datasets/core/hashing.py and shuffle.py); the shards that it writes are stretches of that
order, so a slice such as `train[:800]` is a set that the keys alone decide. task_adaptation takes `train[:800]`, the
first 200 of the part that it uses for validation, and the whole test part. (TFDS may *read* the images of such a set
in another sequence, where they lie in several shards; only the set counts here.)

`peftbench-v1` is the same with another hash, so that it is neither of one file system's order nor of one library's
random numbers. Neither is stratified, as VTAB-1k's are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from peftbench.common.errors import UserError

TFDS, OURS = "tfds-order", "peftbench-v1"
ROLES = ("train", "val", "test")


class Entry(NamedTuple):
    """One image of a source: the key by which it is ordered, its label, and where its reader finds it."""

    key: str
    label: int
    place: Any


def key_hasher(name: str, split: str) -> Callable[[str], bytes]:
    """The hash of keys by which the order called `name` sorts the records of `split`."""
    start = hashlib.md5(split.encode()) if name == TFDS else hashlib.sha256(f"{name}/{split}/".encode())

    def hashed(key: str) -> bytes:
        digest = start.copy()
        digest.update(key.encode())
        return digest.digest()

    return hashed


def ordered_entries(entries: Sequence[Entry], split: str, name: str) -> list[Entry]:
    """The entries in the order called `name`."""
    hashed = key_hasher(name, split)
    return sorted(entries, key=lambda entry: hashed(entry.key))


def pools_of_roles(
    splits: Mapping[str, Sequence[Entry]], cut: Mapping[str, tuple[str, int, int]], name: str
) -> dict[str, list[Entry]]:
    """The images that each role may be drawn from, in the order called `name`.

    `cut` says for each role the split that its images come from and the stretch of it in percent. Percentages are
    rounded down, as task_adaptation does.
    """
    sorted_: dict[str, list[Entry]] = {}
    pools = {}
    for role, (split, begin, end) in cut.items():
        if split not in sorted_:
            sorted_[split] = ordered_entries(splits[split], split, name)
        whole = sorted_[split]
        pools[role] = whole[begin * len(whole) // 100 : end * len(whole) // 100]
    return pools


def draw_images(
    task: str, pools: Mapping[str, list[Entry]], sizes: tuple[int, int, int | None]
) -> dict[str, list[Entry]]:
    """The first images of each pool, as many as `sizes` says for train, val and test; None is all.

    Raises:
        UserError: a pool is smaller.
    """
    drawn = {}
    for role, size in zip(ROLES, sizes, strict=True):
        if size is not None and len(pools[role]) < size:
            raise UserError(
                f"{task}: the source has {len(pools[role]):,} images to draw {role} from, and {size:,} are to be "
                f"drawn; for a smaller set give train=, val= and test=."
            )
        drawn[role] = pools[role][:size]
    return drawn
