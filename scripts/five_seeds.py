"""Two claims, each tried on real images over several seeds, with the interval of what comes out.

python scripts/five_seeds.py masks     sensitivity-chosen entries against random ones of equal number (SPT)
python scripts/five_seeds.py robust    FTP against full fine-tuning: accuracy, shifted accuracy, distance to the start

Seeds are paired: the interval is Student's, at 95 %, of the mean difference. Options: --seeds N, --output DIR, and any
overrides of a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from scipy.stats import t

import peftbench
from peftbench import backbones
from peftbench.common.seeds import mix

COMMON = ["backbone=resnet_nano", "data=digits", "data.size=32", "trainer.progress=false", "logger=none"]
TRIALS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "masks": (
        ["method=spt_sparse", "method.beta=null", "method.budget=0.01", "trainer.epochs=5"],
        {"random": ["method.choose=random"], "sensitivity": ["method.choose=sensitivity"]},
    ),
    "robust": (
        ["optimizer.lr=1e-3", "trainer.epochs=8", "data.ood=[corruptions]", "data.eval_batch_size=200"],
        {"full": ["method=full"], "ftp": ["method=ftp"]},
    ),
}


def figures(config: peftbench.Config) -> dict[str, float]:
    """Accuracies in per cent, and the distance of all weights to the start, relative to the start's norm."""
    record = peftbench.run(config)
    learned = safetensors.torch.load_file(Path(record.folder) / "delta.safetensors")
    torch.manual_seed(mix(config.seed, 1))
    start = backbones.build_with_weights(config.backbone, config.data.size).net
    moved, norm = 0.0, 0.0
    for name, weight in start.named_parameters():
        norm += weight.square().sum().item()
        if (now := learned.get(f"backbone.net.{name}")) is not None:
            moved += (now - weight).square().sum().item()
        if (values := learned.get(f"backbone.net.{_sparse(name)}.values")) is not None:
            moved += values.square().sum().item()
    found = {"test %": 100 * record.metrics["test/accuracy"], "distance": (moved / norm) ** 0.5}
    if "ood/accuracy" in record.metrics:
        found["shifted %"] = 100 * record.metrics["ood/accuracy"]
    return found | {"trainable": record.costs["parameters"]["method"]}


def _sparse(name: str) -> str:
    owner, _, last = name.rpartition(".")
    return f"{owner}.sparse_{last}"


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.4g} ± {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", default="outputs/five_seeds")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    common, arms = TRIALS[given.trial]
    words = [*COMMON, *common, *given.overrides, f"output_dir={given.output}"]
    rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for seed in range(given.seeds):
        for arm, own in arms.items():
            rows[arm].append(figures(peftbench.compose(*words, *own, f"seed={seed}")))
            print(seed, arm, rows[arm][-1], flush=True)
    (a, first), (b, second) = rows.items()
    print(f"\n| {given.seeds} seeds | {a} | {b} | {b} - {a} |\n| --- | --- | --- | --- |")
    for key in first[0]:
        x, y = [r[key] for r in first], [r[key] for r in second]
        print(f"| {key} | {interval(x)} | {interval(y)} | {interval([q - p for p, q in zip(x, y, strict=True)])} |")


if __name__ == "__main__":
    main()
