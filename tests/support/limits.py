"""A limit on how long something may take: what waits for ever fails, instead of holding up all tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails where the block takes longer; nothing is limited where the system has no alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: object) -> None:
        pytest.fail(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def no_file(place: Path, kind: str) -> Path:
    """A pipe that nobody writes to, or a device without end, in the place of a file."""
    place.unlink(missing_ok=True)
    if kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    return place
