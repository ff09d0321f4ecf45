"""What the committed tables of methods share: learning rates tried on validation images, then seeds on the test."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t


def train(
    what: str, words: Sequence[str], rates: Sequence[float], seeds: int, folder: Path, more: Sequence[str]
) -> int:
    """Trains what lacks of one arm: each rate on validation images, the best anew, tested with each seed.

    Args:
        what: is told before.
        words: of the run.
        rates: of learning; empty where there is nothing to try.
        folder: takes the runs.
        more: further words.

    Returns:
        The exit status.
    """
    grid = f"sweep.grid={{optimizer.lr:{json.dumps(list(rates))}}}"
    protocol = ["protocol=vtab1k", f"protocol.trials={len(rates)}", f"protocol.seeds={seeds}", grid]
    quiet = ["trainer.progress=false", "logger=none", f"output_dir={folder}"]
    command = ["-m", "peftbench", "-m", *words, *protocol, *quiet, *more]
    print(what, flush=True)
    return subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL).returncode


def final_records(folder: Path) -> dict[int, Any]:
    """Seed -> record of the complete final runs of an arm; a trial is none."""
    records = {}
    for file in folder.glob("*/result.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["status"] == "complete" and record["config"]["data"]["stage"] == "final":
            records[record["config"]["seed"]] = record
    return records


def accuracies(folder: Path) -> dict[int, float]:
    """Seed -> test accuracy in per cent."""
    return {seed: 100 * record["metrics"]["test/accuracy"] for seed, record in final_records(folder).items()}


def interval(values: Sequence[float]) -> str:
    """Mean and half width of Student's 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.1f} ± {half:.1f}"


def plain_name(*parts: str) -> str:
    """A folder's name for an arm."""
    return "-".join(parts).lower().replace(" ", "_").replace(",", "")


def parser(description: str, output: str, verbs: Sequence[str] = ("run", "table")) -> argparse.ArgumentParser:
    """Of a script that trains what lacks (`run`) and prints a table (`table`); further words are overrides of runs."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("verb", choices=verbs)
    made.add_argument("--output", type=Path, default=Path(output))
    made.add_argument("--caltech", type=Path)
    made.add_argument("overrides", nargs="*")
    return made
