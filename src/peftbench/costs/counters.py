"""What every energy counter offers."""

from __future__ import annotations

from typing import Protocol


class NoCounter(Exception):
    """There is no energy counter, or it cannot be read; the message is the reason, without a full stop."""


class EnergyCounter(Protocol):
    """Counts joules from when it was made.

    Attributes:
        measure: its name in records.
        of: in words, what is measured.
        of_one_device: whether it is of the device of one process, not of a whole machine.
    """

    measure: str
    of: str
    of_one_device: bool

    def joules(self) -> float:
        """Since it was made. Raises NoCounter where it cannot be read any more."""
        ...
