"""What the metadata of a delta say, all of it text: the type of each key, and how earlier versions wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from peftbench.backbones import Size
from peftbench.common.errors import UserError

_Count = Annotated[int, Field(ge=1)]
_SIZE: TypeAdapter[Size] = TypeAdapter(_Count | tuple[_Count, _Count])
_TYPES: dict[str, TypeAdapter[Any]] = {
    "options": TypeAdapter(dict[str, Any]),
    "classes": TypeAdapter(list[str]),
    "categories": TypeAdapter(list[int]),
    "transform": TypeAdapter(dict[str, Any]),
    "input_size": _SIZE,
    "frames": TypeAdapter(_Count | None),
    "config": TypeAdapter(dict[str, Any]),
    "versions": TypeAdapter(dict[str, str]),
}
"""The keys that are JSON."""


def checked_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of the delta at `path`, as this version writes them.

    Raises:
        UserError: a key is no JSON of its type, or two do not go together.
    """
    metadata = dict(metadata)
    size = metadata.get("input_size", "")
    if size.startswith("("):  # so 0.1 wrote a size that is no square
        metadata["input_size"] = f"[{size[1:].removesuffix(')')}]"
    for key, kind in _TYPES.items():
        if key in metadata:
            try:
                kind.validate_json(metadata[key], strict=True)
            except ValidationError:
                raise UserError(f"{path}: is damaged: {key} in its metadata is {metadata[key]!r:.40}.") from None
    numbers = len(json.loads(metadata.get("categories", "[]")))
    if numbers not in (0, len(json.loads(metadata["classes"]))):
        raise UserError(f"{path}: is damaged: its metadata say {numbers} categories, and not as many classes.")
    return metadata


def size_text(size: Size) -> str:
    """A size of images as metadata hold it: `64`, or `[64, 96]` of height and width."""
    return json.dumps(size)


def size_of(text: str) -> Size:
    """The size that `size_text` wrote."""
    return _SIZE.validate_json(text)
