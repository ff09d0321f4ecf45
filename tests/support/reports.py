"""Records as runs write them, and the command line that reports them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

from peftbench.cli.main import main
from peftbench.common.vtab_tasks import GROUPS
from peftbench.results import Record, print_table

TASKS = [f"vtab/{t}" for group in GROUPS.values() for t in group]


def record(method: str, task: str = "digits", seed: int = 0, accuracy: float = 0.9, **more: Any) -> dict[str, Any]:
    """A complete record as a run writes it. `more` are changes by dotted path, `__` for the dot."""
    found = {
        "schema": 1,
        "id": f"{method}-x-{task.replace('/', '_')}-s{seed}",
        "status": "complete",
        "reason": None,
        "config": {
            "method": {"name": method, "path": f"peftbench.methods.{method}.X", "options": {}},
            "backbone": {"name": "vit_base_patch16_224.orig_in21k", "weights": "hub", "drop_path": 0.0},
            "data": {"name": task, "batch_size": 64, "augment": "none", "stage": "final", "options": {}},
            "task": {"name": "classification", "label_smoothing": 0.0},
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4},
            "trainer": {"epochs": 100, "precision": "32", "devices": 1, "nodes": 1, "accelerator": "auto"},
            "taps": {"mode": "auto", "views": 0},
            "seed": seed,
            "choices": {"method": method, "backbone": "vit_b", "data": task},
        },
        "stamps": {
            "backbone": {"name": "vit_base_patch16_224.orig_in21k", "weights": "hub", "pretrained": True,
                         "fingerprint": "f" * 64, "input_size": 224},
            "data": {"split": task, "stage": "final", "hash": f"{task}-hash", "classes": 10, "skipped": [],
                     "images": {"train": 1000, "test": 10_000},
                     "transform": {"size": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}},
            "machine": {"processor": "a CPU", "threads": 2, "devices": []},
        },
        "metrics": {"test/accuracy": accuracy, "test/loss": 1 - accuracy, "train/loss": 0.1},
        "costs": {
            "parameters": {"method": 1000, "head": 100},
            "time": {"train": 60.0, "validate": 6.0, "step": {"median": 0.05}},
            "memory": {"peak": {"resident": 5e8, "exact": True}},
        },
        "history": [{"epoch": e, "step": e, "train_loss": 1 / e, "val_accuracy": 0.5} for e in (1, 2, 3)],
        "plan": {},
    }  # fmt: skip
    for path, value in more.items():
        *parents, last = path.split("__")
        place = found
        for key in parents:
            place = place[key]
        place[last] = value
    return found


def write(folder: Path, *records: dict[str, Any]) -> Path:
    for each in records:
        place = folder / each["id"]
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").write_text(json.dumps(each))
    return folder


def tell(*words: Any) -> str:
    status, out, err = call(*words)
    assert status == 0, err
    return out


def call(*words: Any) -> tuple[int, str, str]:
    """The command line in process; these verbs have no output_dir, which the fixture `cli` gives."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(w) for w in words])
    return status, out.getvalue(), err.getvalue()


def leaderboard(*places: Path, **options: str) -> list[dict[str, str]]:
    words = [f"{k}={v}" for k, v in options.items()]
    return list(csv.DictReader(io.StringIO(tell("report", *places, "--format=csv", *words))))


def one(lines: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (found,) = [line for line in lines if all(line[k] == v for k, v in wanted.items())]
    return found


def detection(method: str, seed: int = 0, ap: float = 0.4, task: str = "digits_det", **more: Any) -> dict[str, Any]:
    """A complete record of a detector."""
    metrics = {"test/AP": ap, "test/AP50": ap + 0.2, "test/AP/one": ap, "test/loss": 1.0, "val/AP": ap - 0.1}
    history = [{"epoch": e, "step": e, "train_loss": 1 / e, "val_AP": ap - 0.1} for e in (1, 2, 3)]
    own = {"name": "detection", "detector": "fcos"}
    return record(method, task, seed, **{"metrics": metrics, "history": history, "config__task": own} | more)


def columns(capsys, *records):
    """The head and the rows of the table at the end of a command with these records; at least two."""
    print_table([Record(**{k: v for k, v in r.items() if k != "schema"}) for r in records])
    head, _, *rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    return head, rows
