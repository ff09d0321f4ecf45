"""`peftbench auto` against a sweep, LoRA with its defaults, and the linear probe, on six tasks.

It has 2 and 5 minutes with three seeds each, and 15 on two tasks with one.

    python scripts/auto_table.py run   [--output DIR] [--caltech DIR] [--cells DIR] [--minutes N] [--only TASK …]
    python scripts/auto_table.py table [--output DIR]           the table of docs/auto.md, written there

`run` does what lacks, a row after the other, and appends each to docs/auto_table.csv as soon as it is there; the same
command goes on. --minutes ends it before the next row once they are over. Nothing else should run on the machine: the
clock is part of what is measured.

Tasks: `digits` and `photos` are in the package. `noise` is digits in noise, `windows` the middle windows of photos as
the clip maker (make_clips.py) cuts them, told apart by what is in the photo: both are written into DIR. `caltech` is
VTAB-1k's folder of Caltech-101 (--caltech), `cells` the boxes of a COCO folder of blood cells (--cells, with
annotations.json or annotations/*.json), cut out. A task whose data were not given is left out.

The two backbones of the sweep, and the best one for LoRA and the probe, are those that `auto` found best in 5 minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

import numpy as np
from make_clips import PHOTOS, slide
from PIL import Image

import peftbench

CSV = Path(__file__).resolve().parents[1] / "docs" / "auto_table.csv"
PAGE = CSV.with_name("auto.md")
MARKS = ("<!-- auto_table -->", "<!-- end of auto_table -->")
COLUMNS = (
    *("task", "arm", "minutes", "seed", "backbone", "method", "val", "val_images", "test", "test_images"),
    *("tried", "seconds"),
)
MINUTES, SEEDS = (2, 5), (0, 1, 2)
LONG, LONG_TASKS = 15, ("digits", "photos")
METHODS = ("linear", "logreg", "bitfit", "lora", "losa", "cst", "full")
TIMES = (1 / 3, 1.0, 3.0)
"""Rates of the sweep's three trials, as multiples of the method's own."""
Row = dict[str, str]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("verb", choices=("run", "table"))
    made.add_argument("--output", type=Path, default=Path("outputs/auto_table"))
    made.add_argument("--csv", type=Path, default=CSV)
    made.add_argument("--caltech", type=Path)
    made.add_argument("--cells", type=Path)
    made.add_argument("--minutes", type=float, default=math.inf)
    made.add_argument("--only", nargs="*", default=[])
    made.add_argument("--rows", type=int, default=sys.maxsize, help="so many rows at most")
    given = made.parse_args()
    if given.verb == "table":
        _write_table(table(rows_of(given.csv)))
        return
    end = time.monotonic() + 60 * given.minutes
    for count, row in enumerate(_lacking(given), start=1):
        _append(given.csv, row)
        print(", ".join(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        if time.monotonic() > end or count >= given.rows:
            sys.exit(f"{given.minutes:g} minutes, or {given.rows} rows, are over; the same command goes on.")


def _lacking(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Makes the rows that are not there yet, those of 5 minutes first: they say which backbones the others take."""
    for task, words in _tasks(given).items():
        if given.only and task not in given.only:
            continue
        cells = [(5, 0), *((m, s) for m in MINUTES for s in SEEDS if (m, s) != (5, 0))]
        cells += [(LONG, 0)] if task in LONG_TASKS else []
        for minutes, seed in cells[:1]:
            yield from _auto(given, task, words, minutes, seed)
        best = _best_backbones(given.output / task / "auto-5-0")
        yield from _arm(given, task, words, "linear", best[0], "linear", (1.0,))
        yield from _arm(given, task, words, "lora", best[0], "lora", (1.0,))
        for minutes, seed in cells[1:]:
            yield from _auto(given, task, words, minutes, seed)
        for backbone in best[:2]:
            for method in METHODS:
                yield from _arm(given, task, words, "sweep", backbone, method, TIMES)


def _auto(given: argparse.Namespace, task: str, words: Sequence[str], minutes: int, seed: int) -> Iterator[dict]:
    key = {"task": task, "arm": "auto", "minutes": str(minutes), "seed": str(seed)}
    if _is_there(given.csv, key):
        return
    folder = given.output / task / f"auto-{minutes}-{seed}"
    begun = time.monotonic()
    _peftbench("auto", *words, f"minutes={minutes}", f"seed={seed}", f"output_dir={folder}")
    state = _state(folder)
    answer = state["answer"]
    took = max(time.monotonic() - begun, float(state["spent"]))  # of a command that was ended and goes on, all of it
    yield {
        **key,
        "backbone": answer["backbone"],
        "method": answer["method"],
        "val": answer["val"],
        "val_images": answer["val_images"],
        "test": answer["test"],
        "test_images": answer["test_images"],
        "tried": answer["tried"],
        "seconds": round(took, 1),
    }


