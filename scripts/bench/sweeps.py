"""A sweep of small runs in one process: how much of its time, from the command to the table, is not training."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.tables import Row, row_name

COUNT, LIMIT = 64, 0.2


def _what(count: int, each: str = "") -> str:
    return f"a sweep of {count} runs{each} in one process: share of its time outside training"


def names() -> list[str]:
    return [_what(COUNT)]


def measure(quick: bool = False) -> list[Row]:
    """Training is what the records say of training, validating and testing: three epochs over a thousand small digits.

    `quick` has two runs.
    """
    count = 2 if quick else COUNT
    with tempfile.TemporaryDirectory() as folder:
        words = ["backbone=resnet_nano", "data=digits", "data.size=32", "trainer.epochs=3", "data.batch_size=32"]
        words += ["method=bitfit", f"seed=range({count})", "trainer.progress=false", "logger=none"]
        begun = time.perf_counter()
        command = [sys.executable, "-m", "peftbench.cli.main", "-m", *words, f"output_dir={folder}"]
        subprocess.run(command, check=True, capture_output=True)
        spent = time.perf_counter() - begun
        files = Path(folder).glob("[!.]*/result.json")
        times = [json.loads(path.read_text(encoding="utf-8"))["costs"]["time"] for path in files]
    assert len(times) == count
    inside = sum(t[part] for t in times for part in ("train", "validate", "test"))
    share = 1 - inside / spent
    what = _what(count, f" of {inside / count:.1f} s")
    assert row_name(what) == _what(count)
    return [Row(what, f"{share:.3f}", limit=f"{LIMIT:.2f}", kept=share < LIMIT)]
