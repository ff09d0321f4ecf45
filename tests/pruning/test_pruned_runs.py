"""Runs on pruned backbones, from the end: loaded, exported, served; and how their updates may be merged."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch

import peftbench
from peftbench.cli.main import main
from peftbench.tuned.export import export
from support.finished_runs import finish, logits_of, pictures, same

MODES = ("unmerged", "masked", "dense", "structured")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for mode in MODES:
        pruned = ["pruning=structured"] if mode == "structured" else [f"pruning.merge={mode}"]
        record = finish(folder, data, "petah", "hybrid_nano", "optimizer.lr=0.01", *pruned)
        made[mode] = folder / record.id, record
    return made


def zeros(state, masked):
    return sum(int((state[n] == 0).sum()) for n in masked)


@pytest.mark.parametrize("mode", MODES)
def test_the_loaded_model_is_the_one_that_was_tested(mode, runs, data):
    folder, record = runs[mode]
    tuned = peftbench.load(folder)
    logits, labels = logits_of(data, tuned)
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(record.metrics["test/accuracy"])
    assert tuned.merged == (mode != "unmerged")
    if mode != "structured":
        left = record.costs["sparsity"]
        assert left == pytest.approx(0.5, abs=1e-4) if mode != "dense" else left < 0.1


def test_an_unmerged_run_may_be_merged_densely_and_never_through_its_mask(runs, data):
    folder, _ = runs["unmerged"]
    apart, _ = logits_of(data, peftbench.load(folder))
    dense = peftbench.load(folder, merge="dense")
    merged, _ = logits_of(data, dense)
    assert dense.merged
    torch.testing.assert_close(merged, apart, rtol=1e-3, atol=1e-3)
    with pytest.raises(peftbench.Refusal, match="trained without the mask"):
        peftbench.load(folder, merge="masked")
    with pytest.raises(peftbench.Refusal, match="trained with the mask"):
        peftbench.load(runs["masked"][0], merge="dense")
    with pytest.raises(peftbench.Refusal, match="was not pruned to zeros"):
        peftbench.load(runs["structured"][0], merge="masked")


@pytest.mark.slow
def test_masked_weights_stay_zero_in_every_exported_file(runs, tmp_path):
    folder, record = runs["masked"]
    pruning = record.stamps["backbone"]["pruning"]
    for format_, name in (("safetensors", "a.safetensors"), ("onnx", "a.onnx")):
        assert main(["export", f"run={folder}", f"format={format_}", f"out={tmp_path / name}"]) == 0
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        told = file.metadata()
        found = sum(int((file.get_tensor(n) == 0).sum()) for n in file.keys() if file.get_slice(n).get_shape()[1:])  # noqa: SIM118
    assert told["merge"] == "masked"
    assert float(told["sparsity"]) == pytest.approx(pruning["zeros"] / pruning["of"])
    assert found == pytest.approx(pruning["zeros"], abs=5)
    graph = onnx.load(tmp_path / "a.onnx").graph
    weights = [onnx.numpy_helper.to_array(i) for i in graph.initializer if len(i.dims) > 1]
    assert sum(int((w == 0).sum()) for w in weights) >= pruning["zeros"]


def test_an_unmerged_run_is_exported_plainly_only_when_asked_to_lose_its_zeros(runs, tmp_path, capsys):
    folder, _ = runs["unmerged"]
    words = ["export", f"run={folder}", "format=safetensors", f"out={tmp_path / 'a.safetensors'}"]
    assert main(words) == 2
    assert "merge=dense folds them in and loses the zeros" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*words, "merge=dense"]) == 0
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert float(file.metadata()["sparsity"]) < 0.1


@pytest.mark.slow
def test_an_unmerged_run_is_exported_as_a_graph(runs, tmp_path):
    folder, _ = runs["unmerged"]
    assert main(["export", f"run={folder}", "format=onnx", f"out={tmp_path / 'a.onnx'}"]) == 0


@pytest.mark.slow
def test_a_smaller_backbone_is_exported_as_a_graph(runs, tmp_path, capsys):
    folder, _ = runs["structured"]
    assert main(["export", f"run={folder}", "format=safetensors", f"out={tmp_path / 'a.safetensors'}"]) == 2
    assert "was pruned, and timm's model of that name is whole" in capsys.readouterr().err
    assert main(["export", f"run={folder}", "format=torch_export", f"out={tmp_path / 'a.pt2'}"]) == 0


@pytest.mark.parametrize("pruning", ["structured", "unstructured"])
def test_an_adapter_of_a_pruned_backbone_is_not_handed_to_peft(pruning, data, tmp_path, capsys):
    record = finish(tmp_path, data, "lora", "vit_nano", f"pruning={pruning}")
    assert main(["export", f"run={tmp_path / record.id}", "format=peft"]) == 2
    assert "PEFT would put the adapter on timm's whole weights" in capsys.readouterr().err
    with pytest.raises(peftbench.Refusal, match=r"are of timm's whole weights, and the backbone of .* was pruned"):
        peftbench.load(tmp_path / record.id, adapter=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_nano", "resnet_nano"])
def test_sparse_updates_beside_zeros_are_exported_as_a_graph(backbone, data, tmp_path):
    record = finish(tmp_path, data, "spt_sparse", backbone, "pruning=unstructured", "optimizer.lr=0.01")
    assert record.stamps["backbone"]["pruning"]["merge"] == "unmerged"
    for format_, name in (("torch_export", "a.pt2"), ("onnx", "a.onnx")):
        made = export(tmp_path / record.id, format_, tmp_path / name)
        assert made.difference < 1e-3
    (kept,) = (tmp_path / "backbones").iterdir()
    with safetensors.safe_open(kept, "pt") as file:
        masked = json.loads(file.metadata()["masked"])
    held = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "a.onnx").graph.initializer}
    found = [held[f"backbone.net.{n}"] for n in masked if f"backbone.net.{n}" in held]
    assert found
    assert sum((w == 0).sum() for w in found) > 0.3 * sum(w.size for w in found)


def test_tasks_share_a_pruned_backbone_and_other_masks_are_refused(runs, data):
    tasks = peftbench.MultiTask(None, {m: runs[m][0] for m in ("unmerged", "masked")})
    images = torch.stack([tasks.transform(p) for p in sorted((data / "test" / "two").iterdir())])
    found = tasks(images)
    for mode, logits in found.items():
        torch.testing.assert_close(logits, peftbench.load(runs[mode][0])(images), rtol=1e-3, atol=1e-3)
    with pytest.raises(peftbench.Refusal, match=r"with pruning=structured, and that of .* has pruning=unstructured"):
        peftbench.MultiTask(None, {m: runs[m][0] for m in ("unmerged", "structured")})


def test_the_pruned_file_stands_in_for_the_weights(runs, data):
    folder, record = runs["unmerged"]
    fingerprint = record.stamps["backbone"]["fingerprint"]
    (file,) = [p for p in (folder.parent / "backbones").iterdir() if fingerprint[:10] in p.name]
    a, _ = logits_of(data, peftbench.load(folder, weights=file))
    b, _ = logits_of(data, peftbench.load(folder))
    assert torch.equal(a, b)


def test_a_run_on_the_pruned_file_is_stamped_as_the_one_that_pruned(runs, data, tmp_path):
    folder, record = runs["unmerged"]
    stamp = record.stamps["backbone"]["pruning"]
    (file,) = [p for p in (folder.parent / "backbones").iterdir() if "-unstructured-0.5-" in p.name]
    words = ["pruning=none", f"backbone.weights={file}"]
    again = finish(tmp_path, data, "linear", "hybrid_nano", *words)
    assert again.stamps["backbone"]["pruning"] == stamp | {"merge": "masked"}
    assert not (tmp_path / "backbones").exists()


def test_a_shared_file_that_is_not_whole_is_written_anew(runs, data, tmp_path):
    folder, _ = runs["structured"]
    (file,) = [p for p in (folder.parent / "backbones").iterdir() if p.name.startswith("mobilevit_xxs-structured")]
    (tmp_path / "backbones").mkdir()
    damaged = tmp_path / "backbones" / file.name
    damaged.write_bytes(file.read_bytes()[:5000])
    finish(tmp_path, data, "linear", "hybrid_nano", "pruning=structured")
    assert same(*(safetensors.torch.load_file(f) for f in (damaged, file)))


def test_how_updates_are_merged_is_not_changed_in_the_config(runs, tmp_path):
    copy = Path(shutil.copytree(runs["unmerged"][0], tmp_path / "run"))
    text = (copy / "config.yaml").read_text()
    assert "merge: unmerged" in text
    (copy / "config.yaml").write_text(text.replace("merge: unmerged", "merge: masked"))
    with pytest.raises(peftbench.Refusal, match=r"pruning\.merge=unmerged, and .*config\.yaml has .*merge=masked"):
        peftbench.load(copy)


def test_the_same_command_gives_the_same_delta(runs, data, tmp_path):
    folder, record = runs["masked"]
    again = finish(tmp_path, data, "petah", "hybrid_nano", "optimizer.lr=0.01", "pruning.merge=masked")
    assert again.id == record.id
    first, second = (f / record.id / "delta.safetensors" for f in (folder.parent, tmp_path))
    told = [json.loads(json.dumps(safetensors.safe_open(f, "pt").metadata())) for f in (first, second)]
    assert told[0]["content"] == told[1]["content"]
