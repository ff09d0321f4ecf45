"""Which values of a record are figures."""

from __future__ import annotations

from typing import Any, TypeGuard

_LARGEST = 1e39
"""No run has larger ones: targets of regression, and so their errors, are float32. Squares of 1e200 would overflow."""


def is_figure(value: Any) -> TypeGuard[int | float]:
    """Whether a value out of JSON is a number that can be shown and reckoned with: finite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
