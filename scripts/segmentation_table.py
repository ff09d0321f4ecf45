"""Methods on two real sets of masks: mIoU on the test images, against the frozen linear decoder and the majority class.

python scripts/segmentation_table.py run   [--output DIR] --leaves DIR --land DIR   what lacks; the same command goes on
python scripts/segmentation_table.py table [--output DIR]                           the table as Markdown

EfficientNet-Lite0 at 128 pixels with the linear decoder, 20 epochs, two rates tried on the validation images (a
method's own and ten times that; a decoder from random weights learns slowly at some), the better trained on all other
images and tested: five seeds of the frozen backbone, LoRA and full fine-tuning, one of every other method. DIR is a
folder of images/ and masks/ as data=seg_folder takes it; a cell without all of its runs stays empty.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import yaml
from trials import final_records, interval, plain_name, train

import peftbench
from peftbench.config import CONFIGS
from peftbench.runs.data_sets import load_splits

SETS = ("leaves", "land")
SEEDS = {"linear": 5, "lora": 5, "full": 5, "losa": 1, "cst": 1, "petah": 1, "spt": 1, "ftp": 1}
WORDS = ["backbone=efficientnet_lite0", "data=seg_folder", "data.size=[128,128]", "data.batch_size=16"]
WORDS += ["trainer.epochs=20"]
TIMES = (1.0, 10.0)
"""Rates that are tried, as multiples of the method's own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "table"))
    parser.add_argument("--output", type=Path, default=Path("outputs/segmentation"))
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    if given.verb == "table":
        print(table(given.output))
        return
    for name in SETS:
        if (root := getattr(given, name)) is None:
            continue
        root = root.resolve()
        _keep_majority(given.output, name, root)
        for method, seeds in SEEDS.items():
            words = [f"method={method}", *WORDS, f"data.root={root}"]
            folder = folder_of(given.output, name, method)
            if status := train(f"{name}: {method}", words, rates(method), seeds, folder, given.overrides):
                print(f"{name}: {method}: ended with {status}", file=sys.stderr)


def rates(method: str) -> list[float]:
    """The learning rates to try."""
    content = yaml.safe_load((CONFIGS / "method" / f"{method}.yaml").read_text(encoding="utf-8"))
    own = content.get("method", content)["lr"]
    return [float(f"{own * times:.2g}") for times in TIMES]


def folder_of(output: Path, name: str, method: str) -> Path:
    """Where the runs of a method lie."""
    return output / plain_name(name, method)


def _keep_majority(output: Path, name: str, root: Path) -> None:
    """Writes down what mIoU comes of giving each test pixel the class that most training pixels have."""
    place = output / f"{name}.json"
    if place.is_file():
        return
    splits = load_splits(peftbench.compose("method=linear", *WORDS, f"data.root={root}"))
    counts = []
    for split in (splits.train, splits.test):
        values = np.concatenate([mask.read().reshape(-1) for mask in split.labels])
        counts.append(np.bincount(values[values < len(splits.classes)], minlength=len(splits.classes)))
    train_counts, test_counts = counts
    majority = int(train_counts.argmax())
    there = int((test_counts > 0).sum()) + (test_counts[majority] == 0)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"mIoU": float(test_counts[majority] / test_counts.sum() / there)}), encoding="utf-8")


def table(output: Path) -> str:
    """A row for each method: its parameters, and mIoU in per cent on each set; with the interval of several seeds."""
    lines = ["| | parameters of the method | leaves | land |", "|---|--:|--:|--:|"]
    majority = [output / f"{name}.json" for name in SETS]
    said = [f"{100 * json.loads(file.read_text())['mIoU']:.1f}" if file.is_file() else "" for file in majority]
    lines.append(f"| the majority class | | {' | '.join(said)} |")
    for method, seeds in SEEDS.items():
        cells, parameters = [], ""
        for name in SETS:
            records = final_records(folder_of(output, name, method))
            values = [100 * records[seed]["metrics"]["test/mIoU"] for seed in sorted(records)]
            whole = len(values) == seeds
            cells.append("" if not whole else interval(values) if seeds > 1 else f"{values[0]:.1f}")
            for record in records.values():
                parameters = f"{record['costs']['parameters']['method']:,}"
        lines.append(f"| `method={method}` | {parameters} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
