"""What stops a run from outside: the signals of schedulers and closed terminals, and output that nobody reads."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

ENDINGS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What `docker stop`, Slurm and a terminal that is closed send; without a handler each ends a process on the spot."""

UNREAD = "nobody reads the output any more"


@contextlib.contextmanager
def endings_as_interrupts() -> Iterator[None]:
    """Within this block SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does.

    Handlers that somebody set, and signals that are ignored (`nohup`), stay as they are.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Within this short block no signal that stops a run is handled; the first that came is sent again at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    for number in (signal.SIGINT, *ENDINGS):
        if callable(signal.getsignal(number)):
            before[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def silence_output() -> None:
    """Sends what is still printed to nowhere, so that output that nobody reads disturbs no more."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file of its own
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
