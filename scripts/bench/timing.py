"""How the benchmarks measure: calls in turn, parts in processes of their own, commands as a user types them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tables import Row, time_row

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).parent / "peftbench")
"""The command as it was installed beside this interpreter."""

GIVES_MEMORY_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144"}
"""glibc gives freed blocks back to the system at once, so that a peak is of what is in use."""


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def interleaved(ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of both, called in turn, so that a busy moment of the machine meets both.

    A first round, which warms up, is not counted.
    """
    pairs = [(seconds_of(ours), seconds_of(peer)) for _ in range(rounds + 1)][1:]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def interleaved_row(
    what: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int, limit: float, digits: int = 2
) -> Row:
    """The row of two calls that are made in turn."""
    return time_row(what, *interleaved(ours, peer, rounds), limit, digits)


def in_own_process(
    module: str, function: str, *arguments: str | int, environment: Mapping[str, str] | None = None
) -> Any:
    """What a function of a module of this package returns, called in a process of its own; JSON carries it.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    code = (
        f"import importlib, json, sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); "
        f"print(json.dumps(importlib.import_module({module!r}).{function}(*{arguments!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **(environment or {})}, check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout.splitlines()[-1])


# A process keeps the peak of the one it was forked from: this small one stands between.
_WATCHED = """\
import os, subprocess, sys, time

begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(time.perf_counter() - begun, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def watched(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of a command, and the peak of its resident memory in bytes.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    done = subprocess.run([sys.executable, "-c", _WATCHED, *command], check=True, capture_output=True, text=True)
    spent, peak = done.stdout.split()
    return float(spent), float(peak)
