"""A task from outside peftbench, without a fork: a package on PYTHONPATH, a YAML and a data set."""

import contextlib
import csv
import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "outside"
RUN = ["backbone=resnet_nano", "data=ink_digits", "data.size=32", "logger=none", "trainer.accelerator=cpu"]


@contextlib.contextmanager
def installed():
    """The package is on the path, and afterwards neither there nor among what is imported."""
    sys.path.insert(0, str(HERE))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(HERE))
        for name in [m for m in sys.modules if m.partition(".")[0] == "ink"]:
            del sys.modules[name]


def command(*words):
    """The status of a command, what it prints, and what it prints of errors."""
    from peftbench.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([str(word) for word in words])
    return status, out.getvalue(), err.getvalue()


def peftbench(*words, of_task=True):
    """What the command prints; where the task is not installed, nothing of it can be imported."""
    with installed() if of_task else contextlib.nullcontext():
        status, out, err = command(*words)
    assert status == 0, out + err
    if not of_task:
        assert importlib.util.find_spec("ink") is None
    return out


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


def test_its_options_are_checked_as_any():
    with installed():
        status, _, err = command("--config-dir", HERE / "configs", *RUN, "task.bais=true")
    assert status == 2
    assert "task.bais: there is no such key (did you mean 'task.bias'?)" in err
