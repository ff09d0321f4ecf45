"""Deltas: what a file says of itself, where it is refused, and that attaching and detaching leave no trace."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench import backbones, config, deltas
from peftbench.methods.base import Plan
from peftbench.methods.full import Full
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.finished_runs import finish, logits_of, pictures, same


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def lora(data, tmp_path_factory):
    return finish(tmp_path_factory.mktemp("lora"), data, "lora", "vit_nano", "method.rank=2", "method.layers=['*qkv']")


@pytest.fixture
def copied(lora, tmp_path):
    """A run's folder that a test may spoil."""
    return Path(shutil.copytree(lora.folder, tmp_path / "run"))


def edited(folder, **sections):
    """config.yaml with some keys changed."""
    file = folder / "config.yaml"
    values = yaml.safe_load(file.read_text())
    for section, keys in sections.items():
        if isinstance(keys, dict):
            values[section] |= keys
        else:
            values[section] = keys
    file.write_text(yaml.safe_dump(values))


def resaved(folder, tensors=None, **metadata):
    """The delta written again, with a hash of its own, as another tool might."""
    file = folder / "delta.safetensors"
    old, told = deltas.load_delta(file)
    deltas.save_delta(file, old if tensors is None else tensors, told | metadata)


def refused(folder, *parts):
    with pytest.raises(peftbench.UserError) as problem:
        peftbench.load(folder)
    text = str(problem.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_a_delta_says_where_it_belongs_and_holds_nothing_of_the_backbone(lora):
    tensors, told = deltas.load_delta(Path(lora.folder) / "delta.safetensors")
    assert set(tensors) == {
        *(f"backbone.net.blocks.{i}.attn.qkv.lora_{x}" for i in range(8) for x in "ab"),
        "task.head.weight",
        "task.head.bias",
    }
    assert told["format"] == "peftbench-delta-2"
    assert told["method"] == "lora"
    assert json.loads(told["options"])["rank"] == 2
    assert told["weights"] == "package:vit_nano"
    assert told["fingerprint"] == lora.stamps["backbone"]["fingerprint"]
    assert json.loads(told["classes"]) == ["one", "three", "two", "zero"]
    assert json.loads(told["transform"])["size"] == int(told["input_size"]) == 32
    assert (told["mask"], told["plan"], told["task"]) == ("", "", "classification")
    assert set(json.loads(told["versions"])) == {"peftbench", "torch", "timm"}
    values = 4 * sum(t.numel() for t in tensors.values())
    assert values < (Path(lora.folder) / "delta.safetensors").stat().st_size < values + 8000


def test_batch_norm_statistics_that_moved_are_in_the_delta(data, tmp_path):
    record = finish(tmp_path, data, "full", "resnet_nano", "optimizer.lr=3e-3")
    tensors, _ = deltas.load_delta(Path(record.folder) / "delta.safetensors")
    statistics = {n for n in tensors if "running_" in n or "num_batches" in n}
    assert len(statistics) == 3 * 21
    tuned = peftbench.load(record.folder)
    logits, labels = logits_of(data, tuned)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(record.metrics["test/loss"], rel=1e-4)
    resaved(Path(record.folder), {n: t for n, t in tensors.items() if n not in statistics})
    without, _ = logits_of(data, peftbench.load(record.folder))
    assert (without - logits).abs().max() > 0.01


def test_attaching_in_turn_is_bit_equal_and_detaching_gives_the_base_bytes():
    """On EfficientFormer, which in eval mode keeps what it computed from its attention biases."""
    args = {"depths": [1, 1, 1, 2], "embed_dims": [16, 32, 48, 64]}
    spec = config.Backbone("efficientformer_l1", pretrained=False, args=args)
    torch.manual_seed(0)
    model = Model(net := backbones.build_with_weights(spec), Classification(net, ["a", "b"]))
    model.adapted(Full().adapt(net, Plan()))
    model.eval()
    base = {n: t.clone() for n, t in model.state_dict().items()}
    biases = [n for n in base if n.endswith("attention_biases")]
    assert biases

    def delta(seed):
        torch.manual_seed(seed)
        changed = [*biases, "task.head.weight", "task.head.bias", *(n for n in base if n.endswith("running_mean"))]
        return {n: base[n] + torch.randn_like(base[n]) for n in changed}

    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    a, b = delta(1), delta(2)
    with torch.no_grad():
        plain = model(images)
        first = deltas.attach(model, a, "a")
        with_a = model(images)
        first.detach()
        second = deltas.attach(model, b, "b")
        with_b = model(images)
        second.detach()
        third = deltas.attach(model, a, "a")
        again = model(images)
        third.detach()
        assert torch.equal(with_a, again)
        assert not torch.equal(with_a, with_b)
        assert torch.equal(model(images), plain)
    assert same(dict(model.state_dict()), base)
    with pytest.raises(peftbench.UserError, match="detached already"):
        third.detach()
    only_biases = {n: t for n, t in a.items() if n in biases or n.startswith("task")}
    deltas.attach(model, only_biases, "biases")
    with torch.no_grad():
        assert not torch.equal(model(images), plain), "the cache of attention biases was kept"


def test_deltas_are_detached_in_the_order_that_gives_the_base_bytes():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    base = {n: t.clone() for n, t in model.state_dict().items()}
    names = ("0.weight", "1.running_mean")
    for name in names:
        first = deltas.Attached(model, {name: base[name] + 1})
        second = deltas.Attached(model, {n: t + 2 for n, t in base.items() if t.is_floating_point()})
        state = {n: t.clone() for n, t in model.state_dict().items()}
        with pytest.raises(peftbench.UserError, match=rf"{name} of the model is no longer what it put"):
            first.detach()
        assert same(dict(model.state_dict()), state), "what is refused changes nothing"
        second.detach()
        first.detach()
        assert same(dict(model.state_dict()), base)
    twice = [deltas.Attached(model, {"1.running_mean": base["1.running_mean"]}) for _ in range(2)]
    with pytest.raises(peftbench.UserError, match="no longer what it put"):
        twice[0].detach()
    for one in reversed(twice):
        one.detach()
    apart = [deltas.Attached(model, {name: base[name] + 1}) for name in names]
    for one in apart:  # what has nothing in common comes off in any order
        one.detach()
    assert same(dict(model.state_dict()), base)
    lost = deltas.Attached(model, {"0.weight": base["0.weight"] + 1})
    model[0] = nn.Identity()
    with pytest.raises(peftbench.UserError, match=r"0\.weight of the model is no longer what it put"):
        lost.detach()


def test_one_module_under_two_names_is_detached_as_it_was():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": shared})
    before = shared.weight
    deltas.Attached(model, {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}).detach()
    assert shared.weight is before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_noticed_wherever_it_is(lora, tmp_path, at, flip):
    content = bytearray((Path(lora.folder) / "delta.safetensors").read_bytes())
    content[int(at * len(content))] ^= flip
    file = tmp_path / "delta.safetensors"
    file.write_bytes(content)
    with pytest.raises(peftbench.UserError) as problem:
        deltas.load_delta(file)
    assert str(file) in str(problem.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(copied, share):
    file = copied / "delta.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(copied, str(file), "safetensors")


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_without_being_loaded(copied, kind):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was loaded",))

    file = copied / "delta.safetensors"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"a": torch.zeros(1)}, file)
    refused(copied, str(file), "pickle")


