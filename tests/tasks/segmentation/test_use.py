"""Finished runs of segmentation elsewhere: exported graphs, several tasks on one backbone, a start from another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench.runs.run import run
from support.mistakes import refused
from support.runs import told_by

QUICK = [
    *("data=digits_seg", "data.images=[4,2,2]", "data.canvas=64", "data.batch_size=4", "trainer.epochs=1"),
    *("trainer.progress=false", "trainer.accelerator=cpu", "logger=none", "task.maps=2"),
]


def ended(folder, *words):
    record = run(peftbench.compose(*QUICK, *words, f"output_dir={folder}"))
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
@pytest.mark.parametrize("method", ["losa", "lora"])
def test_one_backbone_serves_classes_of_images_and_of_pixels(method, tmp_path):
    folders = {
        "digits": run(
            peftbench.compose(
                *("data=digits", "data.size=64", f"method={method}", "backbone=resnet_nano", "trainer.epochs=1"),
                *("trainer.max_batches=1", "trainer.progress=false", "logger=none", f"output_dir={tmp_path}"),
            )
        ).folder,
        "pixels": ended(tmp_path, f"method={method}", "backbone=resnet_nano"),
        "flipped": ended(tmp_path, f"method={method}", "backbone=resnet_nano", "data.tta=flip", "seed=1"),
    }
    tasks = peftbench.MultiTask(None, folders)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
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
