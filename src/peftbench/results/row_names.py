"""What the rows of a table are called: the method, and of its settings what tells its rows apart."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase

from peftbench.results.settings import Setting

LONGEST = 32  # characters of a name in a table; longer ones are shortened, and told in full below
_PROTOCOL, _TIMES = " protocol", " times"  # no dotted keys


@dataclass(frozen=True)
class Trait:
    """What a row may be told apart by from others of its method."""

    method: str
    setting: Setting
    tuned: str = ""
    times: str = ""


@dataclass(frozen=True)
class Name:
    """What a row is called, `short` in tables and `full` where there is room; they are the same where that fits."""

    short: str
    full: str


def names_of(rows: Sequence[Trait]) -> list[Name]:
    """A name for each row, all different where the rows are.

    One that is too long keeps as few of the differing settings as tell its method's rows apart, and an ellipsis; where
    that is too long as well, a letter stands for them: `lora a`.
    """
    by_method: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_method[row.method].append(i)
    short, full = [""] * len(rows), [""] * len(rows)
    for method, indices in by_method.items():
        parts = _differing_parts([rows[i] for i in indices])
        whole = [_name(method, of_row, of_row) for of_row in parts]
        shown = whole if _fit(whole) else _shortened(cut(method), [rows[i] for i in indices], parts)
        for i, name, in_full in zip(indices, shown, whole, strict=True):
            short[i], full[i] = name, in_full
    return [Name(*both) for both in zip(_unique(short, rows), full, strict=True)]


def cut(text: str) -> str:
    """The text, without its middle where it is longer than a name may be."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"


def _differing_parts(rows: Sequence[Trait]) -> list[dict[str, str]]:
    """For each row what names it, by key: settings whose values differ, then its protocol and kind of times."""
    settings = [dict(row.setting) for row in rows]
    keys = {key for setting in settings for key in setting}
    keys = {key for key in keys if len({setting.get(key, "") for setting in settings}) > 1}
    endings = Counter(key.rpartition(".")[2] for key in keys)
    called = {key: end if endings[end := key.rpartition(".")[2]] == 1 else key for key in keys}
    protocols_differ = len({row.tuned for row in rows}) > 1
    times_differ = len({row.times for row in rows}) > 1
    parts = []
    for row, setting in zip(rows, settings, strict=True):
        of_row = {key: f"{called[key]}={_plain(setting[key])}" for key in sorted(keys) if key in setting}
        if protocols_differ and row.tuned:
            of_row[_PROTOCOL] = row.tuned.partition(" (")[0]
        if times_differ and row.times:
            of_row[_TIMES] = row.times
        parts.append(of_row)
    return parts


def plain_setting(key: str, value: str) -> str:
    """`lr=0.01`; of a setting, whose value is JSON."""
    return f"{key.rpartition('.')[2]}={_plain(value)}"


def _plain(value: str) -> str:
    content = json.loads(value)
    if isinstance(content, float):
        return f"{content:g}"
    return value if content is None or isinstance(content, bool) else str(content)  # null, true, false


def _name(method: str, parts: Mapping[str, str], whole: Mapping[str, str]) -> str:
    words = [*parts.values(), *(["…"] if len(parts) < len(whole) else [])]
    return f"{method} {', '.join(words)}" if words else method


def _fit(names: Sequence[str]) -> bool:
    return all(len(name) <= LONGEST for name in names)


def _shortened(method: str, rows: Sequence[Trait], parts: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of one method's rows by few of their parts, or by a letter in the order of their settings."""
    keys = _telling_keys(parts)
    few = [_name(method, {k: v for k, v in of_row.items() if k in keys}, of_row) for of_row in parts]
    if _fit(few):
        return few
    if len(rows) == 1:
        return [method]
    order = sorted(range(len(rows)), key=lambda i: _order(rows[i]))
    letters = dict(zip(order, _letters(), strict=False))
    return [f"{method} {letters[i]}" for i in range(len(rows))]


def _telling_keys(parts: Sequence[Mapping[str, str]]) -> set[str]:
    """A few keys that tell the rows apart as well as all do: at each step the one that parts most rows."""
    keys = sorted({key for of_row in parts for key in of_row})
    chosen: list[str] = []

    def groups(among: Sequence[str]) -> int:
        return len({tuple(of_row.get(key) for key in among) for of_row in parts})

    def length(key: str) -> int:
        return max(len(of_row.get(key, "")) for of_row in parts)

    while groups(chosen) < groups(keys):
        chosen.append(min(set(keys) - set(chosen), key=lambda key: (-groups([*chosen, key]), length(key), key)))
    return set(chosen)


def _letters() -> Iterator[str]:
    """a to z, then aa, ab and so on."""
    length = 1
    while True:
        yield from map("".join, product(ascii_lowercase, repeat=length))
        length += 1


def _unique(names: Sequence[str], rows: Sequence[Trait]) -> list[str]:
    """Rows that would have one name, such as methods that were cut to the same, get a letter each."""
    alike: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(rows)), key=lambda i: _order(rows[i])):
        alike[names[i]].append(i)
    unique = list(names)
    for name, indices in alike.items():
        if len(indices) > 1:
            for i, letter in zip(indices, _letters(), strict=False):
                unique[i] = f"{name} {letter}"
    return unique


def _order(row: Trait) -> tuple[str, Setting, str, str]:
    return row.method, row.setting, row.tuned, row.times
