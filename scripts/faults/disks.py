"""Disks that are full, folders that nobody may write or read, and folders that go away."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from faults.verdicts import LOST, REFUSED, SURVIVED, Verdict, judged, told
from faults.world import METHODS, World

_NOBODY = 65534


@contextlib.contextmanager
def _small_files(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _small_disk(place: Path, size: int) -> Iterator[bool]:
    """A disk of `size` bytes at a place, where this machine lets us; says whether it did."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "none", str(place)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def try_full(rng: random.Random, world: World) -> list[Verdict]:
    """A disk becomes full at any byte of what a command writes; with room, the same command then ends well."""
    place = world.begin()
    method = rng.choice(METHODS)
    verb = rng.choice(("train", "train", "predict", "export", "program", "report"))
    size = rng.choice((0, 100, 1000, 4000, 8000, 20_000, 50_000, 100_000, 300_000))
    out = place / "disk"
    run = world.run(method)
    words = {
        "train": [*world.words(method), f"output_dir={out}", f"taps.dir={place / 'taps'}"],
        "predict": [
            "predict",
            f"run={run}",
            f"images={world.root / 'pictures'}",
            f"out={out / 'made.csv'}",
            "device=cpu",
        ],
        "export": ["export", f"run={run}", "format=safetensors", f"out={out / 'made.safetensors'}"],
        "program": ["export", f"run={run}", "format=torch_export", f"out={out / 'made.pt2'}"],
        "report": ["report", run.parent, "format=html", f"output={out / 'made.html'}"],
    }[verb]
    if rng.random() < 0.5:
        with _small_disk(out, size) as mounted, contextlib.nullcontext() if mounted else _small_files(size):
            end = told(words, 90)
            left = _left(out)
        what = f"{verb} {method}: a disk of {size:,} bytes"
    else:
        out.mkdir()
        with _small_files(size):
            end = told(words, 90)
        what, left = f"{verb} {method}: files of {size:,} bytes", _left(out)
    verdict = judged(what, end)
    if left:
        return [Verdict(what, LOST, f"left for ever: {left[0]}")]
    if verdict.verdict == REFUSED:
        again = told(words, 90)
        second = judged(
            f"{what}, and again with room", again, lambda _: verb != "train" or world.same(method, out / run.name)
        )
        return [verdict, second]
    return [verdict]


def _left(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.suffix == ".part" or (p.name.startswith(".made") and p != folder)]


def try_rights(rng: random.Random, world: World) -> list[Verdict]:
    """A folder that may not be read, or not be written, or a cache that is another user's."""
    if os.geteuid():
        return []
    place = world.begin()
    method = rng.choice(METHODS)
    run = world.copied(method)
    locked = rng.choice((run, run.parent, *(run / n for n in ("result.json", "config.yaml", "delta.safetensors"))))
    mode = rng.choice((0o000, 0o444, 0o555, 0o111))
    verb = rng.choice(("predict", "layers", "report", "train", "export", "choose", "taps"))
    words = {
        "predict": ["predict", f"run={run}", f"images={world.root / 'pictures' / 'test'}", "device=cpu"],
        "layers": ["layers", run],
        "report": ["report", run.parent],
        "choose": ["choose", run.parent],
        "train": [*world.words(method), f"output_dir={run.parent}", f"taps.dir={place / 'taps'}", "seed=1"],
        "export": ["export", f"run={run}", "format=safetensors"],
        "taps": ["taps", rng.choice(("list", "clear")), f"taps.dir={place / 'taps'}"],
    }[verb]
    if verb == "taps":
        shutil.copytree(world.root / "taps", place / "taps")
        locked = place / "taps"
    os.chmod(locked, mode)
    os.seteuid(_NOBODY)
    try:
        end = told(words, 90)
    finally:
        os.seteuid(0)
        os.chmod(locked, 0o755)
    return [judged(f"{verb} {method}: {locked.name} with mode {mode:03o}, another user's", end)]


def try_removed(rng: random.Random, world: World) -> list[Verdict]:
    """The run's folder, or all of the output, is removed while it is carried out."""
    place = world.begin()
    method, whole = rng.choice(METHODS), rng.random() < 0.5
    out = place / "out"
    words = [*world.words(method), f"output_dir={out}", f"taps.dir={place / 'taps'}", "trainer.epochs=6"]
    wait = rng.choice((0.0, 0.0, 0.02, 0.05, 0.1, 0.2, 0.4))

    def remove() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(out.glob("*/result.json")):
            time.sleep(0.002)
        time.sleep(wait)
        for folder in [out] if whole else [p.parent for p in out.glob("*/result.json")]:
            shutil.rmtree(folder, ignore_errors=True)

    thread = threading.Thread(target=remove)
    thread.start()
    end = told(words, 90)
    thread.join()
    what = f"{method}: {'output_dir' if whole else 'its folder'} removed after {wait} s"
    verdict = judged(what, end)
    for folder in [p.parent for p in out.glob("*/result.json")] if verdict.verdict == SURVIVED else []:
        used = told(["predict", f"run={folder}", f"images={world.root / 'pictures' / 'test'}", "device=cpu"])
        if used.status != 0:
            return [Verdict(what, LOST, f"complete, and not to be used: {used.err[-200:]}")]
    return [verdict]
