"""One lock for everyone: a file that one process at a time holds, on every system.

The operating system takes a lock back when its process ends, however it ends. The files stay where they are: removing
one that somebody waits for would let two processes in.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


def take(path: Path, *, wait: bool) -> FileLock | None:
    """The lock at `path`, held until it is released, forgotten, or its process ends; None where another holds it.

    Raises:
        OSError: the file cannot be written, or its file system has no locks.
    """
    lock = FileLock(path, thread_local=False)  # whichever thread forgets it gives it back
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except NotImplementedError:
        raise OSError(errno.ENOLCK, "its file system has no locks", str(path)) from None
    return lock


@contextlib.contextmanager
def releasing(lock: FileLock | None) -> Iterator[bool]:
    """Says whether there is a lock, and gives it back when the block ends."""
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def take_reading(path: Path) -> FileLock:
    """A lock that says that this process reads what `path` guards, beside any number of other readers.

    Each reader holds a file of its own, `<path>.<random digits>`, since no shared lock works on every system; `path`
    itself is held for the moment in which a reader comes. Waits while somebody holds what `take_unread` gave him.

    Raises:
        OSError: as `take`.
    """
    with releasing(take(path, wait=True)):
        _nobody_reads(path)
        reader = take(path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}"), wait=True)
    assert reader is not None
    return reader


def take_unread(path: Path) -> FileLock | None:
    """A lock under which nobody begins to read what `path` guards; None where somebody reads it. OSError as `take`."""
    lock = take(path, wait=False)
    if lock is not None and not _nobody_reads(path):
        lock.release()
        return None
    return lock


def _nobody_reads(path: Path) -> bool:
    """Whether all readers have ended; removes the files of those that have. `path` is held meanwhile."""
    reading = False
    for reader in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 12}"):
        with releasing(take(reader, wait=False)) as ended:
            pass
        if ended:
            with contextlib.suppress(OSError):  # nobody takes the same name again
                reader.unlink(missing_ok=True)
        else:
            reading = True
    return not reading
