"""The files of the deltas that are served: whether they still are what was read, looked at every few seconds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from peftbench.common.regular_files import open_binary
from peftbench.tuned.finished_run import FinishedRun

SECONDS = 2.0
"""Between two looks; one reads nothing of a file that has its old size and time."""


About = tuple[tuple[int, ...], str]
"""Size, time and number of a file, and its sha256."""


def about(file: Path) -> About:
    """What is to be compared later."""
    return _look(file), _hash(file)


class Watching:
    """Tells once when the file of a served delta has become another.

    Args:
        tell: called with the name of the task, in the thread that looks.
    """

    def __init__(self, runs: dict[str, FinishedRun], tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.changed: dict[str, bool] = {}
        self.hashes: dict[str, str] = {}
        self._looks: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        for name, run in runs.items():
            self.take(name, run.source, about(run.source))
        self._thread = threading.Thread(target=self._work, name="watching", daemon=True)
        self._thread.start()

    def take(self, name: str, file: Path, found: About) -> None:
        """Counts what `about` said of a file, just before it was read, as what is served."""
        with self._lock:
            self._files[name], (self._looks[name], self.hashes[name]) = file, found
            self.changed[name] = False

    def look(self) -> None:
        """Looks at every file."""
        for name in list(self._files):
            with self._lock:
                look = _look(self._files[name])
                if look == self._looks[name]:
                    continue
                self._looks[name] = look
                told, self.changed[name] = self.changed[name], _hash(self._files[name]) != self.hashes[name]
                tells = self.changed[name] and not told
            if tells:
                self.tell(name)

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(SECONDS):
            self.look()


def _look(file: Path) -> tuple[int, ...]:
    """What tells that a file was written; empty where there is none."""
    try:
        about = file.stat()
    except OSError:
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino


def _hash(file: Path) -> str:
    """sha256 of a file; empty where it cannot be read."""
    try:
        with open_binary(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""
