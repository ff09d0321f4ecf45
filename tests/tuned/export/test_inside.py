"""`peftbench export inside=all`: a file that takes decoded images, and what stands beside each file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.cli.main import main
from peftbench.data.images import IMAGENET, Transform
from peftbench.tuned.export import export
from peftbench.tuned.export.resizing import MEAN_LEVELS, MOST_LEVELS, Resize
from peftbench.tuned.runtimes import open_exported
from support.npm import node_modules_with
from support.places import ROOT

EXAMPLES = ROOT / "docs" / "examples"
SIZES = [(64, 64), (31, 47), (200, 133), (7, 120), (1, 5), (128, 128), (65, 63)]


def photo(width: int, height: int) -> Image.Image:
    """Something with edges and slopes."""
    y, x = np.mgrid[0:height, 0:width]
    values = np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, 255 * ((x // 4 + y // 3) % 2)], -1)
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_a_graph_resizes_as_pil_does(how, interpolation):
    transform = Transform(48, interpolation, *IMAGENET, resize=how)
    resize = Resize(transform)
    for size in SIZES if how != "pad" else SIZES[:-3] + SIZES[-2:]:  # PIL itself makes nothing of 1 x 5 there
        image = photo(*size)
        pixels = torch.from_numpy(np.array(image))[None]
        off = (resize(pixels)[0] - transform(image).float()).abs()
        tall = size[1] - 48 > 2 * max(size[0] - 48, 0)  # whose columns Pillow 13 filters first
        assert off.max() <= (2 * MOST_LEVELS if tall else 2), size
        assert off.mean() <= (4 * MEAN_LEVELS if tall else MEAN_LEVELS), size


def test_an_image_of_the_inputs_size_stays_as_it_is():
    resize = Resize(Transform(32, "bicubic", *IMAGENET))
    pixels = torch.from_numpy(np.array(photo(32, 32)))[None]
    assert torch.equal(resize(pixels)[0], pixels[0].permute(2, 0, 1).float())


@pytest.fixture(scope="module")
def whole(lora, tmp_path_factory) -> Path:
    """A program of the run that resizes too."""
    return export(lora.folder, "torch_export", tmp_path_factory.mktemp("whole") / "model.pt2", inside="all").path


@pytest.mark.slow
def test_a_file_that_resizes_has_the_records_accuracy(whole, lora, data):
    model = open_exported(whole)
    files = [(p, i) for i, c in enumerate(model.classes) for p in sorted((data / "test" / c).iterdir())]
    pixels = np.stack([np.asarray(Image.open(p).convert("RGB")) for p, _ in files])
    found = model(pixels).argmax(1)
    assert (found == [i for _, i in files]).mean() == pytest.approx(lora.metrics["test/accuracy"], abs=1e-6)
    tuned = peftbench.load(lora.folder, merge=False)
    for size in ((1, 1), (97, 12), (300, 301)):
        image = photo(*size)
        expected = tuned(tuned.transform(image)[None])
        np.testing.assert_allclose(model(np.asarray(image)[None]), expected, atol=0.05 * float(expected.abs().max()))


@pytest.mark.slow
def test_images_of_two_sizes_or_of_another_type_are_refused(whole):
    model = open_exported(whole)
    with pytest.raises(peftbench.UserError, match=r"one size at a time.*\(5, 4, 3\) and \(6, 4, 3\)"):
        model([np.zeros((5, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)])
    with pytest.raises(peftbench.UserError, match=r"uint8 \(B, h, w, 3\), and what was given is float32"):
        model(np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.slow
def test_what_a_program_must_do_is_told_beside_a_file(whole):
    about = json.loads(whole.with_name("model.pt2.preprocess.json").read_text())
    assert about["resized"] == about["normalised"] == "inside"
    assert about["input"]["dtype"] == "uint8"
    assert about["input"]["shape"] == ["batch", "height", "width", 3]


def test_beside_weights_stands_all_that_is_to_be_done(lora, tmp_path):
    out = tmp_path / "model.safetensors"
    export(lora.folder, "safetensors", out)
    about = json.loads((tmp_path / "model.safetensors.preprocess.json").read_text())
    assert about["size"] == [32, 32]
    assert about["resize"] == "squash"
    assert about["normalised"] == "outside"
    assert about["mean"] == pytest.approx(IMAGENET[0])
    assert about["classes"] == ["one", "three", "two", "zero"]
    out.unlink()
    with pytest.raises(peftbench.UserError, match=r"preprocess\.json: exists already"):
        export(lora.folder, "safetensors", out)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            ["format=safetensors", "inside=all"],
            "format=safetensors holds no resizing; onnx, torch_export, openvino do.",
        ),
        (["format=onnx", "inside=all", "precision=int8"], "precision=int8 is for the model alone"),
        (["format=onnx", "inside=al"], "inside=al"),
    ],
)
def test_what_cannot_be_inside_is_refused(lora, capsys, words, part):
    assert main(["export", f"run={lora.folder}", *words]) == 2
    told = capsys.readouterr()
    assert part in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_a_filter_that_no_graph_holds_is_refused():
    with pytest.raises(peftbench.Refusal, match=r"data\.interpolation=nearest .* inside=normalise leaves resizing"):
        Resize(Transform(32, "nearest", *IMAGENET))


# The examples of docs/shipping.md.


def test_the_page_shows_the_examples_as_they_are():
    page = (ROOT / "docs" / "shipping.md").read_text(encoding="utf-8")
    for file in EXAMPLES.iterdir():
        assert f"\n{file.read_text(encoding='utf-8').strip()}\n```" in page, file.name


@pytest.fixture(scope="module")
def shipped(lora, data, tmp_path_factory) -> Path:
    """A folder with model.onnx, which resizes, and the test images as PPM, named <class>-….ppm."""
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("shipped")
    export(lora.folder, "onnx", folder / "model.onnx", inside="all")
    for file in (data / "test").glob("*/*.png"):
        Image.open(file).convert("RGB").save(folder / f"{file.parent.name}-{file.stem}.ppm")
    return folder


def accuracy(command, shipped, places=None) -> float:
    """Of a program that prints a line for each image; `places` are the classes where it prints numbers."""
    images = sorted(shipped.glob("*.ppm"))
    words = [*map(str, command), "model.onnx", *(image.name for image in images)]
    done = subprocess.run(words, cwd=shipped, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, _ in lines] == [i.name for i in images]
    said = [places[int(label)] if places else label for _, label in lines]
    return float(np.mean([name.partition("-")[0] == label for (name, _), label in zip(lines, said, strict=True)]))


@pytest.mark.slow
def test_the_example_in_python_has_the_records_accuracy(shipped, lora):
    found = accuracy([sys.executable, EXAMPLES / "classify.py"], shipped)
    assert found == pytest.approx(lora.metrics["test/accuracy"], abs=1e-6)


@pytest.mark.slow
def test_the_example_in_javascript_has_the_records_accuracy(shipped, lora, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (shipped / "node_modules").symlink_to(node_modules_with("onnxruntime-web", "1", tmp_path))
    shutil.copy(EXAMPLES / "classify.mjs", shipped)
    found = accuracy([shutil.which("node"), "classify.mjs"], shipped)
    assert found == pytest.approx(lora.metrics["test/accuracy"], abs=1e-6)


@pytest.mark.slow
def test_the_example_in_cpp_has_the_records_accuracy(shipped, lora, tmp_path):
    cmake = shutil.which("cmake")
    if cmake is None or shutil.which("g++") is None:
        pytest.skip("cmake and g++ are not installed")
    spec = find_spec("openvino")
    if spec is None or spec.origin is None:
        pytest.skip("openvino is not installed")
    where = Path(spec.origin).parent / "cmake"
    for words in (["-S", EXAMPLES, "-B", tmp_path, f"-DOpenVINO_DIR={where}"], ["--build", tmp_path]):
        subprocess.run([cmake, *map(str, words)], capture_output=True, text=True, check=True)
    classes = json.loads((shipped / "model.onnx.preprocess.json").read_text())["classes"]
    found = accuracy([tmp_path / "classify"], shipped, classes)
    assert found == pytest.approx(lora.metrics["test/accuracy"], abs=1e-6)
