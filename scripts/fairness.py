"""Is full fine-tuning given a fair chance? With and without a careful user's recipe, against LoRA, LoSA and the probe.

python scripts/fairness.py run   [--output DIR] [--caltech DIR]    every run that lacks; may be stopped and repeated
python scripts/fairness.py table [--output DIR]                    the table as Markdown, of what is there

Each arm has four learning rates, tried on validation images (protocol=vtab1k), and the best is trained on all training
images and tested with five seeds: vit_nano, ten epochs. DIR of --caltech is a folder of VTAB-1k tasks that holds
caltech101; without it that data set is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trials import accuracies, interval, parser, plain_name, train

SEEDS = 5
BACKBONE_RATES = [3e-5, 1e-4, 3e-4, 1e-3]
ADDED_RATES = [1e-3, 3e-3, 1e-2, 3e-2]
ARMS: dict[str, tuple[list[str], list[float]]] = {
    "linear probe": (["method=linear"], ADDED_RATES),
    "LoSA": (["method=losa"], ADDED_RATES),
    "LoRA": (["method=lora"], [3e-4, 1e-3, 3e-3, 1e-2]),
    "full": (["method=full"], BACKBONE_RATES),
    "full, layer decay 0.75": (["method=full", "optimizer.layer_decay=0.75"], BACKBONE_RATES),
    "full, head at 10 times the rate": (["method=full", "optimizer.head_lr=10"], BACKBONE_RATES),
    "full, EMA 0.99": (["method=full", "trainer.ema=0.99"], BACKBONE_RATES),
    "full, all three": (
        ["method=full", "optimizer.layer_decay=0.75", "optimizer.head_lr=10", "trainer.ema=0.99"],
        BACKBONE_RATES,
    ),
    "LP-FT": (["method=lp_ft"], BACKBONE_RATES),
}
DATA: dict[str, list[str]] = {
    "photos": ["data=photos", "data.val_fraction=0.2"],
    "digits": ["data=digits"],
    "Caltech-101": ["data=vtab/caltech101", "data.batch_size=32"],
}


def main() -> None:
    given = parser(__doc__ or "", "outputs/fairness").parse_intermixed_args()
    if given.verb == "table":
        print(table(given.output))
        return
    for data, choice in DATA.items():
        if data == "Caltech-101" and given.caltech is None:
            continue
        place = [f"data.root={given.caltech}"] if data == "Caltech-101" else []
        for arm, (words, rates) in ARMS.items():
            everywhere = ["backbone=vit_nano", "trainer.epochs=10", *choice, *place]
            folder = folder_of(given.output, data, arm)
            status = train(f"{data}: {arm}", [*words, *everywhere], rates, SEEDS, folder, given.overrides)
            if status:
                sys.exit(f"{data}: {arm}: ended with {status}")


def folder_of(output: Path, data: str, arm: str) -> Path:
    """Where the runs of an arm on a data set lie."""
    return output / plain_name(data, arm)


def cells(output: Path, data: str, arm: str) -> Iterator[str]:
    """Accuracy, and how far it is above plain full fine-tuning with the same seeds; empty where runs lack."""
    values, plain = (accuracies(folder_of(output, data, name)) for name in (arm, "full"))
    yield interval([values[seed] for seed in sorted(values)]) if len(values) == SEEDS else ""
    paired = sorted(values.keys() & plain.keys())
    whole = arm != "full" and len(paired) == SEEDS
    yield interval([values[seed] - plain[seed] for seed in paired]) if whole else ""


def table(output: Path) -> str:
    """A row for each arm, two columns for each data set."""
    heads = [head for data in DATA for head in (f"{data} %", "minus full")]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for arm in ARMS:
        row = [cell for data in DATA for cell in cells(output, data, arm)]
        lines.append(f"| {arm} | {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
