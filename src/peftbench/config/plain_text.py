"""Values that are plain text, such as `~/photos`, where Hydra's grammar has no place for them: quoted for the user.

What Hydra reads means what Hydra says, and quotes that the user wrote are left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from peftbench.common.home import with_home

_ALWAYS_READ = re.compile(r"[\w./$%*@?|+:-]*", re.ASCII)
_OPENING, _CLOSING = "([{", ")]}"


def quoted(override: str, sweep: bool = False) -> str:
    """The override with quotes around what only quotes let Hydra read, if that is plain text; else as it is.

    A `~` at the start of such a value, or of a member of a list, is the user's home, as it is to a shell. A comma parts
    values, as it does for Hydra.

    Args:
        sweep: whether there may be several values. Elsewhere a comma is text in the name of a file or folder that is
            there.

    Raises:
        UserError: a `~` names the home of a user who is not there.
    """
    key, sign, value = override.partition("=")
    if not sign or override.startswith("~") or _ALWAYS_READ.fullmatch(value):
        return override
    if not sweep and "," in value and os.path.exists(os.path.expanduser(value)):
        text = _in_quotes(key, value)
    elif _reads(override) or not _reads(f"{key}=x"):
        return override
    else:
        text = _members(key, value)
    return f"{key}={text}" if _reads(f"{key}={text}") else override


def value_read(text: str) -> Any:
    """What Hydra reads a value as: a number, true, null, a list or text; None for what it cannot read."""
    return _parser().parse_override(f"x={text}").value() if _reads(f"x={text}") else None


def _members(key: str, value: str) -> str:
    parts = list(_split(value))
    return ",".join(_one(key, part.strip()) for part in parts) if len(parts) > 1 else _one(key, value)


def _one(key: str, value: str) -> str:
    """One value as Hydra reads it; as it is where it is no plain text."""
    if _reads(f"{key}={value}"):
        return value
    text = value.strip()
    if text.startswith("[") and _closing_bracket(text) == len(text) - 1:
        return f"[{_members(key, text[1:-1])}]"
    return value if _is_structure(text) else _in_quotes(key, value)


def _in_quotes(key: str, value: str) -> str:
    """The value with the home in it, in quotes; as it is where Hydra would read another text. Raises UserError."""
    from hydra.core.override_parser.types import Quote, QuotedString

    text = with_home(value, f"{key}={value}")
    shown = QuotedString(text, Quote.single).with_quotes()
    return shown if _reads(f"{key}={shown}") and _parser().parse_override(f"{key}={shown}").value() == text else value


def _is_structure(text: str) -> bool:
    """Whether it begins as quoted text, a list, a mapping or one of Hydra's functions does, and then goes wrong."""
    if text.startswith(("'", '"')) or re.search(r"\$\{[^}]*$", text):
        return True
    if text.startswith(("[", "{")):
        return _closing_bracket(text) in (None, len(text) - 1)
    name = re.match(r"(\w+)\s*\(", text)
    return name is not None and name[1] in _parser().functions.functions


def _closing_bracket(text: str) -> int | None:
    """Where the bracket that the text begins with is closed; None where it is not."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return position
    return None


def _split(value: str) -> Iterator[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    start, depth, quote = 0, 0, ""
    for position, character in enumerate(value):
        if quote:
            quote = "" if character == quote and value[position - 1] != "\\" else quote
        elif character in "'\"" and not value[start:position].strip(" \t[{("):
            quote = character
        elif character == "," and depth <= 0:
            yield value[start:position]
            start = position + 1
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
    yield value[start:]


@cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _reads(override: str) -> bool:
    from hydra.errors import HydraException

    try:
        _parser().parse_override(override)
    except HydraException:
        return False
    return True
