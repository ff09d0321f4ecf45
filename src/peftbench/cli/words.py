"""The `key=value` words of the verbs that need no composing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.common.errors import UserError, nearest
from peftbench.config import CONFIGS
from peftbench.config.groups import roots

NEEDED = object()
_TRUTH = {"true": True, "false": False}


def given(arguments: Sequence[str], verb: str, known: Mapping[str, Any], usage: str) -> dict[str, Any]:
    """The values of `known` keys, of the type of their defaults; `NEEDED` stands for a string that must be given.

    Also `config_dir`, of `--config-dir DIR`, or None.

    Raises:
        UserError: an unknown or a missing key, or a value of another type.
    """
    own = [folder for folder in roots(arguments) if folder != CONFIGS]
    found: dict[str, Any] = {"config_dir": own[0] if own else None}
    words = list(arguments[arguments.index(verb) + 1 :])
    while words:
        word = words.pop(0)
        if word in ("--config-dir", "-cd"):
            del words[:1]
            continue
        if word.startswith("--config-dir="):
            continue
        key, sign, value = word.partition("=")
        if not sign or key not in known:
            raise UserError(f"{verb} {word}: there is no such key{nearest(key, known)}; {usage}.")
        found[key] = _value(key, value, known[key])
    for key, default in known.items():
        if default is NEEDED and not found.get(key):
            raise UserError(f"{verb}: needs {key}=…; {usage}.")
        found.setdefault(key, default)
    return found


def _value(key: str, value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() not in _TRUTH:
            raise UserError(f"{key}={value}: expected true or false.")
        return _TRUTH[value.lower()]
    if isinstance(default, int):
        try:
            return int(value)
        except ValueError:
            raise UserError(f"{key}={value}: expected a whole number.") from None
    if isinstance(default, float):
        try:
            return float(value)
        except ValueError:
            raise UserError(f"{key}={value}: expected a number.") from None
    return value
