"""Runs that are killed, two that write one folder, and readers of the output that go away."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from faults.verdicts import HANG, LOST, SILENT, SURVIVED, TRACEBACK, Verdict, judged, told
from faults.world import METHODS, World

_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate")
_SECONDS = 120


def _forked(words: list[str], before: Any = None, out: int | None = None, err: int | None = None) -> int:
    """Starts a command in a process that is a copy of this one, where everything is imported; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(out if out is not None else null, 1)
        os.dup2(err if err is not None else null, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        if before is not None:
            before()
        from peftbench.cli.main import main

        status = main(words)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(status or 0)


def _ended(child: int) -> int | None:
    """Its status, negative of a signal; None where it had to be killed since it hung."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def try_kill(rng: random.Random, world: World) -> list[Verdict]:
    """A run is killed at an operation on files, or at any moment; the same command then finishes it."""
    place = world.begin()
    method = rng.choice(METHODS)
    words = [*world.words(method), f"output_dir={place / 'out'}", f"taps.dir={place / 'taps'}"]
    at = rng.randrange(1, 70)
    if rng.random() < 0.75:
        what = f"kill {method} at operation {at}"
        child = _forked(words, lambda: _kill_at(at, str(place)))
    else:
        what, child = f"kill {method} after {at / 40:.2f} s", _forked(words)
        time.sleep(at / 40)
        os.kill(child, signal.SIGKILL)
    if _ended(child) is None:
        return [Verdict(what, HANG, "the killed run hung")]
    end = told(words, _SECONDS)
    run = place / "out" / world.run(method).name
    verdict = judged(what, end, lambda _: world.same(method, run))
    if verdict.verdict != SURVIVED:
        why = verdict.why or end.err[-300:]
        return [Verdict(what, LOST if verdict.verdict == "refused" else verdict.verdict, why)]
    left = [str(p.relative_to(place)) for p in run.iterdir() if p.name.startswith(".") or p.suffix == ".part"]
    return [Verdict(what, LOST, f"left for ever: {left[0]}")] if left else [verdict]


def _kill_at(number: int, place: str) -> None:
    """Has this process killed before its n-th operation that changes something in a folder."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _OPERATIONS or not str(arguments[0]).startswith(place):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def try_two(rng: random.Random, world: World) -> list[Verdict]:
    """Two processes carry out one command at once."""
    place = world.begin()
    method = rng.choice(METHODS)
    words = [*world.words(method), f"output_dir={place / 'out'}", f"taps.dir={place / 'taps'}"]
    children = [_forked(words) for _ in range(2)]
    ends = [_ended(child) for child in children]
    what = f"two writers of {method}: statuses {ends}"
    run = place / "out" / world.run(method).name
    if None in ends:
        return [Verdict(what, HANG)]
    if 0 not in ends or not set(ends) <= {0, 2}:
        return [Verdict(what, TRACEBACK)]
    return [Verdict(what, SURVIVED if world.same(method, run) else SILENT)]


def try_reader(rng: random.Random, world: World) -> list[Verdict]:
    """The reader of the output goes away after some lines, of a run or of a sweep."""
    place = world.begin()
    sweep = rng.random() < 0.5
    words = [*world.words("linear"), f"output_dir={place / 'out'}", f"taps.dir={place / 'taps'}"]
    words += ["trainer.progress=true", "trainer.epochs=2"]
    if sweep:
        words = ["-m", *words, "method=linear,bitfit"]
    lines = rng.choice((0, 0, 1, 2, 5))
    read, write = os.pipe()
    apart = rng.random() < 0.6  # else errors go where nobody reads, too
    said = place / "errors"
    with said.open("wb") as errors:
        child = _forked(words, out=write, err=errors.fileno() if apart else write)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as pipe:
        text = b"".join(pipe.readline() for _ in range(lines))
    status = _ended(child)
    text += said.read_bytes()
    what = f"reader leaves after {lines} lines of a {'sweep' if sweep else 'run'}: status {status}"
    if status is None:
        return [Verdict(what, HANG)]
    states = [_status(file) for file in sorted((place / "out").glob("*/result.json"))]
    if "running" in states:
        return [Verdict(what, LOST, f"records say {states}")]
    if b"Traceback" in text or b"Error executing job" in text or status not in (0, 1, 130):
        return [Verdict(what, TRACEBACK, text[-300:].decode(errors="replace"))]
    return [Verdict(what, SURVIVED)]


def _status(record: Path) -> str:
    return str(json.loads(record.read_text())["status"])
