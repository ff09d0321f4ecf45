"""Numbers as a reader sees them: counts, sizes, times, and nouns in the right number."""

from __future__ import annotations

import math


def plain(value: float, digits: int = 2) -> str:
    """At least so many digits that count, never an exponent: 0.0123 -> 0.012; 12.3 -> 12; 1234.5 -> 1,234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def count(value: float) -> str:
    """1234 -> 1,234; 1234567 -> 1.23 M."""
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{int(value):,}"


def size(value: float) -> str:
    """Bytes with a unit: 1500 -> 2 kB."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def joules(value: float) -> str:
    """Energy with a unit, three digits: 5.80 J, 1.23 kJ, 450 MJ."""
    for unit in ("J", "kJ"):
        if value < 999.5:
            return f"{plain(value, 3)} {unit}"
        value /= 1000
    return f"{plain(value, 3)} MJ"


def milliseconds(value: float) -> str:
    """12.3 ms of 0.0123 s; two digits of what is less than a tenth, and seconds from one on: 1.04 s."""
    if value >= 0.99995:
        return f"{value:.2f} s" if value < 9.995 else seconds(value)
    return f"{plain(1000 * value) if value < 1e-4 else f'{1000 * value:.1f}'} ms"


def rate(value: float) -> str:
    """Of something in a second: 123, or two digits of what is less than ten."""
    return plain(value) if value < 9.95 else f"{value:.0f}"


def seconds(value: float) -> str:
    """12.3 s, or minutes and hours from two on; of less than a tenth of a second milliseconds."""
    if 0 < value < 0.095:
        return milliseconds(value)
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:,.1f} h"


def plural(number: int | str, noun: str) -> str:
    """The number with its noun: `1 seed`, `3,000 seeds`, `2 entries`; one written already stays so: `2–3 seeds`."""
    written = number if isinstance(number, str) else f"{number:,}"
    if written == "1":
        return f"{written} {noun}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{written} {noun[:-1]}ies"
    return f"{written} {noun}{'es' if noun.endswith(('s', 'x', 'tch', 'nch', 'sh')) else 's'}"


def agreeing(number: int, one: str = "is", several: str = "are") -> str:
    """The form of a verb, or of other words, that goes with the number."""
    return one if number == 1 else several
