"""`peftbench report` over records as large as those of runs of 100 epochs, in the terminal and as a page."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

from bench.tables import Row, megabytes
from bench.timing import watched

COUNT = 10_000
FORMS = ("terminal", "html")


def _what(count: int, form: str) -> tuple[str, str]:
    """The names of two rows: of its time and of its memory."""
    what = f"report over {count:,} records, {form}"
    return what, f"{what}: peak memory"


def names() -> list[str]:
    return [what for form in FORMS for what in _what(COUNT, form)]


def measure(quick: bool = False) -> list[Row]:
    """`quick` has 100 records."""
    count = 100 if quick else COUNT
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _write_records(Path(folder), count)
        for form in FORMS:
            command = [sys.executable, "-m", "peftbench.cli.main", "report", folder, f"--format={form}"]
            spent, peak = watched(command)
            of_time, of_memory = _what(count, form)
            rows.append(Row(of_time, f"{spent:.1f} s", limit="10 s", kept=spent < 10))
            rows.append(Row(of_memory, megabytes(peak), limit="1 GB", kept=peak < 1e9))
    return rows


METHODS = ("full", "linear", "bitfit", "lora", "spt_lora", "losa", "lst", "ftp", "l2sp")
_TRANSFORM = {"size": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "none"}
_LAYERS = [{"name": f"blocks.{b}.{n}.weight", "kind": "lora", "parameters": 6144} for b in range(12) for n in "abcdef"]


def _write_records(folder: Path, count: int) -> None:
    """Records of nine methods in several settings on VTAB's tasks, with stamps, histories and, for some, plans."""
    import peftbench
    from peftbench.common.vtab_tasks import GROUPS

    tasks = [f"vtab/{task}" for group in GROUPS.values() for task in group]
    configs = {
        method: peftbench.compose(f"method={method}", "backbone=vit_b", "data=vtab/cifar").to_dict()
        for method in METHODS
    }
    draw = random.Random(0)
    for i in range(count):
        rest, seed = divmod(i, 5)
        rest, task = divmod(rest, len(tasks))
        setting, method = divmod(rest, len(METHODS))
        config = json.loads(json.dumps(configs[METHODS[method]]))
        config["seed"], config["data"]["name"], config["choices"]["data"] = seed, tasks[task], tasks[task]
        config["optimizer"]["lr"] = 1e-4 * (setting + 1)
        name = f"{METHODS[method]}-vit_b-{tasks[task].replace('/', '_')}-s{seed}-{i:010x}"
        (folder / name).mkdir()
        content = _record(name, config, f"{task:064x}", draw)
        (folder / name / "result.json").write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _record(name: str, config: dict, data_hash: str, draw: random.Random) -> dict:
    """The content of a record whose figures are drawn."""
    history = [
        {
            "epoch": epoch,
            "step": 16 * epoch,
            "train_loss": draw.random(),
            "lr": draw.random(),
            "train_seconds": 1.5 * epoch,
            "val_accuracy": draw.random(),
            "val_class_accuracy": draw.random(),
            "val_loss": draw.random(),
        }
        for epoch in range(1, 101)
    ]
    return {
        "schema": 1,
        "id": name,
        "status": "complete",
        "reason": None,
        "config": config,
        "stamps": {
            "backbone": {
                "name": config["backbone"]["name"],
                "weights": "hub",
                "pretrained": True,
                "fingerprint": "0" * 64,
            },
            "data": {
                "split": config["data"]["name"],
                "stage": "final",
                "hash": data_hash,
                "transform": _TRANSFORM,
            },
            "machine": {"processor": "-", "threads": 8, "devices": ["a GPU"]},
        },
        "costs": {
            "parameters": {"method": 300_000, "head": 76_900},
            "memory": {"peak": {"allocated": 4e9}},
            "time": {"step": {"median": 0.1}, "train": 160 + draw.random(), "validate": 5.0},
        },
        "metrics": {"test/accuracy": draw.random(), "test/loss": draw.random()},
        "history": history,
        "plan": {"layers": _LAYERS} if config["method"]["name"] == "spt_lora" else {},
    }
