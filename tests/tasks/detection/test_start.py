"""Detectors that start from a whole detector: the one that is shipped, and files of our own."""

import json

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import peftbench
from peftbench.common.errors import UserError
from peftbench.tasks.base import begin_task, task_class
from peftbench.tasks.detection.pretrained import HERE
from peftbench.tasks.detection.saving import save_detector

SHIPPED = "resnet_nano_fasterrcnn"
PREDICTOR = "task.detector.net.roi_heads.box_predictor."
RUN = [
    "backbone=resnet_nano",
    "data=digits_det",
    "data.images=[4,1,2]",
    "data.canvas=64",
    "data.batch_size=2",
    "task.rois=16",
    "trainer.epochs=1",
    "trainer.max_batches=2",
    "trainer.progress=false",
    "trainer.accelerator=cpu",
    "logger=none",
    "taps=off",
]
PREDICTOR_ONLY = ["task.neck=false", "task.rpn=false", "task.head=predictor"]


def built(detector, classes, *words):
    """(task, backbone, what was said) of a run of so many classes, before its first step."""
    config = peftbench.compose("method=linear", *RUN, f"task.detector={detector}", *words)
    backbone = peftbench.build_backbone(config)
    task = task_class(config.task).build(config.task, backbone, classes)
    return task, backbone, begin_task(task, config.task, config.backbone)


def written(path, detector, classes, half=False):
    """A file of a detector with random numbers."""
    torch.manual_seed(5)
    task, backbone, _ = built(detector, classes)
    with torch.no_grad():
        for name in task.detector.predictors:
            for parameter in task.detector.net.get_submodule(name).parameters():
                parameter.normal_()
    save_detector(task, backbone, path, detector, half=half)
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return written(tmp_path_factory.mktemp("detector") / "ours.safetensors", "fasterrcnn", ("cat", "dog", "owl"))


def test_the_shipped_detector_starts_a_run_whose_frozen_parts_stay_out_of_the_delta(cli, tmp_path):
    status, _, err = cli("method=cst", *RUN, f"task.weights=package:{SHIPPED}", *PREDICTOR_ONLY)
    assert status == 0, err
    (folder,) = (p for p in tmp_path.iterdir() if (p / "delta.safetensors").is_file())
    record = json.loads((folder / "result.json").read_text())
    file = HERE / f"{SHIPPED}.safetensors"
    assert record["stamps"]["task"]["weights"] == f"package:{SHIPPED}"
    parts = record["costs"]["parameters"]["parts"]
    assert parts["neck"] == parts["rpn"] == 0
    assert parts["head"] == (256 + 1) * (11 + 44)  # the predictor's two layers, of ten classes and the background

    delta = load_file(folder / "delta.safetensors")
    of_the_task = {n for n in delta if n.startswith("task.")}
    assert of_the_task == {
        f"{PREDICTOR}{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    }
    assert any(not n.startswith("task.") for n in delta)  # the method's own

    given = load_file(file)
    tuned = peftbench.load(folder, merge=False).model
    net = tuned.task.detector.net.state_dict()
    for name in ("backbone.fpn.inner_blocks.0.0.weight", "rpn.head.cls_logits.bias", "roi_heads.box_head.fc6.weight"):
        assert torch.equal(net[name], given[name].float())
    assert torch.equal(tuned.backbone.net.state_dict()["conv1.weight"], given["backbone.body.conv1.weight"].float())


@pytest.mark.slow
def test_a_run_knows_the_file_that_it_started_from(cli, tmp_path):
    """Classes of the same name keep their rows, and what did not train is in that file alone: another is refused."""
    file = written(tmp_path / "d.safetensors", "fasterrcnn", ("seven", "3", "0"))
    status, _, err = cli("method=linear", *RUN, "trainer.progress=true", f"task.weights={file}", *PREDICTOR_ONLY)
    assert status == 0, err
    assert "2 of the 10 classes" in err
    (folder,) = (p for p in tmp_path.iterdir() if (p / "delta.safetensors").is_file())
    before = peftbench.load(folder).model.state_dict()

    file.rename(tmp_path / "moved.safetensors")
    moved = peftbench.load(folder, weights=tmp_path / "moved.safetensors").model.state_dict()
    assert all(torch.equal(t, moved[n]) for n, t in before.items())

    state = load_file(tmp_path / "moved.safetensors")
    with safetensors.safe_open(tmp_path / "moved.safetensors", framework="pt") as opened:
        about = opened.metadata()
    state["rpn.head.cls_logits.bias"] += 1
    save_file(state, file, about)
    with pytest.raises(UserError, match="made from a detector"):
        peftbench.load(folder)


@pytest.mark.slow
def test_what_trains_is_in_the_delta(cli, tmp_path):
    status, _, err = cli("method=linear", *RUN, f"task.weights=package:{SHIPPED}")
    assert status == 0, err
    (folder,) = (p for p in tmp_path.iterdir() if (p / "delta.safetensors").is_file())
    names = set(load_file(folder / "delta.safetensors"))
    assert {
        "task.detector.net.backbone.fpn.inner_blocks.0.0.weight",
        "task.detector.net.rpn.head.conv.0.0.weight",
    } <= names
    assert not any(n.startswith("backbone.") for n in names)


def test_the_shipped_file_tells_its_data_licence_and_classes():
    with safetensors.safe_open(HERE / f"{SHIPPED}.safetensors", framework="pt") as file:
        about = file.metadata()
        assert {file.get_tensor(n).dtype for n in file.keys() if n.endswith("weight")} == {torch.float16}  # noqa: SIM118
    assert "CC BY 4.0" in about["licence"]
    assert "Caltech 101" in about["data"]
    assert about["command"].startswith("python scripts/pretrain_detector.py")
    assert len(json.loads(about["classes"])) == 101


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["backbone=vit_nano"], "backbone.name=resnet18"),
        (["backbone.name=resnet34"], "backbone.name=resnet18"),
        (["backbone.args={channels:[64,128,256,512]}"], "[64, 64, 3, 3] expected"),
        (["task.width=32"], "is [64, 32, 1, 1], and [32, 32, 1, 1] was expected; task.width"),
        (["task.hidden=128"], "task.hidden must be"),
        (["task.detector=retinanet"], "task.detector=fasterrcnn"),
        (["backbone.pretrained=false"], "backbone.pretrained=false wants a random one"),
        (["task.weights=package:nano"], SHIPPED),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_a_detector_that_does_not_fit_is_refused_in_one_sentence(cli, tmp_path, ours, words, told):
    status, _, err = cli("method=linear", *RUN, *([f"task.weights={ours}", *words]))
    assert status == 2
    assert told in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*/delta.safetensors"))


