"""Does staying near the weights forget less? Groups of classes one after the other, with intervals.

python scripts/continual.py run   [--output DIR] [--caltech DIR]    every sequence that lacks; may be repeated
python scripts/continual.py table [--output DIR]                    the tables as Markdown, of what is there

Each arm learns ten groups of classes, five epochs each, with three seeds, each of which draws its own groups: vit_nano.
Full fine-tuning and FTP have several learning rates. The last table compares them where they learn the current group
equally well, as its validation images say; no test figure chooses anything. DIR of --caltech is a folder of VTAB-1k
tasks that holds caltech101; without it two groups of digits stand for the ten, which is a trial.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from trials import interval, parser, plain_name

SEEDS = 3
RATES = ("1e-4", "3e-4", "1e-3")
FULL, FTP = "full", "FTP, previous weights"
TUNED: dict[str, list[str]] = {
    FULL: ["method=full"],
    FTP: ["method=ftp"],
    "FTP, pretrained weights": ["method=ftp", "method.anchor=pretrained"],
}
ARMS: dict[str, list[str]] = {}
for _arm, _words in TUNED.items():
    ARMS |= {f"{_arm}, {rate}": [*_words, f"optimizer.lr={rate}"] for rate in RATES}
ARMS |= {
    "L2-SP, previous weights": ["method=l2sp"],
    "L2-SP, pretrained weights": ["method=l2sp", "method.anchor=pretrained"],
    "LoRA": ["method=lora"],
    "LoRA for each group": ["method=lora", "protocol.learn=apart"],
    "LoSA for each group": ["method=losa", "protocol.learn=apart"],
    "full, 5 images a class kept": ["method=full", "data.replay=5"],
    "linear probe": ["method=linear"],
    "nearest class mean": ["method=ncm"],
    "ridge on frozen taps": ["method=ridge"],
}
COLUMNS = {
    "A_N %": "test/accuracy",
    "A_1:N %": "test/average_accuracy",
    "forgotten": "test/forgetting",
    "current %": "test/current_accuracy",
    "A_N % by group": "test/task_accuracy",
    "forgotten by group": "test/task_forgetting",
    "current % by group": "test/task_current_accuracy",
    "forward": "test/forward_transfer",
}


def main() -> None:
    given = parser(__doc__ or "", "outputs/continual").parse_intermixed_args()
    if given.verb == "table":
        print(table(given.output))
        return
    data = ["data=digits", "data.class_groups=2"]
    if given.caltech is not None:
        data = ["data=vtab/caltech101", f"data.root={given.caltech}", "data.class_groups=10", "data.batch_size=16"]
    protocol = ["protocol=continual", "protocol.trials=1", "sweep.grid=null", f"protocol.seeds={SEEDS}"]
    everywhere = ["backbone=vit_nano", "trainer.epochs=5", "data.stage=fit", "trainer.progress=false", "logger=none"]
    for arm, words in ARMS.items():
        alone = f"protocol.alone={str(not arm.endswith(RATES[1:])).lower()}"  # of one rate is enough
        place = f"output_dir={given.output / plain_name(arm)}"
        command = ["-m", "peftbench", "-m", *words, *data, *everywhere, *protocol, alone, place, *given.overrides]
        print(arm, flush=True)
        if status := subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"{arm}: ended with {status}")


def sequences(folder: Path) -> dict[int, Mapping[str, float]]:
    """Seed -> metrics of the complete sequences of an arm."""
    metrics = {}
    for file in folder.glob("[!.]*/result.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        if "continual" in record["stamps"] and record["status"] == "complete":
            metrics[record["config"]["seed"]] = record["metrics"]
    return metrics


def values(output: Path, arm: str, figure: str) -> dict[int, float]:
    """Seed -> a figure in per cent, such as test/accuracy, of those that have it."""
    metrics = sequences(output / plain_name(arm))
    return {seed: 100 * of[figure] for seed, of in sorted(metrics.items()) if figure in of}


def table(output: Path) -> str:
    """A row for each arm; then FTP against full fine-tuning where the current group is learned alike, seed by seed."""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * len(COLUMNS)}"]
    for arm in ARMS:
        cells = [_cell(values(output, arm, figure)) for figure in COLUMNS.values()]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    heads = ("A_N %", "forgotten", "forgotten by group")
    lines += ["", f"| where the current group is learned alike | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for other in TUNED:
        if other != FULL and (pair := nearest(output, other)):
            one, two = pair
            differences = [_minus(values(output, two, COLUMNS[h]), values(output, one, COLUMNS[h])) for h in heads]
            lines.append(f"| {two} minus {one} | {' | '.join(map(_cell, differences))} |")
    return "\n".join(lines)


def nearest(output: Path, other: str) -> tuple[str, str] | None:
    """The two arms, of full fine-tuning and of another, whose accuracies on the current group are nearest.

    These are means over groups and seeds, on validation images, of rates within five points of the best of their kind.
    """
    means = {arm: _mean(values(output, arm, "val/task_current_accuracy")) for arm in ARMS}
    able = {}
    for name in (FULL, other):
        known = {f"{name}, {rate}": means[f"{name}, {rate}"] for rate in RATES if means[f"{name}, {rate}"] is not None}
        best = max(known.values(), default=None)
        able[name] = {arm: mean for arm, mean in known.items() if best is not None and mean >= best - 5}
    pairs = [(abs(a - b), one, two) for one, a in able[FULL].items() for two, b in able[other].items()]
    return min(pairs)[1:] if pairs else None


def _mean(by_seed: Mapping[int, float]) -> float | None:
    return float(np.mean(list(by_seed.values()))) if by_seed else None


def _minus(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def _cell(by_seed: Mapping[int, float]) -> str:
    return interval(list(by_seed.values())) if len(by_seed) > 1 else "".join(f"{v:.1f}" for v in by_seed.values())


if __name__ == "__main__":
    main()
