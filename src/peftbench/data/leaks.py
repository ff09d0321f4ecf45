"""What a user should know of images, and groups, that occur several times: in a split, in two, or with two labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.data.label_table import Row
from peftbench.data.layout import ALL

_WORDS = {ALL: "", "train": "training ", "val": "validation ", "test": "test "}
_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


def refuse_two_labels(
    table: Path, root: Path, rows: Sequence[Row], roles: Sequence[str], first: np.ndarray, kind: str
) -> None:
    """Refuses a table that gives one image of a split, or one file of any, two labels.

    Different files with the same bytes may have two labels in two splits, as in some published data sets.

    Args:
        table: where the rows are from.
        root: what their paths are relative to.
        rows: of all splits.
        roles: the split of each row.
        first: int64 (N,), the index of the first row with the same image.
        kind: image or clip.

    Raises:
        UserError: both lines, and how many more there are.
    """
    wrong = []
    seen: dict[tuple[int, str], int] = {}
    for at, copy in enumerate(first.tolist()):
        inside = seen.setdefault((copy, roles[at]), at)
        if rows[inside].label != rows[at].label:
            wrong.append((inside, at))
        elif rows[copy].label != rows[at].label and (root / rows[copy].path).samefile(root / rows[at].path):
            wrong.append((copy, at))
    if wrong:
        one, two = (rows[at] for at in wrong[0])
        same = "" if one.path == two.path else f", which holds the same bytes as {two.path}"
        more = f" (rows that contradict others: {len(wrong):,})" if len(wrong) > 1 else ""
        raise UserError(
            f"{table}:{two.line}: {two.path} is labelled '{two.label}', but line {one.line} labels {one.path} "
            f"'{one.label}'{same}; expected one label for one {kind}{more}."
        )


def notes_of_copies(rows: Sequence[Row], roles: Sequence[str], first: np.ndarray, kind: str) -> Iterator[str]:
    """A sentence for each way in which images occur twice: in one split, in two, or with two labels."""
    where: dict[tuple[int, str], list[int]] = defaultdict(list)  # (image, split) -> rows
    for at, copy in enumerate(first.tolist()):
        where[copy, roles[at]].append(at)
    for role in dict.fromkeys(roles):
        if several := [ats for (_, of), ats in where.items() if of == role and len(ats) > 1]:
            named = " and ".join(dict.fromkeys(rows[at].path for at in several[0][:2]))
            once = "; copies stay in one split, and only training has each of them" if role == ALL else ""
            yield (
                f"more than once: {len(several):,} of the {_WORDS[role]}{kind}s, {sum(map(len, several)):,} times "
                f"together, such as {named}{once}"
            )
    for role, other in _PAIRS:
        if both := [copy for copy, of in where if of == role and (copy, other) in where]:
            named = " and ".join(dict.fromkeys(rows[where[both[0], of][0]].path for of in (role, other)))
            count = sum(len(where[copy, role]) for copy in both)
            too = agreeing(count, f"is a {_WORDS[other]}{kind}", f"are {_WORDS[other]}{kind}s")
            yield f"{count:,} of the {_WORDS[role]}{kind}s {too} too, such as {named}"
    if twice := [at for at, copy in enumerate(first.tolist()) if rows[at].label != rows[copy].label]:
        one, two = rows[first[twice[0]]], rows[twice[0]]
        yield (
            f"{kind}s with the bytes of another that has another label: {len(twice):,}, such as {two.path} "
            f"('{two.label}') and {one.path} ('{one.label}')"
        )


def notes_of_groups(column: str, rows: Sequence[Row], roles: Sequence[str]) -> Iterator[str]:
    """A sentence for each two given splits that share a group."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)  # in their order
    for row, role in zip(rows, roles, strict=True):
        groups[role][row.group] = None
    for role, other in _PAIRS:
        if shared := [group for group in groups[role] if group in groups[other]]:
            yield (
                f"data.group={column}: {plural(len(shared), 'group')} in both the {_WORDS[role]}and the {_WORDS[other]}"
                f"split, such as {shared[0]}"
            )
