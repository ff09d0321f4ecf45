"""One section of a config, checked against its schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from peftbench.common.errors import UserError, nearest, suggested
from peftbench.common.near_names import plainly
from peftbench.common.other_words import KEYS
from peftbench.config.messages import refuse_unreadable, section_mistake, shown
from peftbench.config.near_keys import near_key


def mapping_of(values: Any, section: str) -> Mapping[str, Any]:
    """The values of a section. Raises UserError where they are no mapping."""
    if not isinstance(values, Mapping):
        raise UserError(
            f"{section}={shown(values)}: expected a mapping of keys, or the name of a file in configs/{section}/."
        )
    return values


def refuse_unknown_keys(keys: Iterable[Any], known: Iterable[str], prefix: str, others: Iterable[str] = ()) -> None:
    """Raises UserError for the first key that is not known.

    Args:
        prefix: the section with a dot, or empty.
        others: keys elsewhere, with their sections, which may be meant.
    """
    known = list(known)
    for key in keys:
        if key not in known:
            hint = _hint(str(key), known, others)
            raise UserError(f"{prefix}{key}: there is no such key{hint}; known here: {', '.join(sorted(known))}.")


def _hint(key: str, known: Sequence[str], others: Iterable[str]) -> str:
    """The nearest key of the section, or else one of another section."""
    elsewhere = near_key(key, others) or next(iter(KEYS.get(plainly(key), ())), None)
    return nearest(key, known) or suggested(elsewhere)


def checked_section(schema: Any, values: Mapping[str, Any], section: str) -> Any:
    """An instance of `schema`, a dataclass or a pydantic model, made of a section's values.

    Strict, over JSON: a list may be a tuple and 1 a float, but 'abc' or true is no number.

    Raises:
        UserError: one sentence that names the key, what was found and what was expected.
    """
    known = [f.name for f in fields(schema)] if is_dataclass(schema) else list(schema.model_fields)
    refuse_unknown_keys(values, known, f"{section}.")
    for key, value in values.items():
        refuse_unreadable(f"{section}.{key}", value)
        if not _is_json(value):
            raise UserError(
                f"{section}.{key}={shown(value)}: expected numbers, strings, true, false, null, or lists and mappings "
                f"of them."
            )
    try:
        return TypeAdapter(schema).validate_json(json.dumps(dict(values)))
    except ValidationError as problem:
        raise section_mistake(problem, schema, values, section) from None


def _is_json(value: Any) -> bool:
    """Whether JSON can hold a value, within pydantic's limits (lists in lists, halves of characters)."""
    try:
        from_json(json.dumps({"": value}))
    except (TypeError, ValueError, RecursionError):
        return False
    return True
