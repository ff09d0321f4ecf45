"""The schema of `result.json`, version 1: what each part that peftbench reads of a record is, wherever it came from.

A part that is not named here may be anything. Fields came by and by, so that early records lack some: all but `id`,
`status`, `config` and the method's name may be left out or null. A number is one that a float can hold.
`docs/record.md` says what the fields mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import CoreSchema, SchemaValidator, ValidationError

SCHEMA = 1
_LARGEST = 10**300
_KINDS = {dict: "a mapping", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value"}


def _one_of(expected: str, *choices: Any) -> Any:
    """One of several schemas; `expected` says in words what they are."""
    return {
        "type": "union",
        "choices": list(choices),
        "mode": "left_to_right",
        "custom_error_type": "expected",
        "custom_error_message": expected,
    }


def _list_of(each: Any) -> Any:
    return {"type": "list", "items_schema": each, "strict": True}


def _by_name(each: Any = None) -> Any:
    """A mapping of names to values of one kind, or to anything."""
    return {"type": "dict", "strict": True, "keys_schema": _TEXT, "values_schema": each or _ANYTHING}


def _part(needed: tuple[str, ...] = (), **fields: Any) -> Any:
    """A mapping with these fields, each of which may be left out or null where it is not `needed`."""
    inner = {
        name: {"type": "typed-dict-field", "required": True, "schema": schema}
        if name in needed
        else {"type": "typed-dict-field", "required": False, "schema": {"type": "nullable", "schema": schema}}
        for name, schema in fields.items()
    }
    return {"type": "typed-dict", "fields": inner, "extra_behavior": "allow", "strict": True}


_ANYTHING: Any = {"type": "any"}
_TEXT: Any = {"type": "str", "strict": True}
_TRUTH: Any = {"type": "bool", "strict": True}
_COUNT: Any = {"type": "int", "strict": True, "ge": -_LARGEST, "le": _LARGEST}
_NUMBER = _one_of("a number", _COUNT, {"type": "is-instance", "cls": float})
_NUMBERS = _by_name({"type": "nullable", "schema": _NUMBER})
_PEAK = _part(total=_NUMBER, above=_NUMBER, allocated=_NUMBER, resident=_NUMBER, measure=_TEXT)
_SIZE = _one_of("a number or a list of numbers", _COUNT, _list_of(_COUNT))
_PAIR: Any = {**_list_of(_NUMBER), "min_length": 2, "max_length": 2}
_TIMES = dict.fromkeys(("train", "validate", "test", "test_image", "latency", "images_per_second"), _NUMBER)

_CONFIG = _part(
    ("method",),
    method=_part(("name",), name=_TEXT, options=_by_name()),
    backbone=_part(name=_TEXT),
    data=_part(name=_TEXT, options=_by_name()),
    task=_part(name=_TEXT, path=_TEXT),
    optimizer=_by_name(),
    trainer=_part(devices=_COUNT, nodes=_COUNT, accelerator=_TEXT),
    taps=_by_name(),
    pruning=_by_name(),
    choices=_by_name(),
    seed=_COUNT,
    protocol=_part(
        name=_TEXT,
        trials=_COUNT,
        grid=_by_name(),
        tried=_list_of(_part(("point",), point=_ANYTHING, **{"val/loss": _NUMBER})),
    ),
)
_STAMPS = _part(
    backbone=_part(name=_TEXT, weights=_TEXT, pretrained=_TRUTH, pruning=_by_name(), quantize=_by_name()),
    data=_part(
        split=_TEXT,
        hash=_TEXT,
        stage=_TEXT,
        transform=_part(
            size=_SIZE,
            min_size={**_list_of(_COUNT), "min_length": 1},
            max_size=_COUNT,
            interpolation=_TEXT,
            mean=_list_of(_NUMBER),
            std=_list_of(_NUMBER),
            resize=_TEXT,
            range=_one_of("'auto' or two numbers", {"type": "literal", "expected": ["auto"]}, _PAIR),
        ),
        images=_by_name(),
        skipped=_list_of(_ANYTHING),
        renamed=_list_of(_ANYTHING),
        frames=_COUNT,
        tta=_TEXT,
    ),
    machine=_part(devices=_list_of(_TEXT)),
    task=_part(sha256=_TEXT),
    start=_part(("run", "delta", "chain"), run=_TEXT, delta=_TEXT, chain=_list_of(_ANYTHING)),
    continual=_part(runs=_list_of(_TEXT), told_by=_list_of(_TEXT), alone=_list_of(_TEXT), learn=_TEXT),
    right=_by_name(),
    kept=_by_name(),
    first_phase=_by_name(),
    judged_by=_TEXT,
    versions=_by_name(),
    commit=_TEXT,
    ended=_TEXT,
)
_COSTS = _part(
    parameters=_part(method=_NUMBER, in_backbone=_NUMBER, head=_NUMBER, backbone=_NUMBER),
    time=_part(step=_NUMBERS, **_TIMES),
    memory=_part(peak=_PEAK, saved_for_backward=_NUMBER),
    taps=_part(("mode",), mode=_TEXT, computed=_COUNT, seconds=_NUMBER, memory=_PEAK),
    together=_COUNT,
    flops=_NUMBER,
    delta_bytes=_NUMBER,
)
_PLAN = _part(
    budget=_COUNT,
    trainable=_COUNT,
    selected=_COUNT,
    layers=_list_of(_part(("name", "kind", "parameters"), name=_TEXT, kind=_TEXT, parameters=_COUNT)),
)
_HISTORY = _list_of({"type": "is-instance", "cls": dict})
"""Rows, whose numbers are looked at where they are used: checking each would take as long as all the rest."""
_OF_NO_CONFIG = _part(("given",), given=_list_of(_TEXT), choices=_by_name())
"""What the record of a sweep's job holds that came to no config: the words that it was given."""

