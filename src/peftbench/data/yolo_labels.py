"""The label files of YOLO's form: a line an object, in shares of its image (docs.ultralytics.com/datasets/detect)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.text_files import text_of

_SLACK = 0.01  # by which tools overshoot the border of an image
_BOX = "class, centre x, centre y, width, height"


class Label(NamedTuple):
    """One object.

    Attributes:
        label: the index of its class.
        box: x1 y1 x2 y2 in shares of the image; it may reach beyond the image.
        area: of its outline, as a share of the image; None where the file gives a box.
        outline: x, y, … in shares of the image; empty where the file gives a box.
    """

    label: int
    box: tuple[float, float, float, float]
    area: float | None = None
    outline: tuple[float, ...] = ()


def read_label_file(file: Path, labels: Mapping[int, int], points: int = 0) -> tuple[list[Label], int]:
    """(the objects of a file, each once; how many lines repeat another).

    A line holds five numbers, a class and a box, or a class and an outline of three points or more, whose box is
    taken. An empty file is that of an image without objects.

    Args:
        file: the label file.
        labels: the number of a class in the file -> its index.
        points: how many numbers of key points follow each box; they are passed over.

    Raises:
        UserError: no text in UTF-8, or a line that is no label; the line is named.
    """
    text = text_of(file)
    found: dict[Label, None] = {}
    lines = 0
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.split():
            found[_label(f"{file}:{number}", words, labels, points)] = None
            lines += 1
    return list(found), lines - len(found)


def _label(where: str, words: list[str], labels: Mapping[int, int], points: int) -> Label:
    numbers = [_number(where, word) for word in words]
    _check_count(where, len(numbers), points)
    known = labels.get(int(numbers[0])) if numbers[0] == int(numbers[0]) else None
    if known is None:
        raise UserError(
            f"{where}: its class is {shortened(words[0], 30)}; expected the number of one of the "
            f"{plural(len(labels), 'class')}, {min(labels)} to {max(labels)}."
        )
    shares = numbers[1:5] if points else numbers[1:]
    for word, share in zip(words[1:], shares, strict=False):
        if not -_SLACK <= share <= 1 + _SLACK:
            raise UserError(
                f"{where}: {shortened(word, 30)} is outside of 0 to 1; expected {_BOX} in shares of the image's width "
                f"and height, not in pixels."
            )
    if len(shares) == 4:
        x, y, width, height = shares
        return Label(known, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    across, down = shares[::2], shares[1::2]
    after = zip(across, down, across[1:] + across[:1], down[1:] + down[:1], strict=True)
    area = abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in after)) / 2
    return Label(known, (min(across), min(down), max(across), max(down)), area, tuple(shares))


def _check_count(where: str, count: int, points: int) -> None:
    if count == 5 + points or (not points and count >= 7 and count % 2):
        return
    if points:
        raise UserError(
            f"{where}: holds {plural(count, 'number')}; expected {5 + points}: {_BOX}, and {points} of key points, as "
            f"kpt_shape says."
        )
    why = ""
    if count == 6:
        why = " (a sixth number is a confidence, which predictions have and labels have not: take it out)"
    elif count > 6:
        why = " (the points of an outline are pairs)"
    raise UserError(
        f"{where}: holds {plural(count, 'number')}; expected five, {_BOX}, or a class and three points or more{why}."
    )


def _number(where: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in word:
        raise UserError(f"{where}: '{shortened(word, 30)}' is no finite number; expected {_BOX}.")
    return number
