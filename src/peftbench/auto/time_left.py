"""The clock of an answer: what it has taken, and what is left."""

from __future__ import annotations

import time

MARGIN = 1.3
"""A foretold time is taken for so many times as long."""
OVERHEAD = 1.5
"""Seconds of a run besides its steps: building the model, writing what was learned."""


class Clock:
    """Counts the seconds of all commands of an answer.

    Args:
        minutes: that the answer may take.
        spent: seconds of the commands before this one.
        begun: when this command began, by `time.monotonic`.
    """

    def __init__(self, minutes: float, spent: float, begun: float) -> None:
        self._whole, self._before, self._begun = 60 * minutes, spent, begun
        self._opened = spent

    def open(self) -> None:
        """From now on shares are of the time that is left now: the search begins, and what it needs is loaded."""
        self._opened = self.spent

    def is_within(self, share: float, wanted: float = 0.0) -> bool:
        """Whether something that takes `wanted` seconds from now ends within a share of the search's time."""
        return self.spent - self._opened + wanted <= share * (self._whole - self._opened)

    @property
    def whole(self) -> float:
        """Seconds that the answer may take."""
        return self._whole

    @property
    def spent(self) -> float:
        """Seconds that are gone."""
        return self._before + time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 where there are none."""
        return self._whole - self.spent

    def has_room(self, seconds: float, reserved: float, share: float = 1.0) -> bool:
        """Whether something foretold to take so long ends within a share of the search, and leaves the reserve."""
        wanted = MARGIN * seconds + OVERHEAD
        return wanted + reserved <= self.left and self.is_within(share, wanted)
