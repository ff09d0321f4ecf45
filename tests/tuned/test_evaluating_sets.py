"""`peftbench evaluate` on data sets and on shifted images, of several runs, and with a temperature."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.common.config_files import CONFIGS
from peftbench.common.sealed_file import read_tensors, sealed, write_tensors
from peftbench.data.folder import Folder
from peftbench.results.class_figures import cross_entropy, fitted_temperature
from support.finished_runs import finish
from support.mistakes import refused
from support.runs import told_by


@pytest.fixture
def words(trained):
    """The words of the data set that the run was trained on."""
    return ["data=folder", f"data.root={trained[1]}"]


def content_of(out):
    return json.loads(Path(out.splitlines()[-1]).read_text())


def scale_delta(folder, factor):
    """Has a run's folder hold another delta, sealed as one that a run has written."""
    tensors, about = read_tensors(folder / "delta.safetensors")
    scaled = {name: t * factor for name, t in tensors.items()}
    write_tensors(folder / "delta.safetensors", scaled, sealed(scaled, about))


def test_a_data_set_and_its_shifts_give_the_figures_of_the_run_s_own_test(run, trained, words, capsys):
    folder, _ = run
    before = (folder / "result.json").read_bytes()
    measured = json.loads(before)["metrics"]
    status, out, err = told_by(capsys, "evaluate", f"run={folder}", *words, "ood=[noise:3]", "temperature=true")
    assert status == 0, err
    content = content_of(out)
    for name in ("accuracy", "class_accuracy"):
        assert content["figures"][name] == pytest.approx(measured[f"test/{name}"])
    assert content["figures"]["shifted"] | measured == pytest.approx(
        measured | {"ood/noise:3/f1": pytest.approx(0.5, abs=0.5)}
    )
    assert "shifted, noise, accuracy: " in out
    assert content["data"]["words"] == words
    splits = Folder(str(trained[1])).load()
    assert content["data"]["hash"] == splits.test.content
    assert (folder / "result.json").read_bytes() == before
    calibration = content["figures"]["calibration"]
    fitted = calibration["temperature"]
    assert (fitted["images"], fitted["hash"]) == (len(splits.val), splits.val.content)
    there, after = fitted["cross_entropy_there"]
    assert after < there
    assert fitted["error"] != calibration["error"]
    assert f"fitted on {len(splits.val)} validation images of the run" in out


def test_what_can_change_the_figures_makes_an_evaluation_of_its_own(run, words):
    folder, _ = run
    first = peftbench.evaluate(folder, data=words)
    others = [
        peftbench.evaluate(folder, data=words, ood="blur:1"),
        peftbench.evaluate(folder, data=[*words, "data.split_seed=1"]),
        peftbench.evaluate(folder, data=words, seed=1),
        peftbench.evaluate(folder, data=words, temperature=True),
    ]
    assert len({first.path, *(other.path for other in others)}) == 5
    assert peftbench.evaluate(folder, data=words).was_there
    low, high = first.figures["intervals"]["auroc"]
    assert low < first.figures["auroc"] == others[2].figures["auroc"] < high
    assert first.figures["intervals"]["auroc"] != others[2].figures["intervals"]["auroc"]
    assert others[3].figures["calibration"]["error"] == first.figures["calibration"]["error"]
    scale_delta(folder, 2)
    assert not peftbench.evaluate(folder, data=words).was_there, "the delta is another"


def test_sets_of_another_task_and_words_of_no_use_are_refused(run, words, capsys):
    folder, new = run
    for given_words, expected in (
        (["data=digits_det"], "data=digits_det: is made for task=detection"),
        ([*words, "data.size=64"], "data.size=64: images are prepared as they were for the run"),
        ([*words, "data.ood=[noise]"], "give ood="),
        ([*words, "method=lora"], "method=lora: evaluate takes no such key"),
        (["lables=of.csv", f"images={new}"], "(did you mean 'labels'?)"),
        ([*words, f"images={new}"], "give one of them"),
        ([*words, "labels=of.csv"], "labels=of.csv: is for images=FOLDER"),
        ([*words, "ood=fog"], "ood=fog: is no corruption"),
        ([*words, "ood=noise:9"], "ood=noise:9: expected a severity from 1 to 5"),
        (["data=folder"], "data.root: needs a value"),
        ([], "needs images=FOLDER, or a data set"),
    ):
        refused(told_by(capsys, "evaluate", f"run={folder}", *given_words), expected)
    assert not list(folder.glob("evaluation-*"))


def test_the_confusion_matrix_lies_beside_the_record_as_csv(run, capsys):
    folder, new = run
    evaluation = peftbench.evaluate(folder, new)
    file = evaluation.path.with_name(evaluation.content["tables"]["confusion"])
    text = file.read_text()
    heading, *rows = csv.reader(text.splitlines())
    assert heading[0] == "true \\ said"
    cells = {(row[0], said): int(n) for row in rows for said, n in zip(heading[1:], row[1:], strict=True)}
    assert {cell: n for cell, n in cells.items() if n} == {(a, b): n for a, b, n in evaluation.figures["confusion"]}
    assert len(cells) == 16
    file.unlink()
    peftbench.evaluate(folder, new)
    assert file.read_text() == text, "what is gone is written again"
    evaluation.path.unlink()
    file.write_text("mine")
    refused(told_by(capsys, "evaluate", f"run={folder}", f"images={new}"), str(file), "is not of this evaluation")
    assert file.read_text() == "mine"
    assert not evaluation.path.exists()


