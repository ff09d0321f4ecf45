"""`peftbench serve` over tasks of every kind, from one backbone."""

from __future__ import annotations

import base64
import io
import warnings
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.serving.batching import Batching
from peftbench.serving.limits import Limits
from peftbench.serving.pictures import prepared

pytestmark = pytest.mark.slow
WORDS = ["method=linear", "backbone=resnet_nano", "trainer.epochs=1", "trainer.max_batches=2", "data.batch_size=8"]
KINDS = {
    "classes": ["data=digits", "data.size=64"],
    "labels": ["data=digits", "data.size=64", "task=multilabel"],
    "numbers": ["data=digits", "data.size=64", "task=regression"],
    "pixels": ["data=digits_seg", "data.images=[8,2,2]", "data.size=64"],
    "boxes": ["data=digits_det", "data.images=[8,2,2]", "data.canvas=64", "task.score_threshold=0", "task.masks=true"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    output = tmp_path_factory.mktemp("kinds")
    quiet = ["trainer.progress=false", "logger=none", "taps=off", f"output_dir={output}"]
    found = {}
    for name, words in KINDS.items():
        record = peftbench.run(peftbench.compose(*WORDS, *words, *quiet))
        assert record.status == "complete", record.reason
        found[name] = Path(record.folder)
    return found


@pytest.fixture(scope="module")
def picture():
    """A file of 80 x 40 pixels, and it as it is decoded."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((80, 40)).save(file, "PNG")
    return file.getvalue(), pixels


def told(tasks, content):
    """What the server's parts say of an image."""
    batching = Batching(tasks, Limits(), lambda images: None)
    try:
        pixels, seen = prepared("image 1", content, tasks.transform, 10**6)
        future: Future = batching.ask(pixels, list(tasks.tasks))
        return {name: task.predictor.served(task, answer, seen) for name, (task, answer) in future.result(60).items()}
    finally:
        batching.stop()


def test_each_kind_of_task_answers_in_its_own_words(folders, picture):
    content, pixels = picture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = peftbench.MultiTask(None, folders)
    answers = told(tasks, content)
    models = {name: peftbench.load(folder, merge=False) for name, folder in folders.items()}
    inputs = tasks.transform(pixels)[None]

    logits = models["classes"](inputs)[0]
    shares = logits.softmax(0).tolist()
    assert list(answers["classes"]["probabilities"].values()) == pytest.approx(shares, abs=1e-4)
    assert answers["classes"]["class"] == models["classes"].classes[logits.argmax()]

    shares = models["labels"](inputs)[0].sigmoid().tolist()
    assert list(answers["labels"]["probabilities"].values()) == pytest.approx(shares, abs=1e-4)
    threshold = models["labels"].model.task.threshold.item()
    assert answers["labels"]["labels"] == [
        name for name, share in zip(models["labels"].classes, shares, strict=True) if share >= threshold
    ]
    assert list(answers["numbers"]["values"].values()) == pytest.approx(models["numbers"](inputs)[0].tolist(), rel=1e-3)

    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answers["pixels"]["mask"]))))
    theirs = models["pixels"].segment(pixels).numpy()
    assert mask.shape == (40, 80) == theirs.shape
    assert (mask == theirs).mean() > 0.9  # up-sampled twice, and there once
    assert sum(answers["pixels"]["shares"].values()) == pytest.approx(1, abs=1e-4)

    boxes = answers["boxes"]["boxes"]
    assert boxes
    assert [one["score"] for one in boxes] == sorted((one["score"] for one in boxes), reverse=True)
    corners = np.array([one["box"] for one in boxes])
    assert (corners >= 0).all()
    assert (corners <= [80, 40, 80, 40]).all()
    assert corners[:, 2].max() > 64, "in pixels of the image, not of the input"
    assert all(one["segmentation"]["size"] == [40, 80] for one in boxes)


def test_a_detector_alone_sees_images_in_their_shape(folders, picture):
    content, pixels = picture
    tasks = peftbench.MultiTask(None, {"boxes": folders["boxes"]})
    answers = told(tasks, content)["boxes"]["boxes"]
    inputs, place = tasks.transform(pixels)
    assert place["size"] == (32, 64), "it fills the upper half of the input"
    found = tasks(inputs[None])["boxes"][0]
    theirs = (found["boxes"] / torch.tensor([*place["scale"], *place["scale"]])).clamp(min=0)
    theirs = torch.minimum(theirs, torch.tensor([80.0, 40.0, 80.0, 40.0]))
    kept = (theirs[:, 2:] > theirs[:, :2]).all(1)
    assert 0 < kept.sum() < len(kept), "some lie on the padding"
    np.testing.assert_allclose([one["box"] for one in answers], theirs[kept].numpy(), atol=0.05)
    assert [one["score"] for one in answers] == pytest.approx(found["scores"][kept].tolist(), abs=1e-3)
