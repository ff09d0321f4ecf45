"""Mask R-CNN: masks go where the pixels go, are found, judged, predicted, drawn and exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.common.errors import UserError
from peftbench.data.boxes import Objects, box_split
from peftbench.data.images import Indices
from peftbench.data.segment_forms import Segment, decoded, encoded
from peftbench.runs.build import instantiate
from peftbench.tasks.base import task_class
from peftbench.tasks.detection.masks import pasted, whole_masks
from peftbench.tasks.detection.pretrained import begin_detector
from peftbench.tasks.detection.run_page import BoxPage
from peftbench.tasks.detection.saving import save_detector
from peftbench.tasks.detection.scenes import SCENES, Scenes, SceneTransform
from peftbench.tasks.run_pages import Seen
from peftbench.tuned.export import export
from support.backbones import on_meta
from support.coco import good, write
from support.detection import composed, make, scenes, trained
from support.places import SHARED
from support.runs import told_by

SIZES = [(60, 100), (100, 60), (30, 120)]  # height, width
SMALL = ["data=digits_det", "data.images=[4,1,2]", "data.canvas=64", "task.width=16", "task.hidden=16", "task.rois=16"]
MASKS = [*SMALL, "task.masks=true"]


def lit(size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w): 1 in a rectangle without its lower right quarter."""
    height, width = size
    mask = np.zeros(size, dtype=np.uint8)
    mask[height // 4 : height // 2, width // 5 : width * 4 // 5] = 1
    mask[height * 3 // 8 : height // 2, width // 2 : width * 4 // 5] = 0
    return mask


def split(folder: Path):
    """Black images on which one object is white; a crowd and an image without any object besides."""
    paths, rows = [], []
    for i, size in enumerate([*SIZES, (40, 40)]):
        mask = lit(size)
        Image.fromarray(mask * 255).convert("RGB").save(folder / f"{i}.png")
        paths.append(folder / f"{i}.png")
        height, width = size
        box = [width // 5, height // 4, width * 4 // 5, height // 2]
        boxes = np.array([box, [0, 0, 5, 5]], dtype=np.float32)
        segments = (Segment(counts=encoded(mask)), Segment(counts=encoded(np.ones(size, dtype=np.uint8))))
        crowd = np.array([False, True])
        whole = Objects(i, size, boxes, np.array([0, 0]), crowd, np.full(2, 100, np.float32), segments)
        none = Objects(i, size, boxes[:0], np.zeros(0, np.int64), crowd[:0], np.zeros(0, np.float32), ())
        rows.append(whole if i < len(SIZES) else none)
    return box_split(paths, rows, [p.name for p in paths], [7])


@pytest.mark.parametrize("size", [None, (64, 96)], ids=str)
@pytest.mark.parametrize("augment", SCENES)
def test_masks_go_where_the_pixels_go(tmp_path, augment, size):
    shown = SceneTransform(size, (40, 48, 64), 110, "bilinear", (0.0,) * 3, (1.0,) * 3, augment=augment)
    made = Scenes(split(tmp_path), shown, "refuse", 1.0, lambda done, of: None)
    seen = 0
    for seed in range(4):
        batch = made.__getitems__(Indices(range(len(made)), seed))
        for image, target in zip(batch.images, batch.targets, strict=True):
            height, width = target["size"]
            masks = target["masks"]
            assert masks.dtype == torch.uint8
            assert masks.shape == (len(target["boxes"]), height, width)
            for mask in masks.bool():  # of the one object that is no crowd
                white = image[:, :height, :width].float().mean(0) > 100
                if augment == "ssd":  # its colours may be turned
                    white = white == white[mask].float().mean().gt(0.5)
                union = (mask | white).sum()
                assert (mask & white).sum() >= 0.75 * union or union < 60 or augment == "ssd"
                seen += 1
    assert seen > (4 if augment in ("lsj", "ssd") else 10)


def test_validation_has_run_lengths_of_the_original_in_the_place_of_masks(tmp_path):
    shown = SceneTransform((64, 96), (40,), 110, "bilinear", (0.0,) * 3, (1.0,) * 3)
    made = Scenes(split(tmp_path), shown, "refuse", 1.0, lambda done, of: None)
    targets = made.__getitems__(Indices(range(len(made)), None)).targets
    assert all("masks" not in target for target in targets)
    for size, target in zip(SIZES, targets, strict=False):
        assert (decoded(target["true_segments"], size)[0] == lit(size)).all()
    assert targets[-1]["true_segments"] == []


def test_what_the_head_gives_is_pasted_as_torchvision_pastes_it():
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    rng = torch.Generator().manual_seed(0)
    probabilities = torch.rand(4, 28, 28, generator=rng)
    boxes = torch.tensor([[3.0, 4, 30, 40], [0, 0, 60, 50], [50, 10, 60, 11], [10, 10, 10.2, 49]])
    expected = paste_masks_in_image(probabilities[:, None], boxes, (50, 60))[:, 0] >= 0.5
    assert torch.equal(whole_masks(pasted(probabilities, boxes, (50, 60)), (50, 60)), expected)
    broken = torch.cat([boxes[:1], torch.full((1, 4), torch.nan)])
    assert len(pasted(probabilities[:2], broken, (50, 60))) == 2, (
        "one that is not finite counts nowhere, and harms none"
    )


def with_masks(model):
    """`scenes()` with masks: the left half of each box."""
    images, targets = scenes()
    for target in targets:
        masks = torch.zeros(len(target["boxes"]), *target["size"], dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, target["boxes"].int().tolist(), strict=True):
            mask[y1:y2, x1 : (x1 + x2) // 2] = 1
        target["masks"] = masks
    return images, targets


@pytest.mark.parametrize(
    ("backbone", "steps"), [("resnet_nano", 6), pytest.param("vit_nano", 16, marks=pytest.mark.slow)]
)
def test_masks_are_learned(backbone, steps):
    """Of a frozen backbone too; an image without an object gives none, and its loss is finite."""
    model = make("linear", backbone, "task.masks=true", "task.width=32", "task.score_threshold=0.0")
    images, targets = with_masks(model)
    optimizer = torch.optim.Adam([p for _, p in model.trainable()], 3e-3)
    losses, plain = [], model.task.detector.losses
    model.task.detector.losses = lambda *given: losses.append(plain(*given)) or losses[-1]
    for _ in range(steps):
        torch.manual_seed(2)
        loss = model.train().loss((images, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1]["loss_mask"] < 0.9 * losses[0]["loss_mask"]
    changed = [n for n, p in model.trainable() if "mask_" in n and p.grad is not None and p.grad.abs().sum() > 0]
    assert any("mask_head" in name for name in changed)
    assert any("mask_predictor" in name for name in changed)
    model.eval()
    with torch.no_grad():
        (found, _) = model.evaluate((images, targets))
    height, width = targets[0]["original"]
    assert found["boxes"].shape[0] == len(found["segments"])
    masks = whole_masks(found["segments"][:3], (height, width))
    assert masks.shape == (3, height, width)
    empty = [{**t, "boxes": t["boxes"][:0], "labels": t["labels"][:0], "masks": t["masks"][:0]} for t in targets]
    assert model.train().loss((images, empty)).isfinite()


def test_without_masks_nothing_is_another(monkeypatch):
    """The same parameters in the same order from the same seed, and the same losses to the bit."""
    plain = make("linear", "resnet_nano")
    masked = make("linear", "resnet_nano", "task.masks=true")
    ours = dict(masked.named_parameters())
    assert not any("mask_" in name for name, _ in plain.named_parameters())
    assert all(torch.equal(p, ours[n]) for n, p in plain.named_parameters())
    head = masked.task.parts()["head"] - plain.task.parts()["head"]
    assert head == sum(p.numel() for n, p in ours.items() if ".mask_" in n) > 0, "counted in the head"
    assert trained(plain, 1) == trained(make("linear", "resnet_nano", "task.masks=false"), 1)
    section = json.dumps(peftbench.config.identity(composed("linear", "resnet_nano")), default=str)
    assert "masks" not in section
    assert "masks" in json.dumps(peftbench.config.identity(composed("linear", "resnet_nano", "task.masks=true")))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    quick = ["data.batch_size=2", "trainer.epochs=1", "logger=none", "trainer.progress=false"]
    words = ["method=cst", "backbone=resnet_nano", *MASKS, *quick, "task.score_threshold=0.01"]
    return peftbench.run(peftbench.compose(*words, f"output_dir={tmp_path_factory.mktemp('masks')}"))


def test_a_run_measures_masks_beside_boxes_and_leaves_them(run):
    assert {"test/AP", "test/segm_AP", "test/segm_AP50", "val/segm_AP"} <= set(run.metrics)
    rows = json.loads((Path(run.folder) / "detections.json").read_text())
    assert {*rows[0]} == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert rows[0]["segmentation"]["size"] == [64, 64]


def test_predict_and_detect_give_masks(run, capsys, tmp_path):
    split = instantiate(peftbench.compose(*MASKS, "method=cst").data).load_as("masks").test
    found = peftbench.load(run.folder).detect(split.images[0])
    assert found["masks"].dtype == torch.bool
    assert found["masks"].shape == (len(found["boxes"]), 64, 64)
    images, out = split.images[0].parent, tmp_path / "found.json"
    told = [
        "predict",
        f"run={run.folder}",
        f"images={images}",
        f"out={out}",
        f"draw={tmp_path / 'drawn'}",
        "score=0.01",
    ]
    status, _, err = told_by(capsys, *told)
    assert status == 0, err
    annotations = [a for a in json.loads(out.read_text())["annotations"] if a["image_id"] == 1]
    for annotation, mask in zip(annotations, found["masks"], strict=True):
        assert (decoded([annotation["segmentation"]], (64, 64))[0] == mask.numpy()).all()
        assert annotation["area"] == mask.sum()
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 2


@pytest.mark.slow
def test_evaluate_gives_the_masks_figures_of_the_run_s_own_test(run, capsys, tmp_path):
    images = instantiate(peftbench.compose(*MASKS, "method=cst").data).load_as("masks").test.images[0].parent
    labels = images.parents[1] / "annotations" / "instances_test.json"
    status, text, err = told_by(capsys, "evaluate", f"run={run.folder}", f"images={images.parent}", f"labels={labels}")
    assert status == 0, err
    assert "masks: AP, IoU 0.50 to 0.95" in text
    figures = json.loads(Path(text.splitlines()[-1]).read_text())["figures"]
    for name in ("AP", "segm_AP", "segm_AP50"):
        assert figures[name] == pytest.approx(run.metrics[f"test/{name}"], abs=1e-6)
    assert {*figures["intervals"]} == {*(p + n for p in ("", "segm_") for n in ("AP", "AP50", "AP75"))}
    content = json.loads(labels.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    words = [f"images={images.parent}", f"labels={tmp_path / 'boxes.json'}"]
    status, _, err = told_by(capsys, "evaluate", f"run={run.folder}", *words)
    assert status == 2
    assert "no segmentation" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_it_exports_to_onnx_for_images_of_several_sizes(run, tmp_path):
    """What the file finds is what the model finds, on images of two sizes with boxes on both."""
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    made = export(run.folder, "onnx", tmp_path / "a.onnx")
    assert made.difference < 1e-4
    told = {entry.key: entry.value for entry in onnx.load(made.path).metadata_props}
    assert json.loads(told["classes"]) == [str(digit) for digit in range(10)]
    assert "float32 (3, h, w) in [0, 1], resized with its aspect by min(64 / height, 64 / width)" in told["input"]
    assert "masks: probabilities (n, 28, 28)" in told["output"]
    session, tuned = runtime.InferenceSession(str(made.path)), peftbench.load(run.folder)
    photo = Image.open(instantiate(peftbench.compose(*MASKS, "method=cst").data).load_as("masks").test.images[0])
    for width, height in ((64, 48), (40, 64)):
        image = photo.crop((0, 0, width, height))
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
        boxes, scores, labels, masks = map(torch.from_numpy, session.run(None, {"image": pixels}))
        found = tuned.detect(image)
        assert len(found["boxes"]) > 3
        torch.testing.assert_close(boxes, found["boxes"], atol=1e-2, rtol=1e-3)
        torch.testing.assert_close(scores, found["scores"], atol=1e-4, rtol=1e-3)
        assert torch.equal(labels, found["labels"])
        drawn = whole_masks(pasted(masks, boxes, (height, width)), (height, width))
        assert (drawn == found["masks"]).float().mean() > 0.999


def test_the_page_of_a_run_shows_masks_and_their_ap_by_class(tmp_path):
    rows = split(tmp_path).take([0])
    height, width = SIZES[0]
    found = {"boxes": torch.tensor([[20.0, 15, 80, 30]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    metrics = {"test/AP/cat": 0.5, "test/segm_AP/cat": 0.25}
    sources = []
    for mask in (lit(SIZES[0]), np.zeros((height, width), dtype=np.uint8)):
        seen = Seen(rows, "test", ("cat",), [found | {"segments": [encoded(mask)]}], tmp_path, metrics)
        pictures, _, of_masks = BoxPage().parts(seen)
        sources.append(pictures.pictures[0].source)
    assert sources[0] != sources[1], "what was found is drawn"
    assert (of_masks.title, of_masks.tables[0].rows) == ("Masks by class", [["cat", "25.0"]])


def test_a_detector_in_a_file_starts_with_or_without_a_mask_head(tmp_path):
    built = {}
    for masks in ("true", "false"):
        spec = composed("linear", "resnet_nano", f"task.masks={masks}")
        model = make("linear", "resnet_nano", f"task.masks={masks}")
        save_detector(model.task, model.backbone, tmp_path / f"{masks}.safetensors", "fasterrcnn")
        built[masks] = (
            task_class(spec.task).build(spec.task, on_meta(spec.backbone), ("a", "b", "c")).to_empty(device="cpu")
        )
    for ours, theirs, said in (
        ("true", "false", "it has no mask head, so that starts anew"),
        ("false", "true", "its mask head is left out (task.masks=true takes it)"),
        ("true", "true", "it knows all classes by name"),
    ):
        start, note = begin_detector(built[ours].detector, ("a", "b", "c"), tmp_path / f"{theirs}.safetensors")
        assert said in note
        assert any("mask_head" in name for name in start) == (ours == theirs == "true")


def test_annotations_without_segments_are_one_sentence_and_nothing_is_written(cli, tmp_path):
    content = good()
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    write(tmp_path / "data", content)
    words = [
        "method=linear",
        "backbone=resnet_nano",
        "data=coco_folder",
        f"data.root={tmp_path / 'data'}",
        "data.val=null",
    ]
    status, _, err = cli(
        *words, "data.stage=tune", "data.val_fraction=0.4", "task.masks=true", f"output_dir={tmp_path}/o"
    )
    assert status == 2
    assert "3 of 3 annotations have no segmentation, such as annotation 1 of 5.png" in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("o/*/*"))


def test_a_set_from_outside_without_masks_is_refused():
    spec = composed("linear", "resnet_nano", "task.masks=true")
    rows = [Objects(1, (9, 9), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))]
    transform = SceneTransform((64, 96), (40,), 110, "bilinear", (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UserError, match="gives objects without their pixels"):
        task_class(spec.task).look_at(spec, transform, [box_split([Path("a")], rows, ["a"], [1])], ("a",))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "coco-mini").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("augment", ["none", "lsj"])
def test_masks_of_real_images_are_trained_on_and_judged(tmp_path, augment):
    """COCO's polygons and crowds; taps are kept where nothing changes the images."""
    words = ["method=losa", "backbone=resnet_nano", "data=coco_folder", f"data.root={SHARED / 'coco-mini'}"]
    words += [
        "data.size=[128,160]",
        "data.batch_size=2",
        "trainer.epochs=1",
        "trainer.max_batches=3",
        "task.masks=true",
    ]
    words += ["task.width=64", "task.hidden=32", "task.rois=32", "logger=none", f"data.augment={augment}"]
    record = peftbench.run(peftbench.compose(*words, f"output_dir={tmp_path}", "trainer.progress=false"))
    assert 0 <= record.metrics["test/segm_AP"] <= 1
    rows = json.loads((Path(record.folder) / "detections.json").read_text())
    assert all("segmentation" in row for row in rows)
