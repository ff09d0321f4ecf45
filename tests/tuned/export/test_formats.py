"""`peftbench export` to OpenVINO, ExecuTorch and Core ML, in fp16 and int8; and what opens these files."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import peftbench
from peftbench.cli.main import main
from peftbench.tuned.export import export
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.runtimes import open_exported
from support.finished_runs import finish, logits_of, pictures

LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch.exir", "coreml": "coremltools"}


def told(capsys, *words):
    capsys.readouterr()
    status = main(["export", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def inputs(data, tuned):
    """What a file is given for the test images, in the order of the classes."""
    files = [p for c in tuned.classes for p in sorted((data / "test" / c).iterdir())]
    return torch.stack([tuned.transform(p) for p in files]).float() / 255


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["format=torch_export", "precision=int8"], ["precision=int8: format=torch_export is written in fp32", "onnx"]),
        (["format=executorch", "precision=fp16"], ["fp32 or int8", "onnx, openvino, coreml"]),
        (["format=coreml", "precision=int8"], ["fp32 or fp16"]),
        (["format=onnx", "precision=int4"], ["precision=int4"]),
        (["format=onnx", "calibration=8"], ["calibration=8: is of precision=int8"]),
        (["format=onnx", "precision=int8", "calibration=0"], ["calibration=0", "1 or more"]),
        (["format=openvino", "out=x.onnx"], ["out=x.onnx", "ends in .xml"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_precision_that_a_format_has_not_is_refused(words, parts, lora, capsys):
    status, printed, said = told(capsys, f"run={lora.folder}", *words)
    assert (status, printed, said.count("\n")) == (2, "", 1), said
    for part in parts:
        assert part in said


def test_an_unfinished_run_is_refused(tmp_path, capsys):
    status, printed, said = told(capsys, f"run={tmp_path}", "format=openvino", "precision=int8")
    assert (status, printed, said.count("\n")) == (2, "", 1)
    assert "result.json" in said


@pytest.mark.parametrize(("format_", "library"), LIBRARIES.items())
def test_a_missing_library_is_named_with_the_command(format_, library, lora, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    before = sorted(p.name for p in Path(lora.folder).iterdir())
    with pytest.raises(
        peftbench.UserError, match=rf"needs {library.split('.')[0]}; pip install 'peftbench\[{format_}\]'"
    ):
        export(lora.folder, format_)
    assert sorted(p.name for p in Path(lora.folder).iterdir()) == before


def test_the_weights_of_another_model_are_not_replaced(lora, tmp_path):
    (tmp_path / "mine.bin").write_text("mine")
    with pytest.raises(peftbench.UserError, match=r"mine\.bin: exists already"):
        export(lora.folder, "openvino", tmp_path / "mine.xml")
    assert (tmp_path / "mine.bin").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("none.onnx", None, ["there is no such file"]),
        ("text.onnx", b"hello", ["is no file of format=onnx", "a protobuf's version"]),
        ("cut.onnx", b"\x08\x0a\xff\xff\xff", ["is no file of format=onnx"]),
        ("text.pt2", b"hello", ["format=torch_export"]),
        ("cut.pt2", b"PK\x03\x04", ["format=torch_export"]),
        ("text.xml", b"<a/>", ["format=openvino"]),
        ("lone.xml", b"<?xml?><net>", ["lone.bin, must lie beside it"]),
        ("text.pte", b"hello world", ["format=executorch"]),
        ("model.safetensors", b"", ["no graph", "format=onnx"]),
        ("model.tflite", b"", ["environment of its own"]),
        ("model.h5", b"", ["another kind (.h5)", ".onnx, .pt2, .xml, .pte"]),
    ],
)
def test_a_file_that_no_runtime_takes_is_refused_in_one_sentence(name, content, parts, tmp_path):
    if name in ("cut.onnx", "lone.xml"):
        pytest.importorskip(LIBRARIES["onnx" if name.endswith(".onnx") else "openvino"])
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(peftbench.UserError) as refused:
        open_exported(tmp_path / name)
    for part in (name.partition(".")[0], *parts):
        assert part in str(refused.value)


def rewritten(path, where, change):
    """A copy of an archive with those of its entries changed whose names hold `where`."""
    copy = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, change(old.read(entry)) if where in entry else old.read(entry))
    return copy


class Evil:
    """What marks a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.slow
