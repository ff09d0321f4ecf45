"""The known name that a mistyped or foreign one most likely means; none where none is near."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Meant = Mapping[str, tuple[str, ...]]
"""A word of other tools -> what it is here, the likeliest first; nothing where there is no such thing here."""

_SHORT = 5  # letters: people seldom mistype the first of so few
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SPOTS = {letter: (x, y) for y, row in enumerate(_ROWS) for x, letter in enumerate(row)}
_SEPARATORS = re.compile(r"[_./:\s-]+")


def nearest_name(word: str, known: Iterable[str], meant: Meant | None = None, complete: bool = False) -> str | None:
    """The known name nearest to a word.

    In this order: the same but for case and separators; what `meant` says; the fewest letters wrong, missing, too many
    or exchanged with their neighbours, of equally many those nearest on a keyboard; a name that begins or ends so.

    Args:
        complete: whether `known` is all there is. Elsewhere resnet34 is a model that is not there, and no resnet50
            mistyped.
    """
    names, plain = list(dict.fromkeys(known)), plainly(word)
    same = [name for name in names if _squeezed(name) == _squeezed(plain)]
    if same or not _squeezed(plain):
        return same[0] if same else None
    if meant is not None and plain in meant:
        return next((name for name in meant[plain] if name in names), None)
    limit = 1 + (len(plain) > 6) + (len(plain) > 12)
    near = []
    for place, name in enumerate(names):
        other = plainly(name)
        if abs(len(other) - len(plain)) > limit or (steps := distance(plain, other)) > limit:
            continue
        if _may_be_a_slip(plain, other, complete):
            near.append((steps, other[0] != plain[0], _reach(plain, other), place, name))
    if near:
        return min(near)[-1]
    parts = _SEPARATORS.split(plain)
    extended = [name for name in names if len(plain) > 2 and plainly(name).startswith(plain)]
    ending = [name for name in names if len(plain) > 1 and _SEPARATORS.split(plainly(name))[-len(parts) :] == parts]
    return min([*ending, *extended], key=len, default=None)


def distance(first: str, second: str) -> int:
    """How many letters to put in, take out, replace or exchange with their neighbours (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(second) + 1))
    for i, a in enumerate(first):
        now = [i + 1]
        for j, b in enumerate(second):
            now.append(min(last[j + 1] + 1, now[j] + 1, last[j] + (a != b)))
            if i and j and a == second[j - 1] and first[i - 1] == b:
                now[-1] = min(now[-1], before[j - 1] + 1)
        before, last = last, now
    return last[-1]


def plainly(word: str) -> str:
    """In small letters, with underscores for dashes."""
    return word.strip().lower().replace("-", "_")


def _squeezed(word: str) -> str:
    return _SEPARATORS.sub("", plainly(word))


def _may_be_a_slip(word: str, name: str, complete: bool) -> bool:
    """Whether a name so near is likely meant: another number, size or initial is another thing."""
    ours, theirs = _SEPARATORS.split(word), _SEPARATORS.split(name)
    differing = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b]
    if not complete:
        numbers = [re.findall(r"\d+", text) for text in (word, name)]
        if all(numbers) and numbers[0] != numbers[1]:
            return False
        if len(ours) == len(theirs) > 1 and all(len(a) == len(b) == 1 for a, b in differing):
            return False
    return all(_alike(a, b) for a, b in differing)


def _reach(word: str, name: str) -> int:
    """How far apart on a keyboard the letters are that differ, of words of one length; of others 0."""
    pairs = zip(word, name, strict=True) if len(word) == len(name) else ()
    spots = [(_SPOTS[a], _SPOTS[b]) for a, b in pairs if a != b and a in _SPOTS and b in _SPOTS]
    return sum(abs(x - u) + abs(y - v) for (x, y), (u, v) in spots)


def _alike(word: str, name: str) -> bool:
    """Whether a short word keeps its first letter, and one of three letters all of them, in whatever order."""
    if not word or not name or len(word) > _SHORT:
        return True
    if len(word) == len(name) <= 3:
        return sorted(word) == sorted(name)
    return word[0] == name[0] or word[:2] == name[1::-1] or word == name[1:]