def test_another_format_is_refused_and_the_first_one_is_read(copied):
    file = copied / "delta.safetensors"
    tensors, told = deltas.load_delta(file)
    before = peftbench.load(copied).model.state_dict()
    old = {k: told[k] for k in ("run", "method", "options", "backbone", "fingerprint", "classes", "transform")}
    first = copied / "first.safetensors"  # not over the file that the tensors above are mapped from
    safetensors.torch.save_file(tensors, first, old | {"format": "peftbench-delta-1"})
    first.replace(file)
    assert same(peftbench.load(copied).model.state_dict(), before)
    assert "task" not in deltas.load_delta(file)[1], "it is of its run's task"
    for spoilt, told_of in (({"classes": "[1"}, "classes in its metadata is '[1'"), ({"method": ""}, "say no method")):
        safetensors.torch.save_file(tensors, file, old | {"format": "peftbench-delta-1"} | spoilt)
        refused(copied, f"damaged: {'its metadata ' * ('say' in told_of)}{told_of}")
    safetensors.torch.save_file(tensors, file, told | {"format": "peftbench-delta-3"})
    refused(copied, "format 3", "1 to 2", f"wrote it, {peftbench.__version__}")
    safetensors.torch.save_file(tensors, file, {})
    refused(copied, "no delta of peftbench", "names no format; expected peftbench-delta-1 or peftbench-delta-2")
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    refused(copied, "no delta of peftbench (its format is 'pt'; expected peftbench-delta-1")


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"run": None}, "its metadata say no run"),
        ({"classes": None}, "its metadata say no classes"),
        ({"mask": None}, "its metadata say no mask"),
        ({"options": "x"}, "options in its metadata is 'x'"),
        ({"transform": "[]"}, "transform in its metadata is '[]'"),
        ({"input_size": "x"}, "input_size in its metadata is 'x'"),
        ({"input_size": "[64, 0]"}, "input_size in its metadata is '[64, 0]'"),
        ({"frames": "0"}, "frames in its metadata is '0'"),
        ({"config": "[]"}, "config in its metadata is '[]'"),
        ({"categories": "[1]"}, "say 1 categories, and not as many classes"),
    ],
    ids=str,
)
def test_metadata_that_nothing_can_be_made_of_are_told(copied, spoilt, said):
    file = copied / "delta.safetensors"
    tensors, told = deltas.load_delta(file)
    deltas.save_delta(file, tensors, {k: v for k, v in (told | spoilt).items() if v is not None})  # its hash fits
    refused(copied, str(file), said)


