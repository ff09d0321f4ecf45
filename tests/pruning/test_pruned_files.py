"""The pruned backbone as a file, and what the command line and the table say of it."""

import json
import re

import pytest
import safetensors.torch
import torch

import peftbench
from peftbench import backbones, config, pruning
from peftbench.common.sealed_file import sealed
from support.pruned import features, of, structured, unstructured


@pytest.mark.parametrize("spec", [unstructured(0.7), structured(heads=0.5)], ids=["unstructured", "structured"])
def test_a_pruned_backbone_is_one_of_its_own(tmp_path, spec):
    pruned = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), spec)
    pruning.save_pruned(pruned, tmp_path / "it.safetensors")
    again = backbones.build_with_weights(
        config.Backbone(**{**vars(of("hybrid_nano")), "weights": str(tmp_path / "it.safetensors")})
    )
    assert again.fingerprint == pruned.fingerprint != backbones.build_with_weights(of("hybrid_nano")).fingerprint
    assert pruning.mask_hash(again.masks) == pruning.mask_hash(pruned.masks)
    assert again.kept == pruned.kept
    assert torch.equal(features(again), features(pruned))
    with pytest.raises(peftbench.Refusal, match="are of a pruned backbone"):
        pruning.prune(again, spec)


@pytest.mark.parametrize(
    ("name", "told", "says"),
    [
        ("resnet_nano", {}, "is mobilevit_xxs, pruned; give backbone.name=mobilevit_xxs"),
        ("hybrid_nano", {"kept": {"channels": {}}}, "does not fit mobilevit_xxs"),
        ("hybrid_nano", {"kept": {"channels": {"any": -1}}}, "does not say how it was pruned"),
        ("hybrid_nano", {"kept": [1]}, "does not say how it was pruned"),
        ("hybrid_nano", {"kept": {"channels": {"nothing": 3}}}, "does not fit mobilevit_xxs"),
        ("hybrid_nano", {"kept": {"heads": {"stem": 3}}}, "does not fit mobilevit_xxs"),
        ("hybrid_nano", {"kept": {"channels": {"stem.conv": 10**30}}}, "does not say how it was pruned"),
        ("hybrid_nano", {"masked": ["nothing.weight"]}, "masks nothing.weight"),
    ],
    ids=str,
)
def test_a_pruned_file_of_another_model_or_altered_is_one_sentence(tmp_path, name, told, says):
    pruned = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), structured())
    path = tmp_path / "it.safetensors"
    pruning.save_pruned(pruned, path)
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = safetensors.torch.load_file(path)
    altered = about | {k: json.dumps(v) for k, v in told.items()}
    safetensors.torch.save_file(tensors, path, metadata=sealed(tensors, altered))  # as another tool might
    with pytest.raises(peftbench.UserError, match=re.escape(says)):
        backbones.build_with_weights(config.Backbone(**{**vars(of(name)), "weights": str(path)}))


def test_a_pruned_file_that_keeps_more_than_there_is_is_refused(tmp_path):
    pruned = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), structured())
    pruned.kept["channels"] = dict.fromkeys(pruned.kept["channels"], 9999)
    pruning.save_pruned(pruned, tmp_path / "it.safetensors")
    with pytest.raises(peftbench.UserError, match="does not fit mobilevit_xxs"):
        backbones.build_with_weights(
            config.Backbone(**{**vars(of("hybrid_nano")), "weights": str(tmp_path / "it.safetensors")})
        )


@pytest.mark.slow
def test_the_command_line_prunes_says_so_and_shares_the_file(cli, tmp_path, tiny):
    words = [*tiny, "method=petah", "backbone=hybrid_nano", "backbone.pretrained=true", "data.size=64"]
    words.append("trainer.progress=true")
    runs = {}
    for pruned, seed in (("unstructured", 0), ("unstructured", 1), ("structured", 0), ("none", 0)):
        given = [] if pruned == "unstructured" else [f"pruning={pruned}"]  # the method's own
        status, _, told = cli(*words, *given, f"seed={seed}")
        assert status == 0, told
        assert ("pruning=" in told) == (pruned != "none")
        assert "layers are left as they are" in told
    for path in tmp_path.glob("petah-*/result.json"):
        record = json.loads(path.read_text())
        runs.setdefault(record["config"]["pruning"]["name"], []).append(record)
    assert {n: len(r) for n, r in runs.items()} == {"unstructured": 2, "structured": 1, "none": 1}
    files = sorted(p.name for p in (tmp_path / "backbones").iterdir())
    assert len(files) == 2
    stamps = {n: r[0]["stamps"]["backbone"] for n, r in runs.items()}
    assert "pruning" not in stamps["none"]
    assert stamps["unstructured"]["pruning"]["merge"] == "unmerged"
    assert stamps["unstructured"]["pruning"]["mask"]
    assert all(s["fingerprint"][:10] in " ".join(files) for n, s in stamps.items() if n != "none")
    saved = safetensors.torch.load_file(tmp_path / "backbones" / files[0])
    assert set(saved) == set(backbones.build_with_weights(of("hybrid_nano")).net.state_dict())
    deltas = list(tmp_path.glob("petah-*/delta.safetensors"))
    names = set(safetensors.torch.load_file(deltas[0]))
    assert names
    assert all("lora_" in n or n.startswith("task.") for n in names)
    status, _, told = cli(
        *words, "pruning=none", f"backbone.weights={tmp_path / 'backbones' / files[0]}", "method=linear", "taps=off"
    )
    assert status == 0, told


def test_a_table_says_what_runs_of_the_same_names_differ_in():
    from peftbench.results.labels import differences
    from peftbench.results.record import Record

    def record(method="petah", seed=0, scaled=False, **pruning):
        options = {"name": method, "path": "x", "options": {"rank": 8, "rslora": scaled}}
        config = {"method": options, "backbone": {"name": "b"}, "data": {"name": "d"}, "seed": seed, "pruning": pruning}
        return Record("id", "complete", config)

    records = [record(name="none", ratio=0.0), record(name="structured", ratio=0.5), record("lora"), record(seed=1)]
    found = differences(records)
    assert [found[id(r)] for r in records] == ["pruning=none", "pruning=structured pruning.ratio=0.5", "", ""]
    records = [record(scaled=s, name="structured", ratio=r) for s in (False, True) for r in (0.0, 0.5)]
    found = differences(records)
    assert [found[id(r)] for r in records[1:]] == [
        "rslora=false pruning.ratio=0.5",
        "rslora=true pruning.ratio=0.0",
        "rslora=true pruning.ratio=0.5",
    ]
