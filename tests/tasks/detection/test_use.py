"""Detection as a user meets it: sizes, precisions, files and mistakes; and that boxes find back to their images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import peftbench
from peftbench.common.errors import UserError
from peftbench.data.coco import CocoFolder
from peftbench.data.images import Indices
from peftbench.runs import starting_backbone
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.tasks.base import begin_task, task_class
from peftbench.tasks.detection.detectors import DETECTORS
from peftbench.tasks.detection.saving import save_detector
from peftbench.tasks.detection.scenes import Scenes, SceneTransform

SMALL = ["data.canvas=64", "data.images=[4,2,2]", "task.width=64", "task.hidden=16", "task.rois=16"]


def composed(*words: str):
    given = {w.partition("=")[0]: w for w in ["method=linear", "backbone=resnet_nano", "data=digits_det", *SMALL]}
    given |= {w.partition("=")[0]: w for w in words}
    return peftbench.compose(*given.values())


def built(*words: str):
    """(config, its backbone on the meta device)."""
    config = composed(*words)
    return config, starting_backbone.build_on_meta(config, instantiate(config.method))


def refused(*words: str) -> str:
    def asked() -> None:
        config = composed(*words)
        refuse_incompatible(config, instantiate(config.method))

    with pytest.raises(UserError) as problem:
        asked()
    assert "\n" not in str(problem.value)
    return str(problem.value)


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_in_mixed_precision_are_as_exact_as_in_full(kind):
    """bf16 has eight bits: of a box at 600 pixels it would keep multiples of four."""
    config, backbone = built("data.size=[512,640]", f"task.detector={kind}", "task.score_threshold=0")
    torch.manual_seed(0)
    detector = DETECTORS[kind](config.task, backbone.facts, 3)
    channels, strides = detector.levels.channels, detector.levels.strides
    maps = [torch.randn(1, c, 512 // s, 640 // s) for c, s in zip(channels, strides, strict=True)]
    target = {"boxes": torch.tensor([[301.5, 203.25, 391.0, 333.0]]), "labels": torch.tensor([1])}
    losses = []
    for mixed in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses.append(float(detector.loss(maps, (512, 640), [target | {"size": (512, 640)}]).detach()))
            with torch.no_grad():
                boxes = detector.detect(maps, (512, 640), [(512, 640)])[0]["boxes"]
    assert (boxes != boxes.bfloat16().float()).float().mean() > 0.2  # else all of them are values of bf16
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


@pytest.mark.parametrize("kind", DETECTORS)
def test_images_without_objects_are_trained_on_and_detected_on(kind):
    config, backbone = built("data.size=64", f"task.detector={kind}")
    detector = DETECTORS[kind](config.task, backbone.facts, 1)
    channels, strides = detector.levels.channels, detector.levels.strides
    maps = [torch.randn(2, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "size": (40, 64)}
    loss = detector.loss(maps, (64, 64), [empty, empty])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data.size=50",), "multiples of 32, such as data.size=[64,64]"),
        (("data.size=[50,70]", "backbone=hybrid_nano"), "such as data.size=[64,64]"),
        (("data.size=[16,64]",), "such as data.size=[32,64]"),
        (("data.size=[64]",), "data.size=[64]: expected a whole number or a list of 2"),
        (("data.size=[1,2,3]",), "expected a whole number or a shorter list"),
        (("data.size=[64,0]",), "data.size=[64, 0]: expected at least 1"),
        (("data.size=null", "data.min_size=[]"), "data.min_size"),
        (("data.size=null", "data.min_size=[0]"), "data.min_size"),
        (("data.size=null", "data.max_size=0"), "data.max_size=0"),
        (("data.size=[64,96]", "backbone=efficientformer_l1", "backbone.pretrained=false"), "give data.size=224"),
        (("task.anchor_scale=0.1",), "task.anchor_scale: makes anchors of 0.4 pixels"),
        (("task.detector=retinanet", "task.anchor_scale=0.1"), "task.anchor_scale"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_work(words, said):
    assert said in refused(*words)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    config = composed()
    backbone = starting_backbone.build_starting_backbone(config, instantiate(config.method))
    path = tmp_path_factory.mktemp("detectors") / "whole.safetensors"
    save_detector(
        task_class(config.task).build(config.task, backbone, [str(i) for i in range(10)]), backbone, path, "fasterrcnn"
    )
    return path


def changed(path: Path, name: str, tensors=lambda name: True, **about: str) -> Path:
    """The same file with only some tensors, and another description."""
    with safetensors.safe_open(path, framework="pt") as file:
        own = dict(file.metadata()) | about
    state = {n: t for n, t in safetensors.torch.load_file(path).items() if tensors(n)}
    safetensors.torch.save_file(state, path.with_name(f"{name}.safetensors"), own)
    return path.with_name(f"{name}.safetensors")


def begun(file: Path) -> None:
    config = composed(f"task.weights={file}")
    backbone = starting_backbone.build_starting_backbone(config, instantiate(config.method))
    task = task_class(config.task).build(config.task, backbone, [str(i) for i in range(10)])
    begin_task(task, config.task, config.backbone)


def test_a_whole_detector_starts_a_run_and_wrong_files_are_refused(detector):
    begun(detector)
    text = detector.with_name("notes.pth")
    text.write_text("method=lora and so on\n")
    headless = changed(detector, "headless", lambda n: not n.startswith("backbone.body."))
    for file, said in (
        (text, "is not a readable weights file"),
        (headless, f"task.weights={headless}: does not fit"),
        (changed(detector, "object", classes='{"a": 1}'), "expected a list of names"),
        (changed(detector, "numbers", classes="[1, 2]"), "expected a list of names"),
        (changed(detector, "few", classes='["a", "b"]'), "names 2 classes, and its predictor has 10"),
    ):
        with pytest.raises(UserError) as problem:
            begun(file)
        assert said in str(problem.value)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), None])
def test_a_perfect_detector_has_an_ap_of_one_whatever_the_input(tmp_path, size):
    """What the targets say of the letterboxed input, mapped back to pixels of the original images, is the truth."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, (height, width) in enumerate([(90, 160), (160, 90), (120, 120), (50, 200), (301, 97)]):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": 10 * i + 3, "file_name": f"{i}.png", "width": width, "height": height})
        for x, y, w, h in ((0.0, 0.0, 0.5, 1.0), (0.31, 0.22, 0.69, 0.41)):
            box = [x * width, y * height, w * width, h * height]
            annotations.append({"image_id": 10 * i + 3, "category_id": 7 if x else 2, "bbox": box, "iscrowd": 0})
    crowd = {"image_id": 3, "category_id": 2, "bbox": [5, 5, 80, 70], "iscrowd": 1}
    rows = [a | {"id": i} for i, a in enumerate([*annotations, crowd])]
    categories = [{"id": 7, "name": "b"}, {"id": 2, "name": "a"}]
    content = {"images": images, "annotations": rows, "categories": categories}
    (tmp_path / "all.json").write_text(json.dumps(content))
    splits = CocoFolder(root=str(tmp_path), train="all.json", val="all.json").load()
    shown = SceneTransform(size, (64,), 100, "bilinear", (0.0,) * 3, (1.0,) * 3)
    scenes = Scenes(splits.test, shown, "refuse", 1.0, lambda done, of: None)
    config, backbone = built("data.size=[64,96]")
    task = task_class(config.task).build(config.task, backbone, splits.classes, splits.test.categories)
    metrics = task.metrics()
    for at in ([0, 1], [2, 3, 4]):
        batch = scenes.__getitems__(Indices(at, None))
        found = [{"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["labels"]))} for t in batch[1]]
        task.detector.detect = lambda maps, canvas, sizes, found=found: found
        backbone.maps = lambda taps, indices: taps
        metrics.update(task.evaluate(lambda pixels: [pixels], backbone, batch), task.targets(batch))
    assert float(metrics.compute()["AP"]) == pytest.approx(1, abs=1e-6)
    truth = {(a["image_id"], a["category_id"]): a["bbox"] for a in annotations}
    for row in metrics.results():
        assert row["bbox"] == pytest.approx(truth[row["image_id"], row["category_id"]], abs=0.01)
