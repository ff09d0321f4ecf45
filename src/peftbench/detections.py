"""Files of detections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from peftbench.deltas import replacing


def write_results(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes rows of COCO's result JSON (https://cocodataset.org/#format-results), whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(to_json(list(rows)) + b"\n")
