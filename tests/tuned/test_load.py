"""`peftbench.load`: the model of a finished run, from its folder alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from torch.nn import functional as F

import peftbench
from peftbench import backbones
from peftbench.backbones.weights import HERE
from peftbench.results.per_image import read_right, stamped
from support.finished_runs import finish, logits_of, pictures, same


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def bitfit(data, tmp_path_factory):
    return finish(tmp_path_factory.mktemp("bitfit"), data, "bitfit", "resnet_nano", "trainer.max_batches=2")


@pytest.fixture
def copied(bitfit, tmp_path):
    return Path(shutil.copytree(bitfit.folder, tmp_path / "run"))


def refused(folder, *parts, **more):
    with pytest.raises(peftbench.UserError) as problem:
        peftbench.load(folder, **more)
    for part in parts:
        assert part in str(problem.value), str(problem.value)


@pytest.mark.parametrize(
    ("method", "backbone", "merges"),
    [
        ("lora", "vit_nano", True),
        ("spt", "vit_nano", True),
        pytest.param("gps", "vit_nano", True, marks=pytest.mark.slow),
        pytest.param("ssf", "vit_nano", True, marks=pytest.mark.slow),
        pytest.param("fact", "vit_nano", True, marks=pytest.mark.slow),
        pytest.param("fact_tk", "vit_nano", True, marks=pytest.mark.slow),
        pytest.param("ssf", "hybrid_nano", True, marks=pytest.mark.slow),
        ("wise_ft", "resnet_nano", False),
        ("linear", "hybrid_nano", False),
        ("losa", "vit_nano", False),
        ("losa", "resnet_nano", False),
        ("cst", "hybrid_nano", False),
        ("lst", "vit_nano", False),
    ],
)
def test_the_loaded_model_is_the_one_that_was_tested(method, backbone, merges, data, tmp_path):
    record = finish(tmp_path, data, method, backbone, "optimizer.lr=3e-3", "trainer.max_batches=4")
    tuned = peftbench.load(record.folder, merge=False)
    logits, labels = logits_of(data, tuned)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(record.metrics["test/loss"], rel=1e-4)
    right = read_right(record.folder, stamped(record.stamps))
    assert right.tolist() == (logits.argmax(1) == labels).tolist()
    assert tuned.run.config.to_dict() == record.config
    merged = peftbench.load(record.folder)
    assert merged.merged == merges
    assert not merged.training
    assert not any(p.requires_grad for p in merged.parameters())
    again, _ = logits_of(data, merged)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-5)
    if merges:
        plain = {
            f"model.backbone.{n}" for n in backbones.build_with_weights(tuned.run.config.backbone, 32).state_dict()
        }
        assert {n for n in merged.state_dict() if n.startswith("model.backbone.")} == plain


@pytest.fixture(scope="module")
def fresh_process(bitfit, data):
    """What a fresh process tells that loads a run: logits of an image, what it imported, whether it drew numbers."""
    file = next((data / "test" / "two").iterdir())
    code = f"""
import json, sys, torch, peftbench, peftbench.cli.predict, peftbench.cli.export, peftbench.cli.share
import peftbench.tuned.items, peftbench.tuned.export, peftbench.tuned.multitask
torch.manual_seed(7)
tuned = peftbench.load({bitfit.folder!r})
alone = torch.equal(torch.rand(3), torch.manual_seed(7) and torch.rand(3))
imported = sorted({{m.partition('.')[0] for m in sys.modules}})
with torch.no_grad():
    logits = tuned(tuned.transform({str(file)!r})[None])[0].tolist()