_STATUSES = ["running", "complete", "interrupted", "failed", "refused"]


def _record(config: Any) -> CoreSchema:
    return _part(
        ("id", "status", "config", "schema"),
        id=_TEXT,
        status={"type": "literal", "expected": _STATUSES},
        reason=_TEXT,
        config=config,
        stamps=_STAMPS,
        metrics=_by_name(_NUMBER),
        costs=_COSTS,
        history=_HISTORY,
        plan=_PLAN,
        schema=_COUNT,
    )


_WHOLE, _GIVEN = SchemaValidator(_record(_CONFIG)), SchemaValidator(_record(_OF_NO_CONFIG))
_EXPECTED = {
    "dict_type": "a mapping",
    "is_instance_of": "a mapping",
    "list_type": "a list",
    "string_type": "a string",
    "bool_type": "a truth value",
    "int_type": "a whole number",
    "greater_than_equal": "a smaller number",
    "less_than_equal": "a smaller number",
    "literal_error": f"one of {', '.join(_STATUSES)}",
}


def problem_of(content: Mapping[str, Any]) -> str | None:
    """What keeps a mapping from being a record of version 1, as the end of a sentence; None where nothing does.

    Args:
        content: what `result.json` holds.
    """
    config = content.get("config")
    validator = _GIVEN if isinstance(config, dict) and "given" in config else _WHOLE
    try:
        validator.validate_python(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"] if step != "[key]")
        if first["type"] == "missing":
            return f"is not a whole record; it has no {where}"
        expected = _EXPECTED.get(first["type"], first["msg"])
        return f"is not a record; its {where} is {_found(first['input'])}, and {expected} is expected"
    return None


def kind_of(value: Any) -> str:
    """`a string`, say, of a value out of JSON."""
    return "null" if value is None else _KINDS[type(value)]


def _found(value: Any) -> str:
    too_large = isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST
    if too_large:
        return f"a number of {len(str(value))} digits"
    return repr(value) if isinstance(value, str) and len(value) <= 40 else kind_of(value)
