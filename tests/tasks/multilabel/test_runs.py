"""A multi-label run: trained, judged, saved with its threshold, and used."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

import peftbench
from peftbench.data.digits import Digits
from peftbench.results import Record
from peftbench.runs.run import run
from support.finished_runs import records_in, same
from support.forks import python
from support.mistakes import refused
from support.new_tasks import exported, joint_and_alone
from support.runs import QUICK, learned, told_by
from support.stops import interrupted_and_undisturbed

TASK = ["task=multilabel", "optimizer.lr=0.01", "logger=none", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return run(peftbench.compose(*QUICK, *TASK, "method=linear", f"output_dir={tmp_path_factory.mktemp('labels')}"))


def probabilities(tuned: peftbench.Tuned, split) -> torch.Tensor:
    pixels = torch.stack([tuned.transform(image) for image in split.images])
    with torch.no_grad():
        return tuned(pixels).double().sigmoid()


def test_its_threshold_is_chosen_on_validation_images_and_kept_with_the_model(finished):
    assert finished.status == "complete", finished.reason
    assert finished.stamps["judged_by"] == "mAP"
    tuned, splits = peftbench.load(finished.folder), Digits().load_as("labels")
    threshold = tuned.model.task.threshold.item()
    assert finished.stamps["chosen"] == {"threshold": threshold}
    assert tuned.classes == splits.classes
    for role, split in (("val", splits.val), ("test", splits.test)):
        count = len(split)  # of so many batches, as the run was told
        part = split.take(np.arange(min(count, 3 * 64)))
        said = probabilities(tuned, part) >= threshold
        assert finished.metrics[f"{role}/f1"] == pytest.approx(f1_score(part.labels.ravel(), said.flatten()), abs=1e-3)
    last = finished.history[-1]
    assert finished.metrics["val/f1"] >= last["val_f1"]  # which is at 0.5
    assert finished.metrics["val/mAP"] == pytest.approx(last["val_mAP"])
    assert 0 < finished.metrics["test/f1_macro"] < 1


@pytest.fixture
def shots(tmp_path) -> tuple[Path, list[str]]:
    """(a folder with 40 of the test images, what a CSV says of each: its labels, split at `;`)."""
    test, names = Digits().load_as("labels").test, Digits().load_as("labels").classes
    (tmp_path / "shots").mkdir()
    rows = []
    for at in range(40):
        Image.fromarray(test.images[at]).save(tmp_path / "shots" / f"{at}.png")
        there = [name for name, has in zip(names, test.labels[at], strict=True) if has]
        rows.append(f"{at}.png,{';'.join(there)}")
    return tmp_path / "shots", rows


def test_evaluate_gives_precisions_and_f1_at_the_kept_threshold(finished, shots, capsys):
    images, rows = shots
    (images / "of.csv").write_text("\n".join(["path,label", *rows]))
    words = ["evaluate", f"run={finished.folder}", f"images={images}", "labels=of.csv"]
    status, out, err = told_by(capsys, *words)
    assert status == 0, err
    content = json.loads(Path(out.splitlines()[-1]).read_text())
    figures, tuned = content["figures"], peftbench.load(finished.folder, merge=False)
    part = Digits().load_as("labels").test.take(np.arange(40))
    values = probabilities(tuned, part).numpy()
    of_each = average_precision_score(part.labels, values, average=None)
    assert [row["average_precision"] for row in figures["classes"]] == pytest.approx(list(of_each), abs=1e-4)
    assert figures["mAP"] == pytest.approx(of_each.mean(), abs=1e-4)
    assert figures["threshold"] == finished.stamps["chosen"]["threshold"]
    said = values >= figures["threshold"]
    assert figures["f1"] == pytest.approx(f1_score(part.labels.ravel(), said.ravel()), abs=1e-3)
    of_labels = f1_score(part.labels, said, average=None)
    assert [row["f1"] for row in figures["classes"]] == pytest.approx(list(of_labels), abs=1e-3)
    for name in ("mAP", "f1", "f1_macro"):
        low, high = figures["intervals"][name]
        assert low < figures[name] < high, name
    # A column for each label says the same.
    flags = [f"{at}.png," + ",".join(str(int(has)) for has in part.labels[at]) for at in range(40)]
    (images / "flags.csv").write_text("\n".join([f"path,{','.join(tuned.classes)}", *flags]))
    assert tuned.evaluate(images, "flags.csv").figures == figures


@pytest.mark.slow
def test_evaluate_on_a_data_set_gives_the_figures_of_the_run_s_own_test(finished, capsys):
    whole = run(
        peftbench.compose(*QUICK, *TASK, "method=linear", "trainer.max_batches=null", f"output_dir={finished.folder}")
    )
    status, out, err = told_by(capsys, "evaluate", f"run={whole.folder}", "data=digits")
    assert status == 0, err
    content = json.loads(Path(out.splitlines()[-1]).read_text())
    assert content["data"]["copies_of_training"] == [], "pixels are compared where there are no files"
    figures = content["figures"]
    for name in ("mAP", "f1", "f1_macro"):
        assert figures[name] == pytest.approx(whole.metrics[f"test/{name}"], abs=1e-4), name


def test_labels_without_images_and_labels_that_the_run_does_not_know(finished, shots, capsys):
    images, rows = shots
    words = ["evaluate", f"run={finished.folder}", f"images={images}"]
    refused(told_by(capsys, *words), "class folders say one class for each image")
    (images / "odd.csv").write_text("\n".join(["path,label", f"{rows[0]};evn", *rows[1:]]))
    told = told_by(capsys, *words, "labels=odd.csv")
    refused(told, "odd: 1 image has a label that the run does not know: 'evn' (did you mean 'even'?)")
    status, out, err = told_by(capsys, *words, "labels=odd.csv", "unknown=skip")
    assert status == 0, err
    assert "note: of 1 image labels that the run does not know are left out: 'evn'" in out
    (images / "few.csv").write_text("\n".join(["path,label", *(row.replace("prime", "even") for row in rows)]))
    status, out, err = told_by(capsys, *words, "labels=few.csv")
    assert status == 0, err
    assert "note: 1 class without an image here: 'prime'" in out
    figures = json.loads(Path(out.splitlines()[-1]).read_text())["figures"]
    assert {row["name"]: row["average_precision"] for row in figures["classes"]}["prime"] is None
    (images / "columns.csv").write_text("path,even,prime\n0.png,0,1\n")
    refused(
        told_by(capsys, *words, "labels=columns.csv"), "has no column 'above 4'", "expected the columns even, prime"
    )


def test_predict_says_the_labels_from_the_threshold_on(finished, capsys, tmp_path):
    Image.fromarray(Digits().load().test.images[0]).save(tmp_path / "one.png")
    for name in ("said.csv", "said.json"):
        assert (
            told_by(capsys, "predict", f"run={finished.folder}", f"images={tmp_path}", f"out={tmp_path / name}")[0] == 0
        )
    (row,) = csv.DictReader((tmp_path / "said.csv").open())
    values = {name: float(row[f"probability_{name}"]) for name in ("even", "prime", "above 4", "loop")}
    threshold = finished.stamps["chosen"]["threshold"]
    assert row["labels"] == ";".join(name for name, p in values.items() if p >= threshold)
    (image,) = json.loads((tmp_path / "said.json").read_text())["images"]
    assert image["predictions"] == {"labels": [x for x in row["labels"].split(";") if x], "probabilities": values}
    told = told_by(capsys, "predict", f"run={finished.folder}", f"images={tmp_path}", "top_k=1")
    refused(told, "top_k=1", "task=multilabel")


def test_reports_and_choose_know_it(finished, capsys):
    folder = str(Path(finished.folder).parent)
    for verb in ("report", "choose"):
        status, out, err = told_by(capsys, verb, folder, "metric=test/mAP")
        assert status == 0, err
        assert f"{100 * finished.metrics['test/mAP']:.1f}" in out


def test_labels_that_no_image_has_are_told(cli, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for at in range(12):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{at % 2},{int(at == 9)},0,{('train', 'val', 'test')[at // 4]}")
    (tmp_path / "of.csv").write_text("\n".join(["path,a,rare,never,split", *rows]))
    words = ["backbone=resnet_nano", "data=folder", f"data.root={tmp_path}", "data.labels=of.csv", "data.size=32"]
    words += [
        *TASK,
        "method=linear",
        "backbone.pretrained=false",
        "trainer.epochs=1",
        "data.label_columns=[a,rare,never]",
    ]
    status, out, err = cli(*words, f"output_dir={tmp_path / 'out'}")
    assert status == 0, err
    for note in (
        "no training image has 2 of the labels, such as rare, which cannot be learned",
        "no validation image has 2 of the labels, such as rare, which do not count in its mAP",
        "no test image has the label never, which does not count in its mAP",
    ):
        assert note in out + err
    (record,) = records_in(tmp_path / "out")
    assert 0 <= record.metrics["test/mAP"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["trainer.keep=best", "trainer.ema=0.5"]], ids=["last", "best"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, monkeypatch, more):
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *TASK, "method=lora", *more)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics
    assert resumed.stamps["chosen"] == undisturbed.stamps["chosen"]


@pytest.mark.slow
def test_two_processes_choose_and_measure_what_one_does(tmp_path):
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
    assert two.stamps["chosen"]["threshold"] == pytest.approx(one.stamps["chosen"]["threshold"], abs=5e-3)


@pytest.mark.slow
def test_runs_that_train_together_are_as_each_is_alone(tmp_path):
    for joint, alone in joint_and_alone(tmp_path, TASK, ("val/f1", "test/f1", "test/mAP")):
        assert joint.stamps["chosen"]["threshold"] == pytest.approx(alone.stamps["chosen"]["threshold"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "safetensors", "peft"])
def test_it_is_exported_as_it_predicts(tmp_path, capsys, format):
    exported(tmp_path, capsys, TASK, format, "format=peft: task=multilabel keeps threshold")