def test_a_program_that_holds_code_is_not_opened(lora, tmp_path):
    path, mark = export(lora.folder, "torch_export", tmp_path / "model.pt2").path, tmp_path / "mark"
    assert open_exported(path).classes == ("one", "three", "two", "zero")
    evil = io.BytesIO()
    torch.save(Evil(mark), evil, pickle_module=pickle)
    attacks = {
        "sample_inputs": lambda content: evil.getvalue(),
        "weights_config": lambda content: content.replace(b'"use_pickle": false', b'"use_pickle": true', 1),
        "models/model.json": lambda content: content.replace(
            b'"expr_str": "', f"\"expr_str\": \"__import__('pathlib').Path('{mark}').touch() or ".encode()
        ),
    }
    for where, attack in attacks.items():
        changed = rewritten(path, where, attack)
        with pytest.raises(peftbench.Refusal, match="no file of format=torch_export"):
            open_exported(changed)
        assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "precision", "names"),
    [
        ("onnx", "fp16", ["model.fp16.onnx"]),
        ("onnx", "int8", ["model.int8.onnx"]),
        ("openvino", "fp32", ["model.bin", "model.xml"]),
        ("openvino", "fp16", ["model.fp16.bin", "model.fp16.xml"]),
        ("openvino", "int8", ["model.int8.bin", "model.int8.xml"]),
        ("executorch", "fp32", ["model.pte", "model.pte.json"]),
        ("executorch", "int8", ["model.int8.pte", "model.int8.pte.json"]),
    ],
)
def test_a_file_of_each_format_and_precision_runs(format_, precision, names, lora, data, tmp_path, capsys):
    pytest.importorskip(LIBRARIES[format_])
    if (format_, precision) == ("openvino", "int8"):
        pytest.importorskip("nncf")
    run = Path(shutil.copytree(lora.folder, tmp_path / "run"))
    before = {p.name for p in run.iterdir()}
    words = [f"run={run}", f"format={format_}", f"precision={precision}"]
    status, printed, said = told(capsys, *words, *(["calibration=32"] if precision == "int8" else []))
    assert status == 0, said
    opened = next(n for n in names if n.endswith((".onnx", ".xml", ".pte")))
    assert {p.name for p in run.iterdir()} - before == {*names, f"{opened}.preprocess.json", f"{opened}.card.md"}
    assert len({(run / name).stat().st_mode for name in [*names, "delta.safetensors"]}) == 1
    model = open_exported(run / opened, threads=1)
    assert (model.format, model.precision, model.outputs) == (format_, precision, ("logits",))
    assert model.classes == ("one", "three", "two", "zero")
    assert model.told["normalisation"].startswith("inside")
    tuned = peftbench.load(run, merge=False)
    right, labels = logits_of(data, tuned)
    pixels = inputs(data, tuned)
    found = torch.from_numpy(np.concatenate([model(part) for part in pixels.split([1, 50, len(pixels) - 51])]))
    if precision != "int8":
        torch.testing.assert_close(found, right, rtol=2e-2, atol=2e-2 if precision == "fp16" else 1e-4)
    accuracy = (found.argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(lora.metrics["test/accuracy"], abs=0.05)
    if precision != "fp32":
        measured = json.loads(model.told["measured"])
        assert measured["file"] == pytest.approx(accuracy, abs=1e-6)
        assert measured["model"] == pytest.approx(lora.metrics["test/accuracy"], abs=1e-6)
        assert f"accuracy {accuracy:.4f} on 120 test images" in printed
    if precision == "int8":
        drawn = json.loads(model.told["calibration"])
        assert (drawn["images"], drawn["of"], len(set(drawn["rows"]))) == (32, 160, 32)
    status, _, said = told(capsys, *words)
    assert status == 2
    assert "exists already" in said


@pytest.mark.slow
def test_a_package_of_core_ml_says_that_nothing_has_run_it(lora, tmp_path):
    coremltools = pytest.importorskip("coremltools")
    with pytest.warns(UserWarning, match=r"Core ML runs on Apple's systems only"):
        made = export(lora.folder, "coreml", tmp_path / "a.mlpackage", precision="fp16")
    assert made.difference is None
    about = coremltools.models.MLModel(str(made.path), skip_model_load=True).get_spec().description
    assert [feature.name for feature in (*about.input, *about.output)] == ["images", "logits"]
    said = about.metadata.userDefined
    assert (said["precision"], said["largest_batch"]) == ("fp16", "32")
    assert json.loads(said["classes"]) == ["one", "three", "two", "zero"]
    with pytest.raises(peftbench.Refusal, match="runs on Apple's systems only"):
        open_exported(made.path)


@pytest.fixture(scope="module")
def twice():
    """An operator that torch can trace, and no converter knows."""
    operator = torch.library.custom_op(
        "peftbench_tests::twice", lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    operator.register_fake(lambda x: torch.empty_like(x))
    return operator


@pytest.mark.slow
@pytest.mark.parametrize("format_", LIBRARIES)
def test_an_operator_that_a_format_lacks_is_named_with_its_layer(format_, lora, twice, monkeypatch):
    pytest.importorskip(LIBRARIES[format_])
    sample = Sample.__init__

    def then(self, tuned):  # the graph alone is spoilt, not what it is compared with
        sample(self, tuned)
        monkeypatch.setattr(nn.GELU, "forward", lambda self, x: twice(x))

    monkeypatch.setattr(Sample, "__init__", then)
    before = sorted(p.name for p in Path(lora.folder).iterdir())
    with pytest.raises(
        peftbench.Refusal, match=rf"format={format_}: has no peftbench_tests::twice, .* blocks\.0\.mlp\.act"
    ):
        export(lora.folder, format_)
    assert sorted(p.name for p in Path(lora.folder).iterdir()) == before


@pytest.mark.slow
def test_a_file_that_loses_too_much_is_kept_apart(lora, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("peftbench.tuned.export.reduced.LOST", -1.0)
    with pytest.warns(UserWarning, match=r"so it is kept apart"):
        made = export(lora.folder, "onnx", tmp_path / "a.onnx", precision="int8", calibration=8)
    assert made.path.name == "a.lossy.onnx"
    beside = {f"a.lossy.onnx{kind}" for kind in ("", ".preprocess.json", ".card.md")}
    assert {p.name for p in tmp_path.iterdir()} == beside
    assert open_exported(made.path).told["warning"] == made.warning


@pytest.mark.slow
def test_unreadable_calibration_images_are_named(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    data = pictures(tmp_path / "pictures", train=4, test=2)
    run = finish(tmp_path / "out", data, "linear").folder
    damaged = sorted((data / "train" / "zero").iterdir())[0]
    damaged.write_text("no image")
    status, printed, said = told(capsys, f"run={run}", "format=onnx", "precision=int8")
    assert (status, printed) == (2, "")
    assert f"zero/{damaged.name}" in said
    assert "calibration=128" in said
    assert not list(Path(run).glob("*.onnx"))