def test_validation_images_that_are_evaluated_are_left_out_of_the_fit(run, trained, capsys):
    folder, new = run
    asked = ["evaluate", f"run={folder}", "temperature=true", f"images={new}"]
    of_val = sorted((trained[1] / "val").glob("*/*.png"))
    for file in of_val[:5]:
        shutil.copy(file, new / file.parent.name / f"copy-{file.name}")
    status, out, err = told_by(capsys, *asked)
    assert status == 0, err
    assert "the temperature is fitted without 5 validation images that are among those evaluated" in out
    assert content_of(out)["figures"]["calibration"]["temperature"]["images"] == len(of_val) - 5
    for file in of_val:
        shutil.copy(file, new / file.parent.name / f"copy-{file.name}")
    refused(told_by(capsys, *asked), "all validation images", "says nothing")


def test_a_temperature_at_the_end_of_its_range_is_told(run, capsys):
    folder, new = run
    scale_delta(folder, 1e-6)
    status, out, err = told_by(capsys, "evaluate", f"run={folder}", "temperature=true", f"images={new}")
    assert status == 0, err
    assert "note: the temperature stopped at 0.05, an end of its range (0.05 to 20), and is no fit" in out


def test_a_run_without_validation_images_has_no_temperature(run, trained, capsys):
    folder, new = run
    away = trained[1].with_name("away")
    (trained[1] / "val").rename(away)
    try:
        told = told_by(capsys, "evaluate", f"run={folder}", "temperature=true", f"images={new}")
    finally:
        away.rename(trained[1] / "val")
    refused(told, "temperature=true:", "had no validation images to fit it on", "data.val_fraction=0.1")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5.0), st.integers(2, 4))
def test_the_fitted_temperature_is_the_best_of_all(seed, scale, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(60, classes)) * scale
    labels = np.where(rng.random(60) < 0.6, logits.argmax(1), rng.integers(0, classes, 60))
    value = fitted_temperature(logits, labels)
    best = cross_entropy(logits, labels, value)
    assert all(best <= cross_entropy(logits, labels, other) + 1e-7 for other in np.geomspace(0.05, 20, 30))


def test_several_runs_are_judged_at_once_and_the_best_comes_first(run, capsys):
    folder, new = run
    worse = folder.with_name("worse")
    shutil.copytree(folder, worse)
    scale_delta(worse, -1)
    for several in (f"{worse},{folder}", str(folder.parent)):
        status, out, err = told_by(capsys, "evaluate", f"run={several}", f"images={new}")
        assert status == 0, err
        assert [line.split()[:2] for line in out.splitlines()[-2:]] == [
            [folder.name, "accuracy"],
            ["worse", "accuracy"],
        ]
    assert len(list(folder.glob("evaluation-*.json"))) == len(list(worse.glob("evaluation-*.json"))) == 1
    (worse / "delta.safetensors").unlink()
    status, out, err = told_by(capsys, "evaluate", f"run={worse},{folder}", f"images={new}")
    assert status == 1
    assert err.startswith("worse: ")
    assert out.splitlines()[-1].startswith(folder.name)
    status, out, err = told_by(capsys, "evaluate", f"run={worse},{folder.parent / 'nothing'}", f"images={new}")
    assert status == 2
    assert "none of the 2 runs can be evaluated" in err.splitlines()[-1]


def test_a_tuned_model_in_memory_is_evaluated_as_it_is(run):
    folder, new = run
    tuned = peftbench.load(folder).train()
    evaluation = tuned.evaluate(new, seed=1)
    assert tuned.training, "it is left as it was"
    assert evaluation.figures["accuracy"] == peftbench.evaluate(folder, new).figures["accuracy"]
    assert tuned.evaluate(new, seed=1).was_there
    tuned.half()
    assert not tuned.evaluate(new, seed=1).was_there
    with pytest.raises(peftbench.UserError, match="needs images=FOLDER"):
        tuned.evaluate()


@pytest.mark.slow
def test_a_merged_model_has_a_record_of_its_own(trained, tmp_path):
    folder = finish(tmp_path, trained[1], "lora").folder
    merged = peftbench.load(folder).evaluate(trained[1] / "test")
    plain = peftbench.load(folder, merge=False).evaluate(trained[1] / "test")
    assert merged.content["identity"]["otherwise"] == ["merged"]
    assert merged.path != plain.path
    assert plain.path == peftbench.evaluate(folder, trained[1] / "test").path


def test_a_data_set_of_your_own_is_found_by_its_yaml(run, trained, tmp_path, capsys):
    own = tmp_path / "my configs" / "data" / "mine.yaml"
    own.parent.mkdir(parents=True)
    shipped = (CONFIGS / "data" / "folder.yaml").read_text()
    own.write_text(shipped.replace("name: folder", "name: mine").replace("root: ???", f"root: {trained[1]}"))
    words = ["evaluate", f"run={run[0]}", "data=mine", f"--config-dir={own.parents[1]}"]
    status, out, err = told_by(capsys, *words)
    assert status == 0, err
    assert "24 images" in out
    refused(told_by(capsys, *words[:-1]), "mine")