print(json.dumps({{"logits": logits, "imported": imported, "random numbers left alone": alone}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return file, json.loads(done.stdout)


def test_loading_imports_neither_lightning_nor_hydra_and_leaves_random_numbers_alone(fresh_process):
    _, answer = fresh_process
    assert {"torch", "peftbench"} <= set(answer["imported"])
    assert not {"lightning", "hydra", "omegaconf", "pytorch_lightning"} & set(answer["imported"])
    assert answer["random numbers left alone"]


def test_a_fresh_process_gives_the_same_bits(bitfit, fresh_process):
    file, answer = fresh_process
    tuned = peftbench.load(bitfit.folder)
    with torch.no_grad():
        logits = tuned(tuned.transform(file)[None])
    assert answer["logits"] == logits[0].tolist()


def test_a_class_path_in_the_folder_is_never_followed(copied):
    before = peftbench.load(copied).state_dict()
    values = yaml.safe_load((copied / "config.yaml").read_text())
    values["method"]["path"] = values["data"]["path"] = "antigravity.Anything"
    (copied / "config.yaml").write_text(yaml.safe_dump(values))
    assert same(peftbench.load(copied).state_dict(), before)
    assert "antigravity" not in sys.modules
    values["method"]["name"] = "bitfid"
    (copied / "config.yaml").write_text(yaml.safe_dump(values))
    refused(copied, "method.name=bitfid", "did you mean 'bitfit'", "config_dir=DIR")


def test_a_method_of_ones_own_is_found_in_config_dir(copied, tmp_path, monkeypatch):
    (tmp_path / "configs" / "method").mkdir(parents=True)
    (tmp_path / "configs" / "method" / "mine.yaml").write_text("# mine\nname: mine\npath: own_method.Mine\nlr: 0.1\n")
    (tmp_path / "own_method.py").write_text(
        "from dataclasses import dataclass\nfrom peftbench.methods.bitfit import BitFit\n\n"
        "@dataclass(frozen=True)\nclass Mine(BitFit):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    values = yaml.safe_load((copied / "config.yaml").read_text())
    values["method"]["name"] = "mine"
    (copied / "config.yaml").write_text(yaml.safe_dump(values))
    from peftbench import deltas

    tensors, told = deltas.load_delta(copied / "delta.safetensors")
    deltas.save_delta(copied / "delta.safetensors", tensors, told | {"method": "mine"})
    refused(copied, "method.name=mine")
    assert type(peftbench.load(copied, config_dir=tmp_path / "configs").run.method).__name__ == "Mine"
    (tmp_path / "configs" / "method" / "other.yaml").write_text("a: [")
    refused(copied, "other.yaml: cannot be read as YAML", config_dir=tmp_path / "configs")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["config.yaml: is missing"]),
        ("a: [", ["config.yaml: cannot be read as YAML"]),
        ("[1]", ["holds '[1]'; expected the mapping of sections"]),
        ("", ["config.yaml: is empty; expected the mapping of sections"]),
        ("method: {name: bitfit}", ["is missing"]),
        ("nonsense: 1", ["nonsense: there is no such key"]),
        ("!!python/object/apply:os.system ['false']", ["cannot be read as YAML"]),
    ],
)
def test_a_spoilt_config_is_told_in_one_sentence(copied, content, parts):
    (copied / "config.yaml").unlink()
    if content is not None:
        (copied / "config.yaml").write_text(content)
    refused(copied, str(copied / "config.yaml"), *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"method": {"name": "losa"}}, ["method.options.colour", "method.name=losa has no such option", "rank"]),
        ({"method": {"name": "bitfit"}}, ["method.options.colour", "its options are "]),
        ({"task": None}, ["task=None: expected a mapping"]),
        ({"trainer": None}, ["trainer=None: expected a mapping"]),
        ({"trainer": {"epoch": 3}}, ["trainer.epoch: there is no such key (did you mean 'epochs'?)"]),
    ],
)
def test_a_key_of_the_config_that_nothing_knows_is_named(copied, changes, parts):
    values = yaml.safe_load((copied / "config.yaml").read_text())
    values["method"]["options"] = {"colour": "red"} if "method" in changes else values["method"]["options"]
    for section, given in changes.items():
        values[section] = None if given is None else values[section] | given
    (copied / "config.yaml").write_text(yaml.safe_dump(values))
    refused(copied, str(copied / "config.yaml"), *parts)


