"""What pydantic finds wrong in a section, in one sentence of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from peftbench.common.errors import UserError, nearest, suggested
from peftbench.common.foreign_text import shortened
from peftbench.common.near_names import plainly
from peftbench.common.other_words import VALUES
from peftbench.common.readable_names import is_text, readable
from peftbench.config.bounds import bound_words

KINDS: dict[type, str] = {int: "a whole number", bool: "true or false", str: "a string", float: "a number"}

# What was expected, by pydantic's type of error.
_EXPECTED: dict[str, str] = {
    "bool_type": "a valid boolean",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "none_required": "null",
    "string_type": "a valid string",
    "too_long": "a shorter list",
    "too_short": "a longer list",
    "tuple_type": "a list",
}
_LONGEST = 500  # characters of a value in a message
_PLAIN = re.compile(r"[\w./~-]+")
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def section_mistake(problem: ValidationError, schema: Any, values: Mapping[str, Any], section: str) -> UserError:
    """The first key of a section that pydantic refuses: what it holds, and what was expected."""
    errors = problem.errors(include_url=False)
    key = str(errors[0]["loc"][0])
    if key not in values:
        return UserError(f"{section}.{key}: is missing; expected a value.")
    of_key = [error for error in errors if str(error["loc"][0]) == key]
    for error in of_key:  # the type is right then, whatever else the field may hold
        if error["type"] in _BOUNDS:
            value = _in_floats(values[key]) if isinstance(_bound(error), float) else values[key]
            words = [_expected(error) for error in of_key if error["type"] == "literal_error"]
            return UserError(
                f"{section}.{key}={shown(value)}: expected {', or '.join([bound_words(schema, key), *words])}."
            )
    if len(of_key) > 1:  # a list whose items are refused counts as too short as well
        of_key = [error for error in of_key if error["type"] != "too_short"]
        lacking = [error for error in of_key if error["type"] == "missing"]
        of_key = [error for error in of_key if error not in lacking[:-1]]
    expected = " or ".join(dict.fromkeys(_expected(error) for error in of_key))
    hint = _value_hint(f"{section}.{key}", values[key], of_key)
    of_whole = [error for error in of_key if not any(isinstance(part, int) for part in error["loc"])]
    if any(error["type"] == "string_type" for error in of_whole):
        hint += text_hint(f"{section}.{key}", values[key])
    return UserError(f"{section}.{key}={shown(values[key])}: expected {expected}{hint}.")


def refuse_unreadable(key: str, value: Any) -> None:
    """Raises UserError where a text holds bytes that are no UTF-8, as names of folders from other systems may."""
    if isinstance(value, str) and not is_text(value):
        raise UserError(
            f"{key}={readable(value)}: is no text in UTF-8, which a config has to be; give the folder or file another "
            f"name, or a link to it."
        )


def shown(value: Any) -> str:
    """A value as Python writes it, in a line that can be read; of one that cannot be written, its type."""
    try:
        return shortened(repr(value), _LONGEST)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists without end
        return f"<{type(value).__name__}>"


def meant_value(key: str, value: Any) -> str | None:
    """The whole word, such as `backbone.pretrained=false`, that a value of other tools' words means here, if any."""
    return VALUES.get(key, {}).get(plainly(str(value)))


def text_hint(key: str, value: Any) -> str:
    """What a value in the place of text was read as, and how to write it as text; else an empty string."""
    if value is None:
        read, text = "nothing", "null"
    elif isinstance(value, bool):
        read, text = "true or false", str(value).lower()
    elif isinstance(value, int | float):
        read, text = "a number", shown(value) if isinstance(value, int) else "…"  # 1e3 is 1000.0 by now
    elif isinstance(value, list):
        plain = all(isinstance(part, str) and _PLAIN.fullmatch(part) for part in value)
        read, text = "a list", f"[{','.join(value)}]" if plain else "…"
    else:
        return ""
    return f"; it is read as {read}; for text write \"{key}='{text}'\""


def _value_hint(key: str, value: Any, errors: Sequence[ErrorDetails]) -> str:
    literals = [name for e in errors if e["type"] == "literal_error" for name in re.findall("'([^']+)'", _expected(e))]
    return suggested(meant_value(key, value)) or (nearest(value, literals) if isinstance(value, str) else "")


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    if error["type"] == "missing":  # the last of a tuple's places
        return f"a list of {int(error['loc'][-1]) + 1}"
    return _EXPECTED.get(error["type"], "another value")


def _bound(error: ErrorDetails) -> Any:
    return error["ctx"][_BOUNDS[error["type"]]]


def _in_floats(value: Any) -> Any:
    """Whole numbers as the field holds them, with a decimal point; those that no float holds as they are."""
    if isinstance(value, list | tuple):
        return [_in_floats(part) for part in value]
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return value
