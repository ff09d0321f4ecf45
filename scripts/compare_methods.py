"""Every method of the bench on two small data sets and two backbones: accuracy together with what it cost.

python scripts/compare_methods.py run   [--output DIR] [--minutes N] [--caltech DIR]   what lacks, as far as time goes
python scripts/compare_methods.py time  [--output DIR]                                 a step of each, timed
python scripts/compare_methods.py table [--output DIR]                                 the table as Markdown

Each method has four learning rates around its own, tried on validation images (protocol=vtab1k), and the best is
trained on all training images and tested with three seeds: ten epochs. One backbone and data set after the other, so
that a run that is stopped leaves whole columns. The six best on average are also run on Caltech-101, whose VTAB-1k
folder --caltech names. A cell without all of its runs stays empty. Steps are timed apart, in one short run of each
method, so that what else the machine does while the runs go on is not in them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from trials import accuracies, final_records, interval, parser, plain_name, train

from peftbench.common.config_files import names
from peftbench.config import CONFIGS

SEEDS = 3
TIMES = (1 / 3, 1.0, 3.0, 10.0)
"""Rates that are tried, as multiples of the method's own."""
DATA = {"digits": ["data=digits"], "photos": ["data=photos", "data.val_fraction=0.2"]}
BACKBONES = ("vit_nano", "efficientnet_lite0")
CALTECH = "Caltech-101"
TIMED = "timed"
"""The folder of the short runs, beside those of the data sets."""
BEST = 6


def main() -> None:
    arguments = parser(__doc__ or "", "outputs/methods", ("run", "time", "table"))
    arguments.add_argument("--minutes", type=float, default=float("inf"))
    given = arguments.parse_intermixed_args()
    if given.verb == "time":
        _time_each(given)
        return
    if given.verb == "table":
        print(table(given.output))
        return
    end = time.monotonic() + 60 * given.minutes
    for backbone in BACKBONES:
        for data, words in DATA.items():
            _train_each(list(methods()), backbone, data, words, given, end)
    if given.caltech is not None:
        words = ["data=vtab/caltech101", f"data.root={given.caltech}", "data.batch_size=32"]
        for backbone in BACKBONES:
            _train_each(best(given.output, backbone), backbone, CALTECH, words, given, end)


def _train_each(chosen: list[str], backbone: str, data: str, words: list[str], given: Any, end: float) -> None:
    for method in chosen:
        if time.monotonic() > end:
            sys.exit(f"{given.minutes:g} minutes are over; the same command goes on.")
        folder = folder_of(given.output, backbone, data, method)
        everywhere = [f"method={method}", f"backbone={backbone}", "trainer.epochs=10", *words]
        status = train(f"{backbone}, {data}: {method}", everywhere, methods()[method], SEEDS, folder, given.overrides)
        if status:
            print(f"{backbone}, {data}: {method}: ended with {status}", file=sys.stderr)


def _time_each(given: Any) -> None:
    for backbone in BACKBONES:
        for method in methods():
            folder = folder_of(given.output, backbone, TIMED, method)
            words = [f"method={method}", f"backbone={backbone}", *DATA["digits"], "trainer.epochs=2", *given.overrides]
            print(f"{backbone}: {method}", flush=True)
            command = ["-m", "peftbench", *words, "trainer.progress=false", "logger=none", f"output_dir={folder}"]
            if status := subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL).returncode:
                print(f"{backbone}: {method}: ended with {status}", file=sys.stderr)


def methods() -> dict[str, list[float]]:
    """The methods by name, each with the learning rates to try; without any where its YAML has no rate."""
    rates = {}
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rate = content.get("method", content).get("lr")
        rates[name] = [] if rate is None else [float(f"{rate * times:.2g}") for times in TIMES]
    return rates


def folder_of(output: Path, backbone: str, data: str, method: str) -> Path:
    """Where the runs of a method lie."""
    return output / plain_name(backbone, data, method)


def mean_accuracy(output: Path, backbone: str, data: str, method: str) -> float | None:
    """In per cent over the seeds; None where a run lacks."""
    values = accuracies(folder_of(output, backbone, data, method))
    return float(np.mean(list(values.values()))) if len(values) == SEEDS else None


def best(output: Path, backbone: str) -> list[str]:
    """The methods with the best mean over the small data sets, those that have all of them."""
    means = {}
    for method in methods():
        cells = [mean_accuracy(output, backbone, data, method) for data in DATA]
        if None not in cells:
            means[method] = np.mean([cell for cell in cells if cell is not None])
    return sorted(means, key=lambda method: -means[method])[:BEST]


def table(output: Path) -> str:
    """A row for each method: for each backbone parameters, time and memory of a step, accuracies; best first."""
    heads = ["method"]
    for backbone in BACKBONES:
        heads += [f"{backbone}: parameters", "step, ms", "kept for backward, MB"]
        heads += [f"{data} %" for data in (*DATA, CALTECH)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    rows = []
    for method in methods():
        row, score = [f"`{method}`"], []
        for backbone in BACKBONES:
            row += _costs(output, backbone, method)
            for data in (*DATA, CALTECH):
                values = accuracies(folder_of(output, backbone, data, method))
                whole = len(values) == SEEDS
                row.append(interval([values[seed] for seed in sorted(values)]) if whole else "")
                score += [float(np.mean(list(values.values())))] if whole and data != CALTECH else []
        rows.append((len(score), float(np.mean(score)) if score else 0.0, f"| {' | '.join(row)} |"))
    rows.sort(key=lambda row: row[:2], reverse=True)
    return "\n".join([*lines, *(line for count, _, line in rows if count)])


def _costs(output: Path, backbone: str, method: str) -> list[str]:
    """Parameters, the median step and what it keeps for backward, of the short run."""
    for record in final_records(folder_of(output, backbone, TIMED, method)).values():
        costs = record["costs"]
        step, kept = costs["time"].get("step", {}).get("median"), costs["memory"].get("saved_for_backward")
        milliseconds = "" if step is None else f"{1000 * step:.3g}"
        return [f"{costs['parameters']['method']:,}", milliseconds, "" if kept is None else f"{kept / 1e6:.3g}"]
    return ["", "", ""]


if __name__ == "__main__":
    main()
