"""Real steps over timm's modules: five methods, one a mechanism, on a model of each at the smallest size that it takes.

    python scripts/timm_steps.py [--seconds 600] [--modules deit,convit] [--table docs/timm_steps.csv]

Each cell is a run through the command line: two steps with random weights, validation, test, meters, delta. It holds
`steps`, or why the run is refused or fails. Cells that are filled are left as they are, so that the script goes on
where it was stopped; `--again` fills those of the given modules anew. docs/backbones.md says what the table is of.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from timm_table import MODELS

TABLE = Path(__file__).resolve().parents[1] / "docs" / "timm_steps.csv"
METHODS = ("full", "lora", "adapter", "losa", "spt_lora")
"""All weights; updates of weights; branches beside blocks; a side net over taps; a plan by scores of gradients."""
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 384)
STEPS = "steps"
HEADING = ("module", "model", "size", *METHODS)

Row = dict[str, str]


def smallest_size(model: str) -> int | None:
    """The smallest of `SIZES` for which the model can be built and cut into taps; None is its own size."""
    from peftbench import backbones, config
    from peftbench.common.errors import UserError

    for size in SIZES:
        with contextlib.suppress(UserError):
            backbones.build_on_meta(config.Backbone(model, pretrained=False), size)
            return size
    return None


def step(model: str, size: int | None, method: str) -> str:
    """What comes of a run of two steps: `steps`, or the sentence that it ends with."""
    from peftbench.cli.main import main

    folder = tempfile.mkdtemp(prefix="timm-steps-")
    out, err = io.StringIO(), io.StringIO()
    words = [f"method={method}", "backbone=timm", f"backbone.name={model}", "backbone.pretrained=false"]
    words += ["data=digits", f"data.size={size or 'null'}", "data.batch_size=2", "data.eval_batch_size=2", "taps=off"]
    words += ["trainer.epochs=1", "trainer.max_batches=2", "trainer.progress=false", f"output_dir={folder}"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    except Exception as problem:
        return f"error: {type(problem).__name__}: {' '.join(str(problem).split())[:160]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if status == 130:  # stopped: the cell stays empty
        raise KeyboardInterrupt
    told = err.getvalue().strip().splitlines() or out.getvalue().strip().splitlines() or [f"status {status}"]
    return STEPS if status == 0 else f"{'refused' if status == 2 else 'failed'}: {told[-1].removeprefix('peftbench: ')}"


def read(table: Path) -> dict[str, Row]:
    """The rows by module; those that the table lacks are empty."""
    rows = {
        module: dict.fromkeys(HEADING, "") | {"module": module, "model": MODELS[module]} for module in sorted(MODELS)
    }
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as lines:
            rows |= {row["module"]: row for row in csv.DictReader(lines) if row["model"] == MODELS.get(row["module"])}
    return rows


def write(table: Path, rows: dict[str, Row]) -> None:
    """Writes the table, whole or not at all."""
    from peftbench.common.atomic_files import replacing

    with replacing(table) as part, part.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, HEADING, lineterminator="\n")
        lines.writeheader()
        lines.writerows(rows.values())


def fill(table: Path, modules: Sequence[str], seconds: float, again: bool = False) -> None:
    """Fills the empty cells of modules, and writes the table after each; no cell is begun after `seconds`."""
    rows, ends = read(table), time.monotonic() + seconds
    for module in modules:
        row = rows[module]
        if again:
            row |= dict.fromkeys(HEADING[2:], "")
        for method in METHODS:
            if time.monotonic() > ends:
                return
            if row[method]:
                continue
            if not row["size"]:
                row["size"] = str(smallest_size(row["model"]) or "own")
            row[method] = step(row["model"], None if row["size"] == "own" else int(row["size"]), method)
            write(table, rows)
            print(f"{module}: {method}: {row[method]}", flush=True)


def main() -> int:
    """Reads the words and fills the table."""
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many")
    words.add_argument("--modules", default=",".join(sorted(MODELS)), help="those of timm's to look at")
    words.add_argument("--table", type=Path, default=TABLE)
    words.add_argument("--again", action="store_true", help="fill the cells of these modules anew")
    given = words.parse_args()
    fill(given.table, given.modules.split(","), given.seconds, given.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
