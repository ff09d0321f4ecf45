"""Forms: what a value that was read from a file must be, declared once and checked by one function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Form = Callable[[Any, str], None]
"""Called with a value and the name of its place; raises Misfit."""


class Misfit(Exception):
    """Where a value stands, what it is and what was expected there."""

    def __init__(self, place: str, value: Any, expected: str) -> None:
        super().__init__(f"{place or 'it'} is {_told(value)}, expected {expected}")


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, bool | int | float):
        return str(value)[:40]
    if isinstance(value, Mapping | list | tuple):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    return f"a {type(value).__name__}"


def kind(expected: str, fits: Callable[[Any], bool]) -> Form:
    """A value for which `fits` is true; `expected` says in words what that is."""

    def check(value: Any, place: str) -> None:
        if not fits(value):
            raise Misfit(place, value, expected)

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


text = kind("a text", lambda v: isinstance(v, str))
flag = kind("true or false", lambda v: isinstance(v, bool))
number = kind("a number", _is_number)
finite = kind("a finite number", lambda v: _is_number(v) and math.isfinite(v) and abs(v) < 2**63)
whole = kind("a whole number from 0", lambda v: _is_number(v) and isinstance(v, int) and 0 <= v < 2**53)
nothing = kind("nothing", lambda v: v is None)
pair = kind("two numbers", lambda v: isinstance(v, list | tuple) and len(v) == 2 and all(map(_is_number, v)))


def equal(to: Any) -> Form:
    """A plain value of the same type and value as `to`."""
    return kind(f"{to}", lambda v: type(v) is type(to) and v == to)


def either(*forms: Form) -> Form:
    """A value of any of these forms; the last one's words are those of the message."""

    def check(value: Any, place: str) -> None:
        for form in forms[:-1]:
            try:
                return form(value, place)
            except Misfit:
                pass
        return forms[-1](value, place)

    return check


def each(key: type | tuple[type, ...], form: Form) -> Form:
    """A mapping whose keys are of a type and whose values have a form."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, Mapping):
            raise Misfit(place, value, "a mapping")
        for name, item in value.items():
            if not isinstance(name, key) or isinstance(name, bool):
                raise Misfit(f"a name in {place}", name, "another kind of name")
            form(item, _below(place, name))

    return check


def listed(form: Form, length: int | None = None) -> Form:
    """A list of values that have a form, `length` of them where it is given."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise Misfit(place, value, "a list" if length is None else f"a list of {length}")
        for i, item in enumerate(value):
            form(item, _below(place, i))

    return check


def fields(needed: Mapping[Any, Form], optional: Mapping[Any, Form] | None = None, others: Form | None = None) -> Form:
    """A mapping with these fields, each of its form; what else is in it has the form `others`, or there is nothing."""
    known = {**needed, **(optional or {})}

    def check(value: Any, place: str) -> None:
        if not isinstance(value, Mapping):
            raise Misfit(place, value, "a mapping")
        for name in needed:
            if name not in value:
                raise Misfit(_below(place, name), None, "to be there")
        for name, item in value.items():
            form = known.get(name, others)
            if form is None:
                raise Misfit(_below(place, name), item, "nothing of that name")
            form(item, _below(place, name))

    return check


def like(template: Any) -> Form:
    """A value built as `template` is: the same names, flags for flags, and whole numbers for whole numbers."""
    if isinstance(template, Mapping):
        return fields({name: like(item) for name, item in template.items()})
    if isinstance(template, bool):
        return flag
    return whole if isinstance(template, int) else nothing


def tensor(shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Form:
    """A plain tensor in memory, no two entries of which are one, of a shape and type where these are given."""
    words = "" if shape is None else f" {list(shape)}"
    expected = f"a plain tensor{words}" + (f" of {str(dtype).removeprefix('torch.')}" if dtype else "")

    def fits(value: Any) -> bool:
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            return False
        right = (shape is None or list(value.shape) == list(shape)) and dtype in (None, value.dtype)
        return right and not value.is_quantized and _dense(value)

    return kind(expected, fits)


def _dense(value: Tensor) -> bool:
    """Whether the entries lie side by side, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(value.stride(), value.shape, strict=True) if si > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _below(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)
