"""JSON that somebody else wrote: what cannot be read raises ValueError, which each reader says in its own sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def json_of(content: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What a JSON text holds. Raises ValueError where it is none, or nested too deeply to be read."""
    try:
        return json.loads(content, object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
