"""What a board is called in the user's words, and in what it differs from others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from peftbench.results.board import Board
from peftbench.results.settings import OWN, Setting
from peftbench.results.summary import Run

_NAMED = 3  # tasks of another split that are named
_TELLING = ("weights", "input", "trained on", "split", "normalisation", "fingerprint")  # the plainest first


def set_words(groups: Sequence[Sequence[Board]]) -> None:
    """Names the boards of each group by their backbone, as the user does, and adds what tells equal names apart."""
    by_name: dict[str, list[Sequence[Board]]] = defaultdict(list)
    for group in groups:
        by_name[_backbone(group)].append(group)
    for name, alike in by_name.items():
        bases = [dict(group[0].basis) for group in alike]
        kinds = Counter((basis["task"], basis["data"]) for basis in bases)  # a title tells these apart anyway
        for group, basis in zip(alike, bases, strict=True):
            kind = (basis["task"], basis["data"])
            others = [b for b in bases if b is not basis and (b["task"], b["data"]) == kind] if kinds[kind] > 1 else []
            words = _telling(basis, others)
            for board in group:
                board.words = f"{name} ({', '.join(words)})" if words else name


def _backbone(group: Sequence[Board]) -> str:
    """As the user names it; the name that most runs have."""
    return Counter(run.backbone for run in _runs(group)).most_common(1)[0][0]


def _telling(basis: dict[str, str], others: Sequence[dict[str, str]]) -> list[str]:
    """A few words that tell this basis from each of the others; fewer where only their splits' hashes differ."""
    words = []
    for key in _TELLING:
        left = [other for other in others if other[key] == basis[key]]
        if len(left) < len(others):
            words.append(in_words(key, basis[key]))
            others = left
    return words


def in_words(key: str, value: str) -> str:
    """A part of a basis as a heading has it."""
    if key in ("input", "normalisation"):
        return value
    if key == "split" and value == OWN:
        return "its own split"
    return f"{key} {value}"


def reason_apart(group: Sequence[Board], before: Sequence[Sequence[Board]]) -> str:
    """Why these boards do not stand with those of an earlier group that differ least from them."""
    mine: Setting = group[0].basis

    def differing(other: Sequence[Board]) -> list[str]:
        other_basis = dict(other[0].basis)
        return [key for key, value in mine if other_basis[key] != value]

    nearest = min(before, key=lambda other: len(differing(other)))
    keys = differing(nearest)
    if not keys:
        return f"another split of the same task ({_other_splits(group, nearest)})"
    basis, other_basis = dict(mine), dict(nearest[0].basis)
    if "backbone" in keys:
        name, other_name = _backbone(group), _backbone(nearest)
        if name == other_name:
            name, other_name = basis["backbone"], other_basis["backbone"]
        return f"another backbone ({name}, not {other_name})"
    if keys == ["fingerprint"]:
        my_weights, other_weights = basis["fingerprint"], other_basis["fingerprint"]
        return f"other weights under the same name (fingerprint {my_weights}, not {other_weights})"
    return "; ".join(f"{key}: {basis[key]}, not {other_basis[key]}" for key in keys if key != "fingerprint")


def _other_splits(group: Sequence[Board], nearest: Sequence[Board]) -> str:
    """`digits: digits (hash), not digits (hash)`, for some of the tasks."""
    splits = {run.task: run.split for run in _runs(group)}
    nearest_splits = {run.task: run.split for run in _runs(nearest)}
    shared = [f"{t}: {split}, not {nearest_splits[t]}" for t, split in splits.items() if t in nearest_splits]
    named = "; ".join(shared[:_NAMED])
    return f"{named}; …" if len(shared) > _NAMED else named


def _runs(group: Sequence[Board]) -> Iterator[Run]:
    for board in group:
        yield from board.all_runs()
