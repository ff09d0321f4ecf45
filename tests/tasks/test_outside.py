"""A task from outside peftbench, without a fork: a package on PYTHONPATH, a YAML and a data set."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "outside"
RUN = ["backbone=resnet_nano", "data=ink_digits", "data.size=32", "logger=none", "trainer.accelerator=cpu"]


def peftbench(*words, of_task=True):
    """What the command prints; in a fresh process, which has only imported what the words ask for."""
    path = os.pathsep.join([*([str(HERE)] if of_task else []), *(p for p in sys.path if p)])
    command = [sys.executable, "-m", "peftbench.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    words = [*RUN, "trainer.epochs=3", "optimizer.lr=1e-2", f"output_dir={folder}"]
    table = peftbench("--config-dir", HERE / "configs", "-m", "method=linear,lora", *words)
    assert "R² %" in table
    assert "top-1" not in table
    return folder


def records(folder):
    return {r["config"]["method"]["name"]: r for r in (json.loads(p.read_text()) for p in folder.glob("*/result.json"))}


def test_it_is_short():
    lines = [line for file in (HERE / "ink").glob("*.py") for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 60, len(lines)


def test_it_trains_and_is_judged_by_its_own_metric(outputs):
    for record in records(outputs).values():
        assert record["status"] == "complete"
        assert {"test/r2", "val/r2"} <= set(record["metrics"])
        assert record["stamps"]["judged_by"] == "r2"
        assert record["costs"]["parameters"]["head"] > 0
    assert records(outputs)["linear"]["metrics"]["test/r2"] > 0.1
    assert records(outputs)["lora"]["metrics"]["test/r2"] > 0.6


def test_a_report_needs_nothing_of_it(outputs):
    """The task is not installed where the report is made, and nothing that a record names is imported."""
    report = peftbench("report", outputs, "--format=markdown", of_task=False)
    assert "r2" in report
    assert "linear" in report
    assert "lora" in report
    assert "r2" in peftbench("choose", outputs, "max_params=1M", of_task=False)


def test_a_tuned_model_predicts_a_number_for_each_image(outputs, tmp_path):
    import numpy as np
    from PIL import Image

    for name, grey in (("dark", 10), ("bright", 240)):
        Image.fromarray(np.full((8, 8), grey, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    run = outputs / records(outputs)["lora"]["id"]
    words = ["run=" + str(run), f"images={tmp_path}", f"out={tmp_path / 'ink.csv'}"]
    peftbench("predict", "--config-dir", HERE / "configs", *words)
    rows = {Path(r["image"]).stem: float(r["value_1"]) for r in csv.DictReader((tmp_path / "ink.csv").open())}
    assert set(rows) == {"dark", "bright"}
    assert rows["bright"] > rows["dark"]


def test_its_options_are_checked_as_any(tmp_path):
    command = [
        sys.executable,
        "-m",
        "peftbench.cli.main",
        "--config-dir",
        str(HERE / "configs"),
        *RUN,
        "task.bais=true",
    ]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *(p for p in sys.path if p)])}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "task.bais: there is no such key (did you mean 'task.bias'?)" in done.stderr