def test_what_is_no_finished_run_is_told(copied, tmp_path):
    refused(tmp_path / "nothing", f"run={tmp_path / 'nothing'}: holds no result.json")
    refused(copied / "result.json", f"run={copied / 'result.json'}: is a file; give the folder of the run", str(copied))
    record = json.loads((copied / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps(record | {"status": "interrupted", "reason": "stopped"}))
    refused(copied, "is not complete but interrupted (stopped)")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "it is not JSON (EOF"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[1]", "but a list"),
        (b"null", "but null"),
        (b'{"id": "a"}', "is not a whole record; it has no status"),
        (b'{"schema": 1, "id": "a", "status": "complete"}', "it has no config"),
        (b'{"schema": 1, "id": "a", "status": 3, "config": {}}', "complete, interrupted, failed, refused is expected"),
        (b'{"schema": 1, "id": "a", "status": "complete", "config": {}, "stamps": []}', "it has no config.method"),
    ],
)
def test_a_damaged_record_is_told_with_what_was_found(copied, content, found):
    (copied / "result.json").write_bytes(content)
    with pytest.raises(peftbench.UserError) as problem:
        peftbench.load(copied)
    assert str(copied / "result.json") in str(problem.value)
    assert found in str(problem.value)
    assert "remove" not in str(problem.value), "a finished run's file is not to be deleted"


def test_weights_that_moved_are_given_and_others_refused(copied, tmp_path, bitfit):
    moved = shutil.copy(HERE / "resnet_nano.safetensors", tmp_path / "elsewhere.safetensors")
    assert same(peftbench.load(copied, weights=moved).state_dict(), peftbench.load(copied).state_dict())
    state = safetensors.torch.load_file(moved)
    name = next(n for n in state if n.endswith("conv1.weight"))
    safetensors.torch.save_file(state | {name: state[name] + 1e-6}, moved)
    refused(copied, bitfit.stamps["backbone"]["fingerprint"][:12], "elsewhere.safetensors", weights=moved)
    refused(copied, "there is no such file", weights=tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("section", "key", "value", "parts"),
    [
        ("data", "size", 64, ["32", "64"]),
        ("data", "normalize", "none", ["made with data.normalize=model", "has data.normalize=none"]),
        ("data", "interpolation", "nearest", ["data.interpolation=model", "has data.interpolation=nearest"]),
    ],
)
def test_images_are_prepared_as_in_training_or_not_at_all(copied, section, key, value, parts):
    values = yaml.safe_load((copied / "config.yaml").read_text())
    values[section][key] = value
    (copied / "config.yaml").write_text(yaml.safe_dump(values))
    refused(copied, "config.yaml", *parts)


@pytest.mark.parametrize(("key", "value"), [("mean", [0.0, 0.0, 0.0]), ("interpolation", "nearest")])
def test_a_delta_of_images_that_were_prepared_otherwise_is_refused(copied, key, value):
    from peftbench import deltas

    tensors, told = deltas.load_delta(copied / "delta.safetensors")
    transform = json.dumps(json.loads(told["transform"]) | {key: value})
    deltas.save_delta(copied / "delta.safetensors", tensors, told | {"transform": transform})
    refused(copied, f"trained on images with {key}={value}", f"config.yaml wants {key}=")


def test_the_delta_of_another_run_is_refused(copied):
    from peftbench import deltas

    tensors, told = deltas.load_delta(copied / "delta.safetensors")
    deltas.save_delta(copied / "delta.safetensors", tensors, told | {"run": "bitfit-vit_nano-folder-s1-0123456789"})
    refused(copied, "is of run bitfit-vit_nano-folder-s1-0123456789", "as it was left")
