"""One line on a terminal that says what is being done while nothing else moves there.

It is on stderr, only where that is a terminal, and gone as soon as anything else is printed. Whoever does what takes
long says so by `doing`; without a command that shows the line, nothing happens. It imports nothing that takes time, so
that it is there before torch is imported, and needs no thread.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from peftbench.common.terminal import visible

_ERASE = "\r\x1b[2K"
_line: _Line | None = None


@contextmanager
def status_line(shown: bool = True) -> Iterator[None]:
    """Within this block what `doing` says is shown, where stderr is a terminal."""
    global _line
    if not shown or _line is not None or not _is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        yield
        return
    _line = _Line(sys.stderr)
    streams = sys.stdout, sys.stderr
    sys.stderr = _Erasing(sys.stderr, _line)
    if _is_terminal(sys.stdout):
        sys.stdout = _Erasing(sys.stdout, _line)
    try:
        yield
    finally:
        no_status_line()
        sys.stdout, sys.stderr = streams


def doing(what: str) -> None:
    """Says what is being done from now on."""
    if _line is not None:
        _line.show(f"{what} …")


def no_status_line() -> None:
    """Takes the line away, and shows none any more."""
    global _line
    if _line is not None:
        _line.erase()
        _line = None


def doing_import(module: str) -> None:
    """Says that a library is being loaded, unless it was before."""
    if module not in sys.modules:
        doing(f"loading {module}")


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # none, or closed
        return False


class _Line:
    def __init__(self, stream: Any) -> None:
        self._stream, self._shown = stream, False

    def show(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be erased
        text = visible(text)
        self._write(_ERASE + (text if len(text) <= width else f"{text[: width - 1]}…"))
        self._shown = True

    def erase(self) -> None:
        if self._shown:
            self._shown = False
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody looks any more
            pass


class _Erasing:
    """A stream that takes the line away before anything is written."""

    def __init__(self, stream: Any, line: _Line) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        self._line.erase()
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self._line.erase()
        self._stream.writelines(lines)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
