"""The processes of a benchmark, one for each format and number of threads, as the one that leads them sees them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peftbench
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.tuned.benchmark.asked import Measured

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Process:
    """A format with its own process, which waits where it has not been asked anything.

    Attributes:
        measured: the format.
        threads: of its runtime.
    """

    def __init__(self, measured: Measured, threads: int, errors: Path) -> None:
        self.measured, self.threads, self._errors = measured, threads, errors
        own = str(Path(peftbench.__file__).parents[1])  # where it is run from a checkout
        path = os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
        with errors.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "peftbench.tuned.benchmark.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **dict.fromkeys(_THREADS, str(threads)), "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the leader, which ends the others
                text=True,
                encoding="utf-8",
            )

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """What it answers. Raises UserError where it cannot, or has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            said = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            why = f"status {status}" + (f": {shortened(said[-1], 200)}" if said else "")
            raise UserError(f"formats={self.measured.name}: its process ended ({why}), so nothing is written.")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise UserError(f"formats={self.measured.name}: {answer['refused']}")
        if "failed" in answer:
            raise UserError(f"formats={self.measured.name}: does not run ({answer['failed']}), so nothing is written.")
        return answer

    def end(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()


@contextlib.contextmanager
def started(wanted: Sequence[tuple[Measured, int]]) -> Iterator[list[Process]]:
    """A process for each format and number of threads; all are ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        processes: list[Process] = []
        try:
            for at, (measured, threads) in enumerate(wanted):
                processes.append(Process(measured, threads, Path(folder) / f"{at}.txt"))
            yield processes
        finally:
            for process in processes:
                process.end()