@pytest.mark.parametrize(("written", "read"), [("64", "64"), ("[64, 96]", "[64, 96]"), ("(64, 96)", "[64, 96]")])
def test_a_size_that_is_no_square_is_read_also_as_the_first_version_wrote_it(copied, written, read):
    resaved(copied, input_size=written)
    assert deltas.load_delta(copied / "delta.safetensors")[1]["input_size"] == read


def test_a_missing_file_is_named(copied):
    (copied / "delta.safetensors").unlink()
    refused(copied, "delta.safetensors: is missing")


def test_another_rank_or_option_is_refused(copied):
    options = yaml.safe_load((copied / "config.yaml").read_text())["method"]["options"]
    edited(copied, method={"options": options | {"rank": 4}})
    refused(copied, "method.rank=2", "method.rank=4")
    edited(copied, method={"options": options | {"alpha": 16.0}})
    refused(copied, "method.alpha=8.0", "method.alpha=16.0")
    edited(copied, method={"name": "bitfit", "options": {}})
    refused(copied, "method.name=lora", "method.name=bitfit")


def test_another_backbone_is_refused_and_both_are_named(copied, lora):
    edited(copied, backbone={"pretrained": False})
    refused(copied, "made with backbone.pretrained=True", "has backbone.pretrained=False")
    bound = json.loads(deltas.load_delta(copied / "delta.safetensors")[1]["config"])
    resaved(copied, config=json.dumps(bound | {"backbone.pretrained": False}))
    found = lora.stamps["backbone"]["fingerprint"][:12]
    refused(copied, f"fingerprint {found}", "vit_tiny_patch16_224", "weights=FILE")


def test_another_mask_is_refused_before_the_fingerprint_is_looked_at(copied):
    resaved(copied, mask="0123456789abcdef")
    refused(copied, "with pruning=unstructured", "this backbone has pruning=none")


def test_a_missing_or_a_foreign_tensor_is_named(copied):
    tensors, _ = deltas.load_delta(copied / "delta.safetensors")
    name = "backbone.net.blocks.3.attn.qkv.lora_b"
    resaved(copied, {n: t for n, t in tensors.items() if n != name})
    refused(copied, f"lacks {name}")
    resaved(copied, tensors | {"backbone.net.blocks.9.attn.qkv.lora_b": torch.zeros(1)})
    refused(copied, "blocks.9", "made by another model")
    resaved(copied, tensors | {name: tensors[name][:, :1]})
    refused(copied, name, "[384, 1]", "[384, 2]")
    resaved(copied, tensors | {name: tensors[name].half()})
    refused(copied, name, "float16", "float32")


def test_a_tensor_taken_out_of_the_file_is_noticed(copied):
    file = copied / "delta.safetensors"
    tensors, told = deltas.load_delta(file)
    tensors.pop("task.head.bias")
    safetensors.torch.save_file(tensors, file, told)
    refused(copied, "saved with 18 tensors, and holds 17")


def test_another_plan_is_refused(data, tmp_path):
    record = finish(tmp_path, data, "spt_sparse", "vit_nano", "method.budget=2000", "trainer.max_batches=2")
    folder = Path(record.folder)
    assert peftbench.load(folder).merged
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"budget": 1}))
    refused(folder, "another plan", "plan.json")
    (folder / "plan.json").write_text("{")
    refused(folder, "plan.json: is damaged")
