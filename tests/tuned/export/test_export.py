"""`peftbench export`: files that compute what the model does, and what cannot be exported."""

import json
import re
import shutil
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

import peftbench
from peftbench.cli.main import main
from peftbench.methods.lora import LoRA
from peftbench.tuned.export import export
from peftbench.tuned.export.graph import Sample
from support.exports import metadata
from support.finished_runs import QUIET, finish, logits_of

TINY = ["backbone.pretrained=false", "+backbone.args.depths=[1,1,1,2]", "+backbone.args.embed_dims=[16,32,48,64]"]
TINY += ["data.size=null", "trainer.max_batches=1", "data.batch_size=4", "data.eval_batch_size=4"]


@pytest.fixture(scope="module")
def cst(data, tmp_path_factory):
    words = ["optimizer.lr=1e-2", "trainer.epochs=2"]
    return finish(tmp_path_factory.mktemp("cst"), data, "cst", "hybrid_nano", *words)


@pytest.fixture
def copied(lora, tmp_path):
    return Path(shutil.copytree(lora.folder, tmp_path / "run"))


def told(capsys, *words):
    capsys.readouterr()
    status = main(["export", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def answer(path):
    """What an exported file says of float32 images in [0, 1]."""
    if path.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    said = metadata(path)
    scale = json.loads(said["transform"])
    mean, std = (torch.tensor(scale[k]).view(3, 1, 1) for k in ("mean", "std"))
    net = timm.create_model(**json.loads(said["create"])).eval()
    net.load_state_dict(safetensors.torch.load_file(path))
    return lambda x: net((x - mean) / std)


def axes(values):
    """The axes of each value of an ONNX graph: lengths, and names where the length is open."""
    return {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.parametrize(
    ("method", "format_", "name"),
    [
        ("lora", "safetensors", "model.safetensors"),
        pytest.param("lora", "onnx", "model.onnx", marks=pytest.mark.slow),
        ("lora", "torch_export", "model.pt2"),
        pytest.param("cst", "onnx", "model.onnx", marks=pytest.mark.slow),
        pytest.param("cst", "torch_export", "model.pt2", marks=pytest.mark.slow),
    ],
)
def test_the_exported_file_has_the_records_accuracy(method, format_, name, lora, cst, data, tmp_path, capsys):
    if format_ == "onnx":
        pytest.importorskip("onnxruntime")
    record = {"lora": lora, "cst": cst}[method]
    out = tmp_path / name
    status, printed, _ = told(capsys, f"run={record.folder}", f"format={format_}", f"out={out}")
    assert status == 0
    assert printed.startswith(str(out))
    tuned = peftbench.load(record.folder, merge=False)
    right, labels = logits_of(data, tuned)
    files = [p for c in tuned.classes for p in sorted((data / "test" / c).iterdir())]
    pixels = torch.stack([tuned.transform(p) for p in files]).float() / 255
    with torch.no_grad():
        found = torch.cat([answer(out)(part) for part in pixels.split([1, 50, len(pixels) - 51])])
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)
    accuracy = (found.argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(record.metrics["test/accuracy"], abs=1e-6)
    assert accuracy > 0.4
    assert {p.name for p in tmp_path.iterdir()} == {name, f"{name}.card.md", f"{name}.preprocess.json"}


@pytest.mark.slow
def test_a_file_says_what_it_is(lora, cst, tmp_path):
    onnx = pytest.importorskip("onnx")
    made = export(cst.folder, "onnx", tmp_path / "a.onnx")
    assert made.difference < 1e-4
    model = onnx.load(made.path)
    said = {p.key: p.value for p in model.metadata_props}
    assert json.loads(said["classes"]) == ["one", "three", "two", "zero"]
    assert said["normalisation"] == "inside: float32 images in [0, 1]"
    assert said["merged"] == "false"
    assert axes(model.graph.input) == {"images": ["batch", 3, 32, 32]}
    assert axes(model.graph.output) == {"logits": ["batch", 4]}
    named = {axis for sizes in axes(model.graph.value_info).values() for axis in sizes if isinstance(axis, str)}
    assert not re.search(r"\bs\d", " ".join(named))
    plain = metadata(export(lora.folder, "safetensors", tmp_path / "a.safetensors").path)
    assert plain["normalisation"].startswith("outside")
    assert plain["merged"] == "true"
    assert plain["fingerprint"] == lora.stamps["backbone"]["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ssf", "fact", "fact_tk", "gps"])
def test_methods_that_merge_are_exported_in_every_format(method, data, tmp_path):
    record = finish(tmp_path, data, method, "vit_nano", "optimizer.lr=3e-3", "trainer.max_batches=2")
    for format_ in ("safetensors", "torch_export", "onnx"):
        if format_ == "onnx":
            pytest.importorskip("onnxruntime")
        assert export(record.folder, format_).difference < 1e-4


def of_clips(data, tmp_path):
    """A run on clips, for which folders of six digits each stand."""
    for role in ("train", "test"):
        for word in ("one", "two"):
            for start in (0, 6):
                clip = tmp_path / "clips" / role / word / f"c{start}"
                clip.mkdir(parents=True)
                for p in sorted((data / role / word).iterdir())[start : start + 6]:
                    shutil.copy(p, clip)
    words = ["method=losa", "method.mixers=[channel,space,time]", "method.pooling=avg", "data=video_folder"]
    words += [f"data.root={tmp_path / 'clips'}", "data.frames=3", "data.size=32", "trainer.epochs=1", *QUIET]
    return peftbench.run(peftbench.compose("backbone=vit_nano", f"output_dir={tmp_path}", *words))


@pytest.mark.slow
def test_the_axes_of_a_graph_of_clips_are_named(data, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(export(of_clips(data, tmp_path).folder, "onnx").path)
    assert axes(model.graph.input) == {"images": ["batch", 3, 3, 32, 32]}
    assert axes(model.graph.output) == {"logits": ["batch", 2]}


@pytest.mark.slow
def test_a_graph_of_clips_takes_clips(data, tmp_path):
    record = of_clips(data, tmp_path)
    assert export(record.folder, "torch_export").difference < 1e-4
    for format_, why in (("safetensors", "is of clips"), ("peft", "no LoRA")):
        with pytest.raises(peftbench.Refusal, match=why):
            export(record.folder, format_)


@pytest.mark.slow
def test_a_streamed_run_is_exported_whole(data, tmp_path):
    record = finish(tmp_path, data, "losa", "vit_nano", "backbone.stream=true", "trainer.max_batches=1")
    assert peftbench.load(record.folder).model.backbone.streamed
    assert export(record.folder, "torch_export").difference < 1e-4
    assert peftbench.MultiTask(None, [record.folder]).report()["tasks"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bitfit", "losa"])
def test_attention_biases_kept_in_eval_mode_are_exported(method, data, tmp_path):
    pytest.importorskip("onnxruntime")
    record = finish(tmp_path, data, method, "efficientformer_l1", *TINY)
    assert export(record.folder, "onnx").difference < 1e-4
    assert export(record.folder, "torch_export").difference < 1e-4


def test_two_classifiers_get_the_head_each(data, tmp_path):
    record = finish(tmp_path, data, "full", "efficientformer_l1", *TINY)
    state = safetensors.torch.load_file(export(record.folder, "safetensors").path)
    assert torch.equal(state["head.weight"], state["head_dist.weight"])


def test_a_merge_that_changes_the_model_is_noticed_and_nothing_written(copied, monkeypatch):
    def wrong(self, backbone):
        with torch.no_grad():
            backbone.net.blocks[0].norm1.weight.mul_(1.1)

    monkeypatch.setattr(LoRA, "merge", wrong)
    before = sorted(p.name for p in copied.iterdir())
    with pytest.raises(peftbench.UserError, match="other logits than the model"):
        export(copied, "torch_export")
    assert sorted(p.name for p in copied.iterdir()) == before


def test_what_is_there_already_is_kept(copied, capsys):
    (copied / "model.safetensors").write_text("mine")
    status, _, said = told(capsys, f"run={copied}", "format=safetensors")
    assert status == 2
    assert "exists already" in said
    assert (copied / "model.safetensors").read_text() == "mine"
    assert told(capsys, f"run={copied}", "format=safetensors", "force=true")[0] == 0
    assert metadata(copied / "model.safetensors")["method"] == "lora"
    modes = [(copied / f"{name}.safetensors").stat().st_mode & 0o777 for name in ("model", "delta")]
    assert modes[0] == modes[1]


def test_a_folder_gives_way_to_an_adapter_only_where_it_is_one(copied, capsys):
    before = sorted(p.name for p in copied.iterdir())
    words = [f"run={copied}", "format=peft", "force=true"]
    status, _, said = told(capsys, *words, f"out={copied}")
    assert status == 2
    assert "which is not of an adapter and would be lost" in said
    assert sorted(p.name for p in copied.iterdir()) == before
    assert told(capsys, *words)[0] == 0
    old = (copied / "adapter" / "adapter_config.json").read_text()
    (copied / "adapter" / "adapter_config.json").write_text("{}")
    assert told(capsys, *words)[0] == 0
    assert (copied / "adapter" / "adapter_config.json").read_text() == old
    assert told(capsys, *words, "merge=dense")[2].startswith("peftbench: merge=dense: format=peft")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run=CST", "format=safetensors"], ["method=cst", "side path", "format=onnx"]),
        (["run=CST", "format=peft"], ["method=cst is no LoRA", "method=lora"]),
        (["run=LORA", "format=onx"], ["format=onx", "did you mean 'onnx'"]),
        (["run=LORA", "format=onnx", "out=x.pt"], ["out=x.pt", ".onnx"]),
        (["run=LORA"], ["export: needs format="]),
        (["run=/nowhere", "format=onnx"], ["run=/nowhere", "result.json"]),
        (["run=LORA", "format=onnx", "out=/proc/x/model.onnx"], ["/proc/x/model.onnx", "could not be written"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(words, parts, lora, cst, capsys):
    filled = [w.replace("LORA", lora.folder).replace("CST", cst.folder) for w in words]
    status, printed, said = told(capsys, *filled)
    assert (status, printed, said.count("\n")) == (2, "", 1), said
    for part in parts:
        assert part in said
    assert not list(Path(lora.folder).glob(".model*"))


def test_a_missing_library_is_named(lora, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(peftbench.UserError, match=r"needs onnxscript; pip install 'peftbench\[onnx\]'"):
        export(lora.folder, "onnx")


def test_a_model_that_cannot_be_traced_is_refused(lora, monkeypatch):
    def data_dependent(self, x):
        return x * 2 if x.sum() > 0 else x

    sample = Sample.__init__

    def then(self, tuned):  # the graph alone is spoilt, not what it is compared with
        sample(self, tuned)
        monkeypatch.setattr(nn.GELU, "forward", data_dependent)

    monkeypatch.setattr(Sample, "__init__", then)
    with pytest.raises(peftbench.Refusal, match="vit_tiny_patch16_224 with method=lora cannot be traced"):
        export(lora.folder, "torch_export")
