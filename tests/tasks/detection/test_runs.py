"""Whole runs of detection: what they leave, that they resume, two processes, real sets, mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

import peftbench
from peftbench.common.errors import UserError
from peftbench.runs.build import instantiate
from peftbench.training.checkpoint import Checkpoints
from peftbench.tuned.export import export
from peftbench.tuned.multitask import MultiTask
from support.backbones import REFUSES
from support.detection import METHODS, SMALL
from support.forks import python
from support.mistakes import refused
from support.places import SHARED
from support.runs import told_by


def _run(tmp_path, *words):
    quick = ["data.images=[16,4,6]", "data.canvas=64", "data.batch_size=4", "trainer.epochs=2", "logger=none"]
    spec = peftbench.compose(*SMALL, *quick, "trainer.progress=false", f"output_dir={tmp_path}", *words)
    return peftbench.run(spec)


@pytest.fixture(scope="module")
def oblong(tmp_path_factory):
    """The record of a run on images that are no squares."""
    words = ["method=cst", "backbone=resnet_nano", "data.size=[64,96]", "task.score_threshold=0.001"]
    return _run(tmp_path_factory.mktemp("oblong"), *words, "data.ood=[contrast:5]")


def test_a_run_on_images_that_are_no_squares_leaves_its_detections_and_loads_again(oblong):
    record, folder = oblong, Path(oblong.folder)
    rows = json.loads((folder / "detections.json").read_text())
    assert rows
    assert {*rows[0]} == {"image_id", "category_id", "bbox", "score"}
    assert {"test/AP", "test/AP50", "val/AP"} <= set(record.metrics)
    assert record.costs["time"]["test_image"] > 0
    assert set(record.costs["parameters"]["parts"]) == {"neck", "rpn", "head"}
    assert record.costs["taps"]["computed"] == 20
    assert record.stamps["data"]["images"] == {"train": 16, "val": 4, "test": 6, "ood/contrast:5": 6}
    assert "right" not in record.stamps, "boxes are not simply right or wrong"
    tuned = peftbench.load(folder)
    with pytest.raises(peftbench.UserError, match=r"write tuned\.detect\(path\)"):
        tuned("cat.jpg")
    spec = peftbench.compose(*SMALL, "data.images=[16,4,6]", "data.canvas=64", "method=cst")
    test = instantiate(spec.data).load().test
    best = {i: max((r["score"] for r in rows if r["image_id"] == i), default=0) for i in {r["image_id"] for r in rows}}
    for path, objects in zip(test.images, test.labels, strict=True):
        found = tuned.detect(path)
        if objects.id in best:
            assert float(found["scores"][0]) == pytest.approx(best[objects.id], abs=1e-5)


def _scenes(record):
    """(the folder of the images of the run's data set, COCO's JSON of its test images)."""
    folder = instantiate(peftbench.compose(*SMALL, "data.images=[16,4,6]", "data.canvas=64", "method=cst").data).load()
    root = next(place for place in folder.test.images[0].parents if (place / "annotations").is_dir())
    return root / "images", root / "annotations" / "instances_test.json"


@pytest.mark.parametrize("from_file", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["file", "data set"])
def test_evaluate_gives_coco_s_table_of_the_run_s_own_test(oblong, capsys, from_file):
    images, labels = _scenes(oblong)
    of_set = ["data=digits_det", "data.images=[16,4,6]", "data.canvas=64"]
    where = [f"images={images}", f"labels={labels}"] if from_file else of_set
    status, out, err = told_by(capsys, "evaluate", f"run={oblong.folder}", *where, "ood=contrast:5")
    assert status == 0, err
    assert "AR, 10 detections" in out
    assert "shifted, contrast, AP: " in out
    content = json.loads(Path(out.splitlines()[-1]).read_text())
    figures = content["figures"]
    for name, value in oblong.metrics.items():
        if (short := name.removeprefix("test/")) in figures:
            assert figures[short] == pytest.approx(value, abs=1e-6), name
    of_classes = {row["name"]: row["AP"] for row in figures["classes"] if row["AP"] is not None}
    expected = {n.removeprefix("test/AP/"): v for n, v in oblong.metrics.items() if n.startswith("test/AP/")}
    assert of_classes == pytest.approx(expected, abs=1e-6)
    assert figures["AP_large"] is None, "on such a canvas none is large"
    assert content["data"]["copies_of_training"] == []
    assert set(figures["intervals"]) == {"AP", "AP50", "AP75"}
    for name, (low, high) in figures["intervals"].items():
        assert 0 <= low <= high <= 1, name
    assert figures["intervals"]["AP"][0] <= figures["AP"] <= figures["intervals"]["AP"][1]
    assert "AP, IoU 0.50 to 0.95" in out
    assert out.count("(95 % interval ") == 3
    shifted = figures["shifted"]
    assert {"ood/contrast:5/AP", "ood/contrast:5/AP50", "ood/contrast/AP", "ood/AP"} <= set(shifted)
    assert shifted == pytest.approx({name: oblong.metrics[name] for name in shifted}, abs=1e-6), "as the run itself"


@pytest.mark.slow
def test_what_a_detector_is_surest_of_is_found_first_where_it_is_the_truth(oblong, capsys, tmp_path):
    images, labels = _scenes(oblong)
    content, best = json.loads(labels.read_text()), {}
    for row in json.loads((Path(oblong.folder) / "detections.json").read_text()):
        if row["score"] > best.get(row["image_id"], {"score": 0})["score"]:
            best[row["image_id"]] = row
    assert len(best) == 6
    content["annotations"] = [{"id": at, **row} for at, row in enumerate(best.values(), start=1)]
    (tmp_path / "own.json").write_text(json.dumps(content))
    found = peftbench.evaluate(oblong.folder, images, tmp_path / "own.json").figures
    assert [found[name] for name in ("AR_1", "AR_10", "AR")] == pytest.approx([1, 1, 1])
    assert 0 < found["AP"] <= 1
    assert sum(row["objects"] for row in found["classes"]) == 6


@pytest.mark.slow
def test_boxes_of_classes_that_the_detector_does_not_know_are_named_or_left_out(oblong, capsys, tmp_path):
    images, labels = _scenes(oblong)
    content = json.loads(labels.read_text())
    other = next(c for c in content["categories"] if c["id"] == content["annotations"][0]["category_id"])
    boxes = sum(a["category_id"] == other["id"] for a in content["annotations"])
    other["name"] = "cat"
    (tmp_path / "mine.json").write_text(json.dumps(content))
    where = [f"run={oblong.folder}", f"images={images}", f"labels={tmp_path / 'mine.json'}"]
    told = refused(told_by(capsys, "evaluate", *where), f"mine: {boxes} box", "'cat'", "unknown=skip")
    assert "that the run does not know" in told
    status, out, err = told_by(capsys, "evaluate", *where, "unknown=skip")
    assert status == 0, err
    assert f"note: {boxes} box" in out
    assert json.loads(Path(out.splitlines()[-1]).read_text())["data"]["images"] == 6


def test_labels_of_another_form_or_task_are_refused(oblong, capsys, tmp_path):
    images, labels = _scenes(oblong)
    run = f"run={oblong.folder}"
    (tmp_path / "mine.csv").write_text("path,label\n")
    none = json.loads(labels.read_text()) | {"annotations": []}
    (tmp_path / "none.json").write_text(json.dumps(none))
    for words, expected in (
        ([f"images={images}"], "class folders hold no boxes"),
        ([f"images={images}", f"labels={tmp_path / 'mine.csv'}"], "expected COCO's annotations as JSON"),
        ([f"images={images}", f"labels={tmp_path / 'none.json'}"], "none of its 6 images has a box"),
        (["data=digits"], "data=digits: is made for task=classification or multilabel or regression"),
        (["data=digits_det", "ood=fog"], "ood=fog: is no corruption"),
        (["data=digits_det", "temperature=true"], "temperature=true: is of classifiers"),
    ):
        refused(told_by(capsys, "evaluate", run, *words), expected)


@pytest.mark.slow
def test_kept_taps_train_to_the_same_numbers(tmp_path):
    few = ["method=losa", "backbone=resnet_nano", "trainer.epochs=1"]  # which passes three taps on
    record, kept = (_run(tmp_path / kind, *few, f"taps={kind}") for kind in ("off", "disk"))
    assert [r["train_loss"] for r in record.history] == [r["train_loss"] for r in kept.history]
    assert record.metrics == kept.metrics


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["none", "multiscale"])
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path, monkeypatch, augment):
    words = ["method=lora", "backbone=resnet_nano", f"data.augment={augment}", "data.images=[12,2,4]"]
    whole = _run(tmp_path / "a", *words)
    ended, seen = Checkpoints.on_train_batch_end, []

    def stop(self, *arguments):
        seen.append(1)
        self.stop = len(seen) >= 4  # in the second epoch
        ended(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert _run(tmp_path / "b", *words).status == "interrupted"
    resumed = _run(tmp_path / "b", *words)
    assert resumed.costs["time"]["sessions"] == 2
    assert resumed.metrics == whole.metrics
    assert [r["train_loss"] for r in resumed.history] == [r["train_loss"] for r in whole.history]
    files = [Path(r.folder) / "delta.safetensors" for r in (whole, resumed)]
    ours, theirs = (safetensors.torch.load_file(f) for f in files)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_to_what_one_does(tmp_path):
    """Every region is learned from, so none is drawn; sums are ordered otherwise, and losses averaged by process."""
    words = [
        "method=cst",
        "backbone=resnet_nano",
        "trainer.epochs=3",
        "task.detector=retinanet",
        "data.images=[16,5,7]",
    ]
    words += ["optimizer=sgd", "optimizer.lr=0.02", "trainer.accelerator=cpu", "trainer.threads=1", "data.canvas=64"]
    words += [*SMALL, "data.batch_size=4", "logger=none", "trainer.progress=false"]
    found = []
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        folder = tmp_path / place
        command = [python(), "-m", "peftbench.cli.main", *words[:4], *more, *words[4:], f"output_dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(next(folder.glob("*/result.json")).read_text()))
    one, two = found
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4)
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["coco-mini", "bccd-coco"])
def test_real_sets_train_and_evaluate_with_every_method(folder, cli):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is not there")
    fitting = [method for method in METHODS if "cnn" not in REFUSES.get(method, ())]
    words = [f"method={','.join(fitting)}", "backbone=resnet_nano", "data=coco_folder", f"data.root={SHARED / folder}"]
    words += ["data.size=[96,128]", "data.batch_size=2", "trainer.epochs=1", "trainer.max_batches=2", "taps=off"]
    words += ["task.width=64", "task.hidden=32", "task.rois=32", "logger=none", "trainer.progress=false"]
    status, out, err = cli("-m", *words)
    assert status == 0, err
    assert "refused" not in out
    assert "failed" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task=classification"], "leave task= out"),
        (["task.width=0"], "task.width=0: expected at least 1"),
        (["task.detector=fcos", "task.width=48"], "multiple of 32"),
        (["task.score_threshold=2"], "from 0 to 1"),
        (["task.detector=fcos", "task.anchor_scale=4"], "FCOS has points"),
        (["task.weights=nowhere.pth"], "there is no such file"),
        (["task.masks=true", "task.detector=retinanet"], "needs regions, which task.detector=retinanet has not"),
        (["task.masks=true", "task.detector=fcos"], "expected task.detector=fasterrcnn"),
        (["task.weights=package:nothing"], "no such detector in the package"),
        (["task.weights=coco"], "have a ResNet-50"),
        (["task.weights=coco", "backbone.pretrained=false"], "holds the backbone too"),
        (["data.augment=rrc"], "is not for task=detection"),
        (["trainer=fsdp"], "use trainer=ddp"),
        (["taps=disk", "data.size=null"], "give data.size=[H,W]"),
        (["taps.views=2", "data.augment=flip"], "taps.views"),
    ],
)
def test_bad_input_is_one_sentence(cli, words, told):
    few = ["data.images=[4,2,2]", "data.canvas=64", "backbone=resnet_nano", "method=linear", *SMALL]
    status, _, err = cli(*few, *words)
    assert status != 0
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_forms_without_room_for_boxes_say_that_they_are_not_for_detectors(oblong):
    for format_ in ("safetensors", "torch_export", "peft"):
        with pytest.raises(UserError, match="whose boxes are no single tensor; format=onnx and format=openvino"):
            export(oblong.folder, format_)


def test_multitask_wants_one_size(tmp_path):
    few = ["method=linear", "backbone=resnet_nano", "trainer.epochs=1", "trainer.max_batches=1", "data.images=[4,2,2]"]
    folder = Path(tmp_path) / _run(tmp_path, *few, "data.size=null").id
    with pytest.raises(UserError, match=r"trained on images that keep their sizes, .* data\.size=\[H,W\]"):
        MultiTask(None, [folder])
