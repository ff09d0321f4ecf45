"""What a run cost in money: its times, at the user's own price of an hour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ESTIMATE = "estimate"
"""What stands for the way in which an energy was measured where nothing measured it, and `costs.watts` gave it."""
_PAID = (
    *(("time", name) for name in ("train", "validate", "test", "compile")),
    *((section, "seconds") for section in ("taps", "find_lr")),
)


def money_of(costs: Mapping[str, Any], price: float) -> dict[str, Any]:
    """The record's `money`: the `price` of an hour, the `seconds` that are paid, and the `amount` that they cost.

    Paid are training, validation, the test, compiling, looking for a rate, and the taps that this run computed; not
    importing, reading lists and waiting. Of runs that trained together each pays an equal share, and says of how many.
    """
    together = costs.get("together", 1)
    seconds = sum(_number(costs, *path) for path in _PAID) / together
    share = {"share_of": together} if together > 1 else {}
    return {"price": price, "seconds": seconds, "amount": seconds / 3600 * price, **share}


def _number(costs: Mapping[str, Any], section: str, name: str) -> float:
    value = (costs.get(section) or {}).get(name)
    return float(value) if isinstance(value, int | float) else 0.0
