"""A regression run: targets standardised for training, numbers in their own units everywhere else."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

import peftbench
from peftbench.data.digits import Digits
from peftbench.results import Record
from peftbench.runs.run import run
from support.finished_runs import records_in, same
from support.forks import python
from support.mistakes import refused
from support.new_tasks import exported, joint_and_alone
from support.runs import QUICK, SMALL, learned, told_by
from support.stops import interrupted_and_undisturbed

TASK = ["task=regression", "optimizer.lr=0.01", "logger=none", "trainer.accelerator=cpu"]
BAD = ["optimizer.lr=1", "optimizer.schedule=constant", "optimizer.warmup=0"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of which the second is worse than the mean of the targets."""
    folder = tmp_path_factory.mktemp("numbers")
    for more in (["task.loss=huber"], [*BAD, "trainer.keep=best"]):
        run(peftbench.compose(*QUICK, *TASK, "method=linear", f"output_dir={folder}", *more))
    return folder


@pytest.fixture(scope="module")
def good(outputs: Path) -> Record:
    return max(records_in(outputs), key=lambda record: record.metrics["test/r2"])


@pytest.fixture(scope="module")
def bad(outputs: Path) -> Record:
    return min(records_in(outputs), key=lambda record: record.metrics["test/r2"])


def test_the_loaded_model_predicts_in_the_units_of_the_targets_what_was_measured(good):
    assert good.status == "complete", good.reason
    splits, tuned = Digits().load_as("numbers"), peftbench.load(good.folder)
    task = tuned.model.task
    assert tuned.classes == ("digit", "ink")
    assert task.mean.numpy() == pytest.approx(splits.train.labels.mean(0), rel=1e-5)
    assert task.deviation.numpy() == pytest.approx(splits.train.labels.std(0), rel=1e-5)
    part = splits.test.take(np.arange(3 * 64))  # of so many batches, as the run was told
    with torch.no_grad():
        said = tuned(torch.stack([tuned.transform(image) for image in part.images])).numpy()
    assert good.metrics["test/r2"] == pytest.approx(r2_score(part.labels, said), abs=1e-4)
    assert good.metrics["test/mae"] == pytest.approx(mean_absolute_error(part.labels, said), rel=1e-4)
    assert good.stamps["judged_by"] == "r2"
    assert "chosen" not in good.stamps


def test_predict_gives_a_column_for_each_number(good, capsys, tmp_path):
    Image.fromarray(Digits().load().test.images[0]).save(tmp_path / "one.png")
    for name in ("said.csv", "said.json"):
        words = ["predict", f"run={good.folder}", f"images={tmp_path}", f"out={tmp_path / name}"]
        assert told_by(capsys, *words)[0] == 0
    (row,) = csv.DictReader((tmp_path / "said.csv").open())
    assert list(row) == ["image", "digit", "ink"]
    (image,) = json.loads((tmp_path / "said.json").read_text())["images"]
    assert image["predictions"] == {"digit": float(row["digit"]), "ink": float(row["ink"])}


def test_evaluate_gives_figures_of_each_number(good, capsys, tmp_path):
    test = Digits().load_as("numbers").test.take(np.arange(40))
    rows = []
    for at in range(40):
        Image.fromarray(test.images[at]).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{test.labels[at, 1]:.9g},{test.labels[at, 0]:.9g},x")
    (tmp_path / "of.csv").write_text("\n".join(["path,ink,digit,other", *rows]))
    words = ["evaluate", f"run={good.folder}", f"images={tmp_path}"]
    status, out, err = told_by(capsys, *words, "labels=of.csv")
    assert status == 0, err
    figures = json.loads(Path(out.splitlines()[-1]).read_text())["figures"]
    tuned = peftbench.load(good.folder, merge=False)
    with torch.no_grad():
        said = tuned(torch.stack([tuned.transform(image) for image in test.images])).numpy()
    for at, row in enumerate(figures["numbers"]):
        assert row["name"] == tuned.classes[at]
        assert row["mae"] == pytest.approx(mean_absolute_error(test.labels[:, at], said[:, at]), rel=1e-3)
        assert row["r2"] == pytest.approx(r2_score(test.labels[:, at], said[:, at]), abs=1e-3)
        assert row["spearman"] == pytest.approx(spearmanr(test.labels[:, at], said[:, at])[0], abs=1e-3)
    for name in ("r2", "mae", "spearman"):
        low, high = figures["intervals"][name]
        assert low < figures[name] < high, name
    together = [f"{at}.png,{test.labels[at, 0]:.9g};{test.labels[at, 1]:.9g}" for at in range(40)]
    (tmp_path / "together.csv").write_text("\n".join(["path,label", *together]))
    assert tuned.evaluate(tmp_path, "together.csv").figures == figures


def test_runs_of_several_tasks_are_ranked_apart(outputs, finished, capsys, tmp_path):
    for folder in (outputs, finished):
        shutil.copytree(folder, tmp_path / "runs", dirs_exist_ok=True)
    test, splits = Digits().load_as("numbers").test, Digits().load()
    rows = ["path,label,digit,ink"]
    for at, (digit, ink) in enumerate(test.labels[:12]):
        Image.fromarray(test.images[at]).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{splits.classes[splits.test.labels[at]]},{digit:.9g},{ink:.9g}")
    (tmp_path / "of.csv").write_text("\n".join(rows))
    words = ["evaluate", f"run={tmp_path / 'runs'}", f"images={tmp_path}", "labels=of.csv"]
    status, out, err = told_by(capsys, *words)
    assert status == 0, err
    table = out.splitlines()[-5:]
    heads = [line for line in table if line.startswith("task=")]
    assert sorted(heads) == ["task=classification, by accuracy:", "task=regression, by r2:"]
    at = table.index("task=regression, by r2:")
    assert [line.split()[1] for line in table[at + 1 : at + 3]] == ["r2", "r2"]


