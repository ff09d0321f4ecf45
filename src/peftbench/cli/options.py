"""Words of the verbs that read records: places, and options as key=value with or without dashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from peftbench.common.errors import UserError, nearest


def parse(
    verb: str, arguments: Sequence[str], known: Mapping[str, Sequence[str] | None]
) -> tuple[list[Path], dict[str, str]]:
    """The places and the options after a verb. `known`: each option's choices, or None where anything goes.

    Raises:
        UserError: an unknown option or choice, with the nearest right one.
    """
    places, options = [], {}
    for word in arguments[arguments.index(verb) + 1 :]:
        key, sign, value = word.partition("=")
        key = key.removeprefix("--").replace("-", "_")
        if not sign and not word.startswith("-"):
            places.append(Path(word).expanduser())
            continue
        if key not in known:
            if sign and Path(word).exists():
                places.append(Path(word))
                continue
            raise UserError(f"{verb} {word}: there is no such option{nearest(key, known)}; known: {', '.join(known)}.")
        choices = known[key]
        if not sign and choices == BOOLEAN:
            value = "true"
        if not value:
            raise UserError(f"{verb} {word}: needs a value, such as {key}={(choices or ['…'])[0]}.")
        if choices is not None and value not in choices:
            raise UserError(f"{key}={value}: expected {' or '.join(choices)}{nearest(value, choices)}.")
        options[key] = value
    return places or [Path("outputs")], options


BOOLEAN = ("true", "false")