def test_another_tag_of_timms_is_the_same_backbone(ours):
    _, _, said = built("fasterrcnn", ("cat", "emu"), f"task.weights={ours}", "backbone.name=resnet18.a1_in1k")
    assert said


@pytest.mark.parametrize("detector", ["fasterrcnn", "retinanet", "fcos"])
def test_classes_of_the_same_name_keep_their_rows(tmp_path, detector):
    file = written(tmp_path / "d.safetensors", detector, ("cat", "dog", "owl"), half=True)
    given = {n: t.float() for n, t in load_file(file).items()}
    torch.manual_seed(6)
    task, backbone, said = built(detector, ("owl", "emu", "cat"), f"task.weights={file}")
    assert "2 of the 3 classes" in said
    net = task.detector.net.state_dict()
    layer = next(iter(task.detector.predictors))
    first = task.detector.first
    for kind in ("weight", "bias"):
        name = f"{layer}.{kind}"
        # rows lie class by class, the background's before, or for each anchor class by class
        now, then = (x.unflatten(0, (-1, 3 + first)) for x in (net[name], given[name]))
        assert torch.equal(now[:, first + 0], then[:, first + 2])
        assert torch.equal(now[:, first + 2], then[:, first + 0])
        assert not torch.equal(now[:, first + 1], then[:, first + 1])
        assert torch.equal(now[:, :first], then[:, :first])
    if detector == "fasterrcnn":
        boxes = net["roi_heads.box_predictor.bbox_pred.weight"].unflatten(0, (4, 4))
        before = given["roi_heads.box_predictor.bbox_pred.weight"].unflatten(0, (4, 4))
        assert torch.equal(boxes[1], before[3])
        assert torch.equal(boxes[3], before[1])
    for name in set(net) - {f"{n}.{kind}" for n in task.detector.predictors for kind in ("weight", "bias")}:
        assert torch.equal(net[name], given[name]), name
    assert torch.equal(backbone.net.state_dict()["conv1.weight"], given["backbone.body.conv1.weight"])


def test_half_precision_halves_the_file(tmp_path, ours):
    half = written(tmp_path / "half.safetensors", "fasterrcnn", ("cat", "dog", "owl"), half=True)
    assert half.stat().st_size < 0.52 * ours.stat().st_size


def test_the_same_classes_are_all_taken(ours):
    task, _, said = built("fasterrcnn", ("cat", "dog", "owl"), f"task.weights={ours}")
    assert "all classes" in said
    given = load_file(ours)
    assert all(torch.equal(t, given[n]) for n, t in task.detector.net.state_dict().items())
    assert set(task.start) == {f"detector.net.{n}" for n in task.detector.net.state_dict()}


@pytest.mark.parametrize("told", ["{}", '["cat"]', "[1, 2, 3]", "cat, dog, owl", '"owl"'])
def test_a_file_that_misnames_its_classes_is_refused(tmp_path, ours, told):
    with safetensors.safe_open(ours, framework="pt") as file:
        about = file.metadata()
    save_file(load_file(ours), tmp_path / "bad.safetensors", {**about, "classes": told})
    with pytest.raises(UserError, match=r"bad\.safetensors.*class"):
        built("fasterrcnn", ("cat", "dog"), f"task.weights={tmp_path / 'bad.safetensors'}")
