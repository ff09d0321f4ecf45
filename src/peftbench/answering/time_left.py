"""The clock of an answer: what it has taken, what is left, and the bell that ends what takes longer than foretold."""

from __future__ import annotations

import _thread
import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

MARGIN = 1.3
"""A foretold time is taken for so many times as long."""
OVERHEAD = 1.5
"""Seconds of a run besides its steps at least: building the model, writing what was learned."""
OVER, GRACE = 0.1, 20.0
"""The command ends within its time and this share of it and so many seconds."""
ENDING = 8.0
"""Seconds before that when the bell rings: a step ends, the page is written, the interpreter leaves."""
AGAIN = 5.0
"""Seconds from the bell's first ring, upon which a training saves and stops after its step, to the second."""


TOO_LONG = "its time was over before it had ended"


class OutOfTime(Exception):
    """What was begun has not ended in the time that it was given."""


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

    @property
    def last(self) -> float:
        """Seconds until what this command still does must end; below 0 where it should have."""
        return (1 + OVER) * self._whole + GRACE - ENDING - (time.monotonic() - self._begun)

    def has_room(self, seconds: float, reserved: float, share: float = 1.0, overhead: float = OVERHEAD) -> bool:
        """Whether something foretold to take so long ends within a share of the search, and leaves the reserve."""
        wanted = MARGIN * seconds + overhead
        return wanted + reserved <= self.left and self.is_within(share, wanted)


class Bell:
    """Within this block the main thread is interrupted, as by Ctrl-C, once the time is over, and soon after once more.

    A training saves and stops after its step upon the first, and at once upon the second, as it does for a user. In
    another thread, whose work no signal reaches, the bell does not ring.

    Args:
        seconds: until it rings; infinite for never.

    Attributes:
        rang: whether it has.
    """

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._main = threading.main_thread().ident or 0
        self._before: Any = None
        if math.isfinite(seconds) and threading.current_thread() is threading.main_thread():
            self._thread = threading.Thread(target=self._wait, args=(max(seconds, 0.0),), daemon=True)

    def __enter__(self) -> Bell:
        if self._thread is not None:
            handler = signal.getsignal(signal.SIGINT)
            if not callable(handler):  # a command in the background ignores Ctrl-C, and the bell shall be heard
                self._before = handler
                signal.signal(signal.SIGINT, self._heard)
            self._thread.start()
        return self

    def _heard(self, number: int, frame: Any) -> None:
        if self.rang:
            raise KeyboardInterrupt

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._close()
        except KeyboardInterrupt:  # it rang on the threshold
            if not self.rang:
                raise
            self._close()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _close(self) -> None:
        with self._lock:  # from here on it rings no more
            self._closed.set()
        if self.rang:
            time.sleep(0.01)  # in which an interrupt that is under way arrives

    def _wait(self, seconds: float) -> None:
        for wait in (seconds, AGAIN):
            if self._closed.wait(wait):
                return
            with self._lock:
                if self._closed.is_set():
                    return
                self.rang = True
                if hasattr(signal, "pthread_kill"):  # which ends waits too
                    signal.pthread_kill(self._main, signal.SIGINT)
                else:
                    _thread.interrupt_main()


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[Bell]:
    """Within this block work ends after so many seconds.

    Raises:
        OutOfTime: it did not end before.
        KeyboardInterrupt: the user's own.
    """
    bell = Bell(seconds)
    try:
        with bell:
            yield bell
    except KeyboardInterrupt:
        if bell.rang:
            raise OutOfTime(TOO_LONG) from None
        raise
