"""One try of the command line in this process, and what is to be thought of how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SURVIVED, REFUSED, SILENT, TRACEBACK, HANG, LOST = "survived", "refused", "silent", "traceback", "hang", "lost"
VERDICTS = (SURVIVED, REFUSED, SILENT, TRACEBACK, LOST, HANG)
SECONDS = 40.0
"""A try that takes longer hangs: the slowest takes 3 on an idle machine."""
_LONGEST = 2_400
_ALLOWED = ("note: ", "skipped ", "data=", "method=", "warning: ")


class Hang(BaseException):
    """Raised by the alarm. No `except Exception` holds it."""


@dataclass(frozen=True)
class Told:
    """How a command ended: its status, or the exception that left it, and what it printed."""

    status: int | None
    out: str
    err: str
    problem: str = ""
    hangs: bool = False


@dataclass(frozen=True)
class Verdict:
    """What was tried, one of `VERDICTS`, and why."""

    what: str
    verdict: str
    why: str = ""


@contextlib.contextmanager
def alarm(seconds: float = SECONDS) -> Iterator[None]:
    """Within it, what takes longer is ended by `Hang`, unless it is deep in C; then the watcher ends the process."""

    def ring(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def told(words: Sequence[object], seconds: float = SECONDS) -> Told:
    """Carries out a command."""
    from peftbench.cli.main import main

    return called(lambda: main([str(word) for word in words]), seconds)


def called(work: Callable[[], Any], seconds: float = SECONDS) -> Told:
    """Carries out work in this process that answers as `main` does."""
    out, err = io.StringIO(), io.StringIO()
    status, problem, hangs = None, "", False
    try:
        with alarm(seconds), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = work()
    except Hang:
        hangs, problem = True, traceback.format_exc()
    except BaseException:
        problem = traceback.format_exc()
    return Told(status, out.getvalue(), err.getvalue(), problem, hangs)


def judged(what: str, end: Told, right: Callable[[Told], bool] | None = None) -> Verdict:
    """The verdict on a try.

    Args:
        what: was tried.
        end: of the command.
        right: whether what it did is what it does when nothing is damaged, asked where it says that all is well.
    """
    if end.hangs:
        return Verdict(what, HANG, end.problem[-600:])
    text = end.out + end.err
    if end.problem or "Traceback (most recent" in text or "Error executing job" in text:
        return Verdict(what, TRACEBACK, (end.problem or text)[-700:])
    if "takes more memory than there is" in end.err:
        return Verdict(what, TRACEBACK, "MemoryError")
    if "\x1b" in text:
        return Verdict(what, SILENT, f"an escape reaches the terminal: {text!r:.300}")
    if end.status == 0:
        return Verdict(what, SURVIVED) if right is None or right(end) else Verdict(what, SILENT, text[-400:])
    lines = [line for line in end.err.strip().splitlines() if not line.startswith(_ALLOWED)]
    if len(lines) == 1 and lines[0].startswith("peftbench: ") and len(lines[0]) <= _LONGEST:
        return Verdict(what, REFUSED, lines[0][:200])
    return Verdict(what, TRACEBACK, f"status {end.status}, not one sentence: {end.err[-400:]!r}")


def contents(folder: Path) -> dict[str, str]:
    """Path -> hash of every file below a folder, locks left out."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if ".locks" not in path.parts and path.is_file() and not path.is_symlink():
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