def test_its_page_speaks_of_numbers_and_shows_the_share_below_0_as_everywhere(bad, capsys, tmp_path):
    folder = shutil.copytree(bad.folder, tmp_path / "run")
    status, _, err = told_by(capsys, "report", f"run={folder}")
    assert status == 0, err
    page = (folder / "page.html").read_text()
    assert re.search(r"<td>test/r2</td><td>(-[\d.]+ %) of", page)[1] == f"{100 * bad.metrics['test/r2']:.1f} %"
    assert "<td>numbers</td><td>2</td>" in page
    assert "<td>classes</td>" not in page


def test_evaluate_refuses_numbers_that_are_none_or_too_few(good, capsys, tmp_path):
    for at in range(2):
        Image.fromarray(Digits().load().test.images[at]).save(tmp_path / f"{at}.png")
    words = ["evaluate", f"run={good.folder}", f"images={tmp_path}", "labels=of.csv"]
    for text, expected in (
        ("path,ink,digit\n0.png,0.2,nan\n1.png,0.3,2", "of.csv:2: column 'digit' holds 'nan'"),
        ("path,label\n0.png,3\n1.png,4", "of.csv:2: column 'label' holds 1 numbers, and the run predicts 2"),
        ("path,ink\n0.png,3", "has no column 'digit', which the run predicts"),
        ("path,label\n", "has no rows"),
    ):
        (tmp_path / "of.csv").write_text(text)
        refused(told_by(capsys, *words), expected)
    (tmp_path / "of.csv").write_text("path,label\n0.png,3;0.1\n1.png,3;0.2")
    status, out, err = told_by(capsys, *words)
    assert status == 0, err
    assert "note: 'digit' is the same for all images" in out
    row = json.loads(Path(out.splitlines()[-1]).read_text())["figures"]["numbers"][0]
    assert row["r2"] is row["spearman"] is None
    assert row["mae"] > 0


def test_a_figure_below_nothing_is_told_as_any(outputs, good, bad, capsys, tmp_path):
    """In the best epoch that is kept, the table, the report, its page, and the answer which method to take."""
    low = bad.metrics["test/r2"]
    assert low < 0
    reached = [row["val_r2"] for row in bad.history]
    assert bad.stamps["kept"]["val/r2"] == max(reached)
    status, out, err = told_by(capsys, "report", outputs, "settings=all")
    assert status == 0, err
    assert f"{100 * low:.1f}" in out.replace("−", "-")
    status, out, err = told_by(capsys, "choose", str(outputs))
    assert status == 0, err
    assert f"{100 * good.metrics['test/r2']:.1f}" in out
    assert told_by(capsys, "report", outputs, "--format=html", f"output={tmp_path / 'page.html'}")[0] == 0
    refused(told_by(capsys, "choose", str(outputs), "metric=test/mae"), "metric=test/mae: less of it is better")
    status, out, err = told_by(capsys, "report", str(outputs), "metric=test/mae")
    assert status == 0, err
    assert "× 100" in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["task.huber_delta=2"], ["task.huber_delta=2", "task.loss=huber"]),
        (["task.loss=mae"], ["task.loss", "mse", "huber"]),
        (["task.huber_delta=0", "task.loss=huber"], ["task.huber_delta"]),
        (["data=photos"], ["task=regression", "data=photos", "task=classification"]),
    ],
)
def test_what_makes_no_sense_is_refused(cli, words, parts):
    refused(cli(*SMALL, *TASK, "method=linear", *words), *parts)


def test_a_split_whose_targets_are_all_the_same_is_refused(cli, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for at in range(9):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{7 if at < 3 else at},{('train', 'val', 'test')[at // 3]}")
    (tmp_path / "of.csv").write_text("\n".join(["path,label,split", *rows]))
    words = ["backbone=resnet_nano", "data=folder", f"data.root={tmp_path}", "data.labels=of.csv", "data.size=32"]
    told = cli(*words, *TASK, "method=linear", "backbone.pretrained=false", f"output_dir={tmp_path / 'out'}")
    refused(told, "'label' is 7 in all 3 training images", "expected numbers that differ")


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    more = ["method=lora", "trainer.keep=best", "trainer.ema=0.5"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *TASK, *more)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    found = []
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        words = [*more, *QUICK, *TASK, "method=bitfit", f"output_dir={tmp_path / place}", "trainer.threads=1"]
        words += ["data.eval_batch_size=999"]  # all images, of so many batches as the runs are told
        done = subprocess.run([python(), "-m", "peftbench.cli.main", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found += records_in(tmp_path / place)
    one, two = found
    for name, value in one.metrics.items():
        assert two.metrics[name] == pytest.approx(value, abs=5e-3), name


@pytest.mark.slow
def test_runs_that_train_together_are_as_each_is_alone(tmp_path):
    joint_and_alone(tmp_path, TASK, ("val/r2", "test/r2", "test/mae", "test/spearman"))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "safetensors", "peft"])
def test_it_is_exported_as_it_predicts(tmp_path, capsys, format):
    """With the units of the targets in the weights of the head, where a file holds a plain timm model."""
    exported(tmp_path, capsys, TASK, format, "format=peft: task=regression keeps")
