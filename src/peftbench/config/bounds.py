"""Numbers between bounds, as types of a schema's fields; each description is what a message says was expected."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

Positive = Annotated[int, Field(ge=1, description="at least 1")]
Count = Annotated[int, Field(ge=0, description="0 or more")]
Amount = Annotated[float, Field(ge=0, description="0 or more")]
AboveZero = Annotated[float, Field(gt=0, description="a number above 0")]
AboveZeroOrNull = Annotated[float, Field(gt=0, description="a number above 0, or null")] | None
Share = Annotated[float, Field(ge=0, lt=1, description="a share, at least 0 and below 1")]
LayerDecay = Annotated[
    Annotated[float, Field(gt=0, le=1, description="a number above 0 and at most 1, or null")] | None,
    AfterValidator(lambda decay: None if decay == 1 else decay),
]
"""A factor for each layer; 1 and null are both none."""
BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1, description="a number above 0 and below 1, or null")]
FromZeroToOne = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="at least 0 and below 1")]
Decay = Annotated[float, Field(ge=0, lt=1, description="numbers at least 0 and below 1")]
"""One of several rates at which averages forget, such as Adam's betas."""
TYPES = ("Positive", "Count", "Amount", "AboveZero", "AboveZeroOrNull", "Share", "FromZeroToOne", "Momentum", "Decay")
"""Their names, by which the options of a method may have them."""


def bound_words(schema: Any, field: str) -> str:
    """What the bounds of a field of a dataclass or pydantic model ask for, in words; an empty string if it has none."""
    if is_dataclass(schema):
        return _words(get_type_hints(schema, include_extras=True).get(field))
    of_model = schema.model_fields[field]
    return of_model.description or _words(of_model.annotation)


def _words(annotation: Any) -> str:
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, FieldInfo) and part.description:
            return part.description
    return next((words for inner in get_args(annotation) if (words := _words(inner))), "")
