"""Numbers as a reader sees them: counts, sizes, times, and nouns in the right number."""

from __future__ import annotations


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


def seconds(value: float) -> str:
    """12.3 s, or minutes from two on."""
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def plural(number: int | str, noun: str) -> str:
    """The number with its noun: `1 seed`, `3 seeds`; a number that is written already stays so: `2–3 seeds`."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"