def _arm(
    given: argparse.Namespace, task: str, words: Sequence[str], arm: str, backbone: str, method: str, times: Sequence
) -> Iterator[dict]:
    """A method on a backbone: each rate judged by validation images, the best trained on all and tested."""
    key = {"task": task, "arm": arm, "backbone": backbone, "method": method}
    if _is_there(given.csv, key):
        return
    folder = given.output / task / f"{arm}-{backbone}-{method}"
    run = [f"method={method}", f"backbone={backbone}", *words, f"output_dir={folder}"]
    rate = peftbench.compose(*run).optimizer.lr
    rates = [rate] if method == "logreg" else [rate * factor for factor in times]
    begun = time.monotonic()
    quiet = ["trainer.progress=false", "logger=none"]
    share = _share(words, run)
    for lr in rates:
        _peftbench(*run, *quiet, *share, f"optimizer.lr={lr:g}", "data.stage=tune")
    trials = [record for record in _records(folder) if record["config"]["data"]["stage"] == "tune"]
    best = max(trials, key=lambda record: record["metrics"]["val/accuracy"])
    chosen = f"optimizer.lr={best['config']['optimizer']['lr']:g}"
    _peftbench(*run, *quiet, *share, chosen, "data.stage=final")
    (final,) = [record for record in _records(folder) if record["config"]["data"]["stage"] == "final"]
    yield {
        **key,
        "minutes": "",
        "seed": "0",
        "val": best["metrics"]["val/accuracy"],
        "val_images": best["stamps"]["data"]["images"]["val"],
        "test": final["metrics"]["test/accuracy"],
        "test_images": final["stamps"]["data"]["images"]["test"],
        "tried": len(rates),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _share(words: Sequence[str], run: Sequence[str]) -> list[str]:
    """The share of validation images, where the data set has none of its own."""
    given = any(word.startswith("data.val_fraction=") for word in words)
    return ["data.val_fraction=0.2"] if not given and "val_fraction" in peftbench.compose(*run).data.options else []


def _peftbench(*words: str) -> None:
    print(" ".join(["peftbench", *words]), flush=True)
    done = subprocess.run([sys.executable, "-m", "peftbench", *words], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"ended with {done.returncode}; the same command goes on.")


def _records(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*/result.json"))]
    return [record for record in records if record["status"] == "complete"]


def _state(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("auto-*/auto.json")
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def _best_backbones(folder: Path) -> list[str]:
    """By the probes of an answer, the best one first."""
    best: dict[str, float] = {}
    for one in _state(folder)["tried"]:
        if one["step"].startswith("probes") and one["value"] is not None:
            best[one["backbone"]] = max(best.get(one["backbone"], 0.0), one["value"])
    return sorted(best, key=lambda name: -best[name])


def _tasks(given: argparse.Namespace) -> dict[str, list[str]]:
    """Task -> the words of its data; those that are made are made once."""
    made = given.output / "data"
    tasks = {"digits": ["data=digits"], "photos": ["data=photos"]}
    if given.caltech is not None:
        tasks["caltech"] = ["data=vtab/caltech101", f"data.root={given.caltech}"]
    for name, make in (("noise", _make_noise), ("windows", _make_windows)):
        if not (made / name).is_dir():
            _made_whole(made / name, make)
        tasks[name] = ["data=folder", f"data.root={made / name}"]
    if given.cells is not None:
        if not (made / "cells").is_dir():
            _made_whole(made / "cells", lambda folder: _make_cells(given.cells, folder))
        tasks["cells"] = ["data=folder", f"data.root={made / 'cells'}"]
    return tasks


def _made_whole(folder: Path, make: Any) -> None:
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    make(part)
    part.rename(folder)


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def _make_noise(folder: Path) -> None:
    """The digits, 32 pixels wide, in noise of a third of the range."""
    from sklearn.datasets import load_digits

    rng, digits = np.random.default_rng(0), load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        noisy = np.kron(pixels / 16, np.ones((4, 4))) + rng.normal(0, 1 / 3, (32, 32))
        _save(Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8)), folder / str(label) / f"{number}.png")


def _make_windows(folder: Path) -> None:
    for photo in sorted(PHOTOS.glob("*/*/*.jpg")):
        with Image.open(photo) as picture:
            frame = slide(picture.convert("RGB"), (1, 0), 3)[1]
        _save(frame, folder / photo.parent.name / f"{photo.parent.parent.name}-{photo.stem}.png")


def _make_cells(source: Path, folder: Path) -> None:
    """Each box of a COCO folder as an image, in the folder of its class."""
    for file in sorted(source.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "annotations" not in content:
            continue
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        files = {entry["id"]: entry["file_name"] for entry in content["images"]}
        for box in content["annotations"]:
            (image,) = list(source.rglob(Path(files[box["image_id"]]).name))[:1]
            x, y, width, height = box["bbox"]
            if width >= 4 and height >= 4:
                with Image.open(image) as picture:
                    crop = picture.convert("RGB").crop((x, y, x + width, y + height))
                _save(crop, folder / names[box["category_id"]] / f"{file.stem}-{box['id']}.png")


def rows_of(file: Path) -> list[Row]:
    """What has been measured."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _is_there(file: Path, key: dict[str, str]) -> bool:
    return any(all(row[name] == value for name, value in key.items()) for row in rows_of(file))


def _append(file: Path, row: dict[str, Any]) -> None:
    begins = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow(row)


def table(rows: Sequence[Row]) -> str:
    """As Markdown: a line for each task, then the goals."""
    heads = [
        "task",
        "auto, 2 min",
        "auto, 5 min",
        "auto, 15 min",
        "sweep",
        "its time",
        "LoRA",
        "linear",
        "val - test, 5 min",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    holds, minus, counted = 0, [], 0
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        sweep = max((r for r in own if r["arm"] == "sweep"), key=lambda r: float(r["val"]), default=None)
        five = [row for row in own if (row["arm"], row["minutes"]) == ("auto", "5") and row["test"]]
        cells = [task, *(_tests(own, "auto", minutes) for minutes in ("2", "5", "15"))]
        cells.append("" if sweep is None else f"{100 * float(sweep['test']):.1f}")
        seconds = sum(float(r["seconds"]) for r in own if r["arm"] == "sweep")
        cells.append(f"{seconds / 60:.0f} min" if seconds else "")
        cells += [_tests(own, arm, "") for arm in ("lora", "linear")]
        if five:
            low, high = _difference(five[0])
            counted, holds = counted + 1, holds + (low <= 0 <= high)
            cells.append(f"{100 * low:+.1f} to {100 * high:+.1f}")
        else:
            cells.append("")
        if five and sweep is not None:
            minus.append(100 * (mean(float(r["test"]) for r in five) - float(sweep["test"])))
        lines.append(f"| {' | '.join(cells)} |")
    if minus:
        lines += [
            "",
            f"`auto` in 5 minutes less the sweep: {mean(minus):+.1f} points on average over {len(minus)} tasks.",
        ]
    if counted:
        lines.append(f"The interval of validation less test holds zero on {holds} of {counted}.")
    return "\n".join(lines)


def _tests(rows: Sequence[Row], arm: str, minutes: str) -> str:
    """Mean test accuracy, and from how many seeds where it is more than one."""
    found = [100 * float(r["test"]) for r in rows if (r["arm"], r["minutes"]) == (arm, minutes) and r["test"]]
    return "" if not found else f"{mean(found):.1f}" + (f" ({len(found)})" if len(found) > 1 else "")


def _difference(row: Row) -> tuple[float, float]:
    """The 95 % interval of validation less test, both sampled; on the side of the choice Bonferroni's, over what was
    tried, since the best of many is too high."""
    val, test = float(row["val"]), float(row["test"])
    pooled = (val * int(row["val_images"]) + test * int(row["test_images"])) / (
        int(row["val_images"]) + int(row["test_images"])
    )
    error = math.sqrt(max(pooled * (1 - pooled), 1e-4) * (1 / int(row["val_images"]) + 1 / int(row["test_images"])))
    normal = NormalDist()
    chosen = normal.inv_cdf(1 - 0.025 / max(int(row["tried"]), 1))
    return val - test - chosen * error, val - test + normal.inv_cdf(0.975) * error


def _write_table(content: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = MARKS
    if begin not in text:
        text += f"\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
