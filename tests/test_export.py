"""`peftbench export`: files that compute what the model does, and what cannot be exported."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from finished_runs import QUIET, finish, logits_of, pictures, same
from torch import nn

import peftbench
from peftbench import deltas
from peftbench.backbones.weights import HERE
from peftbench.cli.main import main
from peftbench.methods.lora import LoRA
from peftbench.tuned.export import export
from peftbench.tuned.export.graph import Sample

TINY = ["backbone.pretrained=false", "+backbone.args.depths=[1,1,1,2]", "+backbone.args.embed_dims=[16,32,48,64]"]
TINY += ["data.size=null", "trainer.max_batches=1", "data.batch_size=4", "data.eval_batch_size=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=40, test=30)


@pytest.fixture(scope="module")
def lora(data, tmp_path_factory):
    words = ["optimizer.lr=3e-3", "trainer.epochs=2", "data.normalize=imagenet"]
    return finish(tmp_path_factory.mktemp("lora"), data, "lora", "vit_nano", *words)


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


def metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


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


@pytest.mark.parametrize(
    ("method", "format_", "name"),
    [
        ("lora", "safetensors", "model.safetensors"),
        ("lora", "onnx", "model.onnx"),
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
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_says_what_it_is(lora, cst, tmp_path):
    onnx = pytest.importorskip("onnx")
    made = export(cst.folder, "onnx", tmp_path / "a.onnx")
    assert made.difference < 1e-4
    model = onnx.load(made.path)
    said = {p.key: p.value for p in model.metadata_props}
    assert json.loads(said["classes"]) == ["one", "three", "two", "zero"]
    assert said["normalisation"] == "inside: float32 images in [0, 1]"
    assert said["merged"] == "false"
    (given,) = model.graph.input
    sizes = [d.dim_value or d.dim_param for d in given.type.tensor_type.shape.dim]
    assert isinstance(sizes[0], str)
    assert sizes[1:] == [3, 32, 32]
    plain = metadata(export(lora.folder, "safetensors", tmp_path / "a.safetensors").path)
    assert plain["normalisation"].startswith("outside")
    assert plain["merged"] == "true"
    assert plain["fingerprint"] == lora.stamps["backbone"]["fingerprint"]


def test_a_graph_of_clips_takes_clips(data, tmp_path):
    """Folders of six digits each stand for clips."""
    for role in ("train", "test"):
        for word in ("one", "two"):
            for start in (0, 6):
                clip = tmp_path / "clips" / role / word / f"c{start}"
                clip.mkdir(parents=True)
                for p in sorted((data / role / word).iterdir())[start : start + 6]:
                    shutil.copy(p, clip)
    words = ["method=losa", "method.mixers=[channel,space,time]", "method.pooling=avg", "data=video_folder"]
    words += [f"data.root={tmp_path / 'clips'}", "data.frames=3", "data.size=32", "trainer.epochs=1", *QUIET]
    record = peftbench.run(peftbench.compose("backbone=vit_nano", f"output_dir={tmp_path}", *words))
    assert export(record.folder, "torch_export").difference < 1e-4
    for format_, why in (("safetensors", "is of clips"), ("peft", "no LoRA")):
        with pytest.raises(peftbench.Refusal, match=why):
            export(record.folder, format_)


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
            backbone.net.blocks[0].attn.qkv.weight.mul_(1.1)

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


def test_an_adapter_gives_the_same_logits_in_peft_and_comes_back(lora, data, tmp_path):
    peft = pytest.importorskip("peft", reason="HF peft is not installed: pip install 'peftbench[bench]'")
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    said = metadata(folder / "adapter_model.safetensors")
    base = timm.create_model(**json.loads(said["create"]))
    state = safetensors.torch.load_file(HERE / "vit_nano.safetensors")
    net = base.patch_embed, base.pos_embed  # of the run's own size
    assert net[1].shape[1] == 17
    ours = peftbench.load(lora.folder, merge=False)
    start = {n.removeprefix("net."): t for n, t in ours.model.backbone.state_dict().items() if "lora_" not in n}
    assert state.keys() >= start.keys()
    base.load_state_dict(start, strict=False)
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    right, _ = logits_of(data, ours)
    files = [p for c in ours.classes for p in sorted((data / "test" / c).iterdir())]
    pixels = torch.stack([ours.transform(p) for p in files])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ours.model.normalize(pixels)), right)

    with torch.no_grad():  # as after more training there
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.5)
        changed = theirs(ours.model.normalize(pixels))
    theirs.save_pretrained(tmp_path / "back")
    back = peftbench.load(lora.folder, adapter=tmp_path / "back")
    assert back.merged
    found, _ = logits_of(data, back)
    torch.testing.assert_close(found, changed, rtol=1e-4, atol=1e-5)
    assert (changed - right).abs().max() > 0.01


def test_an_adapter_that_we_wrote_is_the_delta(lora, tmp_path, capsys, data):
    folder, difference = dataclasses.astuple(export(lora.folder, "peft", tmp_path / "adapter"))
    assert difference < 1e-5
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    back = peftbench.load(lora.folder, adapter=folder, merge=False)
    assert same(back.state_dict(), peftbench.load(lora.folder, merge=False).state_dict())
    words = [f"run={lora.folder}", f"images={data / 'test' / 'one'}"]
    main(["predict", *words])
    plain = capsys.readouterr().out
    assert main(["predict", *words, f"adapter={folder}"]) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"use_dora": True}, ["use_dora=True", "plain LoRA"]),
        ({"peft_type": "LOHA"}, ["peft_type='LOHA'"]),
        ({"rank_pattern": {"x": 3}}, ["rank_pattern"]),
        ({"r": 4}, ["lora_a", "[8, 128]", "[4, 128]"]),
        ({"r": "many"}, ["adapter_config.json: is not the configuration"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights='pissa'"]),
        ({"lora_alpha": float("nan")}, ["adapter_config.json: is not the configuration"]),
    ],
    ids=str,
)
def test_an_adapter_that_is_not_plain_lora_is_refused(lora, tmp_path, change, parts):
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(peftbench.UserError) as problem:
        peftbench.load(lora.folder, adapter=folder)
    for part in parts:
        assert part in str(problem.value)


def test_an_adapter_that_is_missing_damaged_or_foreign_is_told(lora, tmp_path):
    with pytest.raises(peftbench.UserError, match=r"holds no adapter_config\.json"):
        peftbench.load(lora.folder, adapter=tmp_path)
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    file = folder / "adapter_model.safetensors"
    tensors, said = deltas.read_tensors(file)
    safetensors.torch.save_file({n: t for n, t in tensors.items() if "head" not in n}, file, said)
    with pytest.raises(peftbench.UserError, match=r"lacks task\.head\.weight"):
        peftbench.load(lora.folder, adapter=folder)
    name = next(iter(tensors))
    safetensors.torch.save_file(tensors | {name: tensors[name] * float("nan")}, file, said)
    with pytest.raises(peftbench.UserError, match="holds values that are not finite"):
        peftbench.load(lora.folder, adapter=folder)
    safetensors.torch.save_file(tensors, file, said | {"fingerprint": "0" * 64})
    with pytest.raises(peftbench.Refusal, match="on a backbone with fingerprint 000000000000"):
        peftbench.load(lora.folder, adapter=folder)
    safetensors.torch.save_file(tensors | {"base_model.model.x.lora_A.weight": torch.zeros(8, 3, 1, 1)}, file)
    with pytest.raises(peftbench.UserError, match="neither LoRA of a linear layer nor the classifier"):
        peftbench.load(lora.folder, adapter=folder)
    torch.save(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(peftbench.UserError, match="is a pickle or a torch file"):
        peftbench.load(lora.folder, adapter=folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        peftbench.UserError, match=r"adapter=.*: holds no adapter_model\.safetensors; give a folder that PEFT"
    ):
        peftbench.load(lora.folder, adapter=folder)
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(peftbench.UserError, match=r"adapter_model\.bin, a pickle.*; expected .*save_pretrained"):
        peftbench.load(lora.folder, adapter=folder)
