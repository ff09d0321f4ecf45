"""Each detector as ONNX: what the file finds is what the model finds, at sizes that it was not traced with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.common.errors import Refusal
from peftbench.runs.build import instantiate
from peftbench.tuned.export import detector, export
from peftbench.tuned.runtimes import open_exported

runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
SMALL = ["data=digits_det", "data.images=[16,2,3]", "data.canvas=64", "task.width=64", "task.hidden=16", "task.rois=16"]


def finished(folder: Path, *words: str):
    quick = ["backbone=resnet_nano", "data.batch_size=4", "trainer.epochs=6", "optimizer.lr=0.003", "logger=none"]
    return peftbench.run(peftbench.compose(*SMALL, *quick, *words, f"output_dir={folder}", "trainer.progress=false"))


@pytest.mark.parametrize(
    "words",
    [
        ["method=cst", "task.detector=retinanet"],
        ["method=losa", "task.detector=fcos"],
        ["method=adapter"],
        ["method=lora", "data.size=null", "data.min_size=[64]", "data.max_size=96"],
    ],
    ids=["retinanet", "fcos", "adapters", "fasterrcnn of any size"],
)
def test_the_file_finds_what_the_model_finds(tmp_path, words):
    record = finished(tmp_path, *words, "task.score_threshold=0")
    made = export(record.folder, "onnx")
    assert made.difference < 1e-3
    session, tuned = runtime.InferenceSession(str(made.path)), peftbench.load(record.folder)
    photo = Image.open(instantiate(peftbench.compose(*SMALL, "method=cst").data).load().test.images[0])
    for size in ((64, 64), (64, 48), (40, 64)):
        image = photo.resize(size)
        resized, place = tuned.transform(image)
        height, width = place["size"]
        pixels = resized[:, :height, :width].float().numpy() / 255
        boxes, scores, labels = map(torch.from_numpy, session.run(None, {"image": pixels}))
        boxes /= torch.tensor([*place["scale"], *place["scale"]])
        found = tuned.detect(image)
        sure = (found["scores"] > scores.min() + 1e-4).nonzero().flatten().tolist()
        assert len(sure) > 5
        near = (found["boxes"][:, None] - boxes[None]).abs().amax(2) < 0.05
        same = near & (found["labels"][:, None] == labels[None])
        same &= (found["scores"][:, None] - scores[None]).abs() < 1e-4
        assert np.mean([bool(same[i].any()) for i in sure]) > 0.95


def test_openvino_holds_a_detector_too(tmp_path):
    pytest.importorskip("openvino")
    record = finished(tmp_path, "method=cst", "task.detector=retinanet", "task.score_threshold=0", "trainer.epochs=1")
    made = export(record.folder, "openvino")
    assert made.difference < 1e-3
    model = open_exported(made.path)
    found = model.answers(torch.rand(3, 64, 48))
    assert model.takes_one
    assert found["boxes"].shape == (len(found["scores"]), 4)
    for words in ({"format": "executorch"}, {"format": "onnx", "precision": "int8"}):
        with pytest.raises(Refusal, match="whose boxes are no single tensor"):
            export(record.folder, **words)


def test_a_model_that_finds_nothing_on_photos_is_compared_all_the_same(tmp_path, monkeypatch):
    record = finished(tmp_path, "method=linear", "task.score_threshold=0.99", "trainer.epochs=1")
    tried, plain = [], detector._difference

    def counted(path, images, tuned):
        tried.append(sum(len(one.found["scores"]) for one in images))
        return plain(path, images, tuned)

    monkeypatch.setattr(detector, "_difference", counted)
    assert export(record.folder, "onnx").path.is_file()
    assert tried[0] > 5
    assert tried[1] == 0


def test_what_holds_sizes_as_constants_is_refused_in_a_sentence(tmp_path):
    record = finished(
        tmp_path, "method=cst", "data.size=null", "data.min_size=[64]", "data.max_size=128", "trainer.epochs=1"
    )
    with pytest.raises(Refusal, match=r"cannot be traced for images of any size \(a run with data\.size=\[H,W\]"):
        export(record.folder, "onnx")
    assert not list(Path(record.folder).glob("*.onnx*"))
