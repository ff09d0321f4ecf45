"""The peak of memory that a record tells of, in the form of this version and in that of before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.results.figures import is_figure

MEASURES = {"allocated": "allocated on the GPU", "resident": "resident, above the set-up's"}
"""What is compared, by what a device counts: on a GPU all of it, weights included; on a CPU, where the interpreter and
its libraries are in all of it, what is above the set-up."""
_COMPARED = {"allocated": "total", "resident": "above"}


def compared_peak(peak: Any) -> tuple[float | None, str]:
    """Bytes that reports compare, and what they count; (None, "") where a record does not say.

    Records of before have one number under the name of what it counts: of `allocated` all of it, of `resident` what
    was above the set-up.
    """
    for measure, part in _COMPARED.items():
        for value in (_figure(peak, part) if _at(peak, "measure") == measure else None, _figure(peak, measure)):
            if value is not None:
                return value, measure
    return None, ""


def peaks_of(costs: Mapping[str, Any]) -> list[tuple[str, float]]:
    """All that a record tells of peaks: what each is of, and its bytes."""
    rows: list[tuple[str, float | None]] = []
    for what, peak in (
        ("peak memory", _at(_at(costs, "memory"), "peak")),
        ("peak memory while computing taps", _at(_at(costs, "taps"), "memory")),
    ):
        measure = compared_peak(peak)[1]
        if _figure(peak, "total") is None:
            rows.append((f"{what}, {measure}", compared_peak(peak)[0]))
        else:
            rows += [(f"{what}, {measure}", _figure(peak, "total")), ("of it above the set-up", _figure(peak, "above"))]
    return [(name, value) for name, value in rows if value is not None]


def _at(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _figure(value: Any, key: str) -> float | None:
    number = _at(value, key)
    return float(number) if is_figure(number) else None
