"""Finished runs of segmentation elsewhere: exported graphs, several tasks on one backbone, a start from another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import peftbench
from peftbench.runs.run import run
from peftbench.tuned.export import export
from support.mistakes import refused
from support.runs import told_by

QUICK = [
    *("data=digits_seg", "data.images=[4,2,2]", "data.canvas=64", "data.batch_size=4", "trainer.epochs=1"),
    *("trainer.progress=false", "trainer.accelerator=cpu", "logger=none", "task.maps=2"),
]


def ended(folder, *words):
    quick = [w for w in QUICK if "data=digits_det" not in words or not w.startswith(("data=", "task.maps"))]
    record = run(peftbench.compose(*quick, *words, f"output_dir={folder}"))
    assert record.status == "complete", record.reason
    return record.folder


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch_export", "safetensors", "peft"])
@pytest.mark.parametrize(("method", "backbone"), [("losa", "resnet_nano"), ("lora", "vit_nano")])
def test_graphs_are_exported_and_what_is_no_timm_model_is_refused(method, backbone, format, tmp_path, capsys):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    folder = ended(tmp_path, f"method={method}", f"backbone={backbone}")
    suffix = {"torch_export": "pt2"}.get(format, format)
    out = tmp_path / ("adapter" if format == "peft" else f"file.{suffix}")
    told = told_by(capsys, "export", f"run={folder}", f"format={format}", f"out={out}")
    if format in ("safetensors", "peft"):
        refused(told, f"format={format}:")
        assert not out.exists()
        return
    assert told[0] == 0, told[2]
    tuned = peftbench.load(folder)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"images": (pixels.float() / 255).numpy()})
        logits = torch.from_numpy(logits)
    else:
        logits = torch.export.load(out).module()(pixels.float() / 255)
    assert logits.shape == (3, 11, 64, 64)
    assert torch.allclose(logits, tuned(pixels), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("onnx", ["method=cst"]),
        ("torch_export", ["method=lora"]),
        ("onnx", ["method=lora", "task.decoder=fpn", "task.maps=1"]),
        ("onnx", ["method=linear", "task.decoder=upernet", "task.maps=1"]),
    ],
)
def test_graphs_over_convolutions_take_images_of_any_multiple_of_32(format, words, tmp_path):
    if "task.maps=1" in words:
        pytest.importorskip("segmentation_models_pytorch")
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    folder = ended(tmp_path, "backbone=resnet_nano", *words)
    made = export(folder, format)
    assert made.difference < 1e-3
    tuned = peftbench.load(folder)
    pixels = torch.randint(0, 256, (3, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if format == "torch_export":
        logits = torch.export.load(made.path).module()(pixels.float() / 255)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
        (images,), said = session.get_inputs(), session.get_modelmeta().custom_metadata_map
        if "task.decoder=upernet" in words:
            assert images.shape == ["batch", 3, 64, 64], "it pools to a fixed number of places"
            assert "sides" not in said
            return
        assert images.shape == ["batch", 3, "height", "width"]
        assert said["sides"] == "any multiples of 32"
        logits = torch.from_numpy(session.run(["logits"], {"images": (pixels.float() / 255).numpy()})[0])
    assert logits.shape == (3, 11, 96, 160)
    assert torch.allclose(logits, tuned(pixels), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("window", ["64", "[32,64]"])
def test_a_run_that_looks_at_windows_is_exported_at_the_size_of_one(window, tmp_path):
    pytest.importorskip("onnxruntime")
    words = ["data.size=96", "data.augment=crop", f"task.window={window}", "task.scales=[1,1.5]", "method=lora"]
    folder = ended(tmp_path, "backbone=resnet_nano", *words)
    made = export(folder, "onnx")
    assert made.difference < 1e-3
    import onnxruntime

    said = onnxruntime.InferenceSession(str(made.path)).get_modelmeta().custom_metadata_map
    assert json.loads(said["transform"])["size"] == json.loads(window)
    assert "task.window" in said["tested_with"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["losa", "lora"])
def test_one_backbone_serves_classes_of_images_and_of_pixels_and_boxes(method, tmp_path):
    folders = {
        "digits": run(
            peftbench.compose(
                *("data=digits", "data.size=64", f"method={method}", "backbone=resnet_nano", "trainer.epochs=1"),
                *("trainer.max_batches=1", "trainer.progress=false", "logger=none", f"output_dir={tmp_path}"),
            )
        ).folder,
        "pixels": ended(tmp_path, f"method={method}", "backbone=resnet_nano"),
        "flipped": ended(tmp_path, f"method={method}", "backbone=resnet_nano", "data.tta=flip", "seed=1"),
        "scaled": ended(tmp_path, "method=linear", "backbone=resnet_nano", "task.scales=[1,1.5]", "seed=2"),
    }
    boxes = ended(tmp_path, f"method={method}", "backbone=resnet_nano", "data=digits_det", "task.score_threshold=0")
    with pytest.warns(match="boxes learned from images that keep their shape, padded to 64 x 64 pixels"):
        tasks = peftbench.MultiTask(None, {"boxes": boxes, **folders})
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert tasks.transform(Image.new("RGB", (80, 40))).shape == (3, 64, 64)
    passes = []
    hook = tasks.backbone.net.conv1.register_forward_hook(lambda *_: passes.append(1))
    logits = tasks(pixels, ["boxes", "digits", "pixels"])
    hook.remove()
    assert len(passes) == (1 if method == "losa" else 0), "side methods share one pass"
    found, alone = logits["boxes"], peftbench.load(boxes, merge=False).model(pixels)
    assert len(found) == 2
    for ours, theirs in zip(found, alone, strict=True):
        assert len(ours["boxes"]) == len(theirs["boxes"]) > 0
        assert all(torch.allclose(ours[key].float(), theirs[key].float(), atol=1e-3) for key in theirs)
    logits = tasks(pixels)
    for name, folder in folders.items():
        alone = peftbench.load(folder, merge=False)
        assert torch.allclose(logits[name], alone(pixels), atol=1e-5), name
    assert logits["pixels"].shape == (2, 11, 64, 64)


@pytest.mark.slow
def test_a_run_begins_with_the_decoder_of_another(tmp_path):
    first = ended(tmp_path, "method=lora", "backbone=resnet_nano")
    again = ended(tmp_path, "method=lora", "backbone=resnet_nano", f"start={first}", "seed=1")
    losses = []
    for folder in (first, again):
        record = json.loads((Path(folder) / "result.json").read_text())
        losses.append(record["history"][0]["train_loss"])
    assert losses[1] < losses[0]
