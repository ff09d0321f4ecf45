"""Files that somebody else gives, opened only where they are files: a pipe or a device would keep us waiting for ever.

Links are followed. What is no regular file raises OSError, as what is missing does, so that each reader says it in its
own sentence; no size is too large for a file that lies there whole.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Literal, TextIO, overload

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody writes to is opened at once, and then looked at


def refuse_irregular(path: str | Path) -> None:
    """For a file that another library opens. Raises OSError where it is missing, or no regular file."""
    _refuse(os.stat(path).st_mode, path)


@overload
def open_binary(path: str | Path) -> io.BufferedReader: ...
@overload
def open_binary(path: str | Path, buffering: Literal[0]) -> io.FileIO: ...
def open_binary(path: str | Path, buffering: Literal[-1, 0] = -1) -> io.BufferedReader | io.FileIO:
    """The file, opened to be read. Raises OSError where it cannot be, or is no regular file."""
    if buffering == 0:
        return open(path, "rb", buffering=0, opener=_opener)
    return open(path, "rb", opener=_opener)


def open_text(path: str | Path, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None) -> TextIO:
    """As `open_binary`, of text."""
    return io.TextIOWrapper(open_binary(path), encoding=encoding, errors=errors, newline=newline)


def content_of(path: str | Path) -> bytes:
    """All bytes of a file. Raises OSError as `open_binary`."""
    with open_binary(path) as file:
        return file.read()


def first_bytes(path: str | Path, count: int) -> bytes:
    """How a file begins. Raises OSError as `open_binary`."""
    with open_binary(path) as file:
        return file.read(count)


def text_in(path: str | Path, encoding: str = "utf-8") -> str:
    """All text of a file. Raises OSError as `open_binary`, UnicodeDecodeError."""
    with open_text(path, encoding) as file:
        return file.read()


def irregular(path: str | Path) -> str:
    """What it is in the place of a file, such as "is a named pipe, and no file"; empty of a file, or where none is."""
    try:
        refuse_irregular(path)
    except FileNotFoundError:
        return ""
    except OSError as problem:
        return (problem.strerror or str(problem)).removeprefix("it ")
    return ""


def _opener(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | _NO_WAITING)
    try:
        _refuse(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse(mode: int, path: str | Path) -> None:
    for is_kind, name in _KINDS:
        if is_kind(mode):
            number = errno.EISDIR if name == "a folder" else errno.EINVAL
            raise OSError(number, f"it is {name}, and no file", str(path))
