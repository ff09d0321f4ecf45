"""Backbones whose frozen weights are in int8 or 4 bits: their bytes, what they compute, and runs over them."""

import dataclasses

import pytest
import torch
from torch import nn

import peftbench
from peftbench import backbones
from peftbench.backbones.coded_weights import LEVELS, PerChannel, coded_layers, encode_weight, own_weight
from peftbench.common.errors import Refusal
from peftbench.runs.build import build_backbone
from peftbench.runs.dry_run import plan_run
from peftbench.tuned.export import export
from peftbench.tuned.finished_run import open_run
from peftbench.tuned.rebuild import rebuild_model
from support.backbones import REFUSES
from support.finished_runs import finish, logits_of, pictures


def built(backbone, form=None):
    words = [] if form is None else [f"backbone.quantize={form}"]
    return build_backbone(peftbench.compose(f"backbone={backbone}", "method=linear", *words))


def features(backbone, images):
    with torch.no_grad():
        return backbone.pool(backbone.taps(images)[-1])


def test_a_channel_is_scaled_by_its_largest_weight_and_off_by_half_a_step_at_most():
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    coder = PerChannel()
    codes = coder.right_inverse(weight)
    steps = weight.abs().flatten(1).amax(1) / LEVELS
    off = (coder.decode(codes) - weight).abs().flatten(1).amax(1)
    assert (off <= steps / 2 + 1e-7).all()
    assert codes[0].dtype == torch.int8
    assert codes[1].numel() == 5


@pytest.mark.parametrize("groups", [1, 4])
def test_a_coded_convolution_gives_the_gradient_of_its_decoded_weight_and_keeps_no_weight_for_it(groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
    encode_weight(layer, PerChannel())
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x)
    y.square().sum().backward()
    plain = own_weight(layer).decoded().detach()
    again = x.detach().requires_grad_()
    z = nn.functional.conv2d(again, plain, layer.bias, 2, 1, 1, groups)
    z.square().sum().backward()
    assert torch.allclose(y, z, atol=1e-6)
    assert torch.allclose(x.grad, again.grad, atol=1e-5)
    assert not any(t.shape == plain.shape and t.is_floating_point() for t in saved)


def test_int8_takes_less_than_a_third_of_the_bytes_and_computes_nearly_the_same():
    plain, coded = built("resnet_nano"), built("resnet_nano", "int8")
    few, whole = backbones.bytes_of_weights(coded)
    assert whole == sum(
        layer.weight.nbytes for layer in plain.net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    )
    assert few == sum(t.nbytes for n, t in coded.state_dict().items() if ".parametrizations." in n)
    assert few <= 0.3 * whole
    assert coded.fingerprint != plain.fingerprint == coded.origin
    images = torch.randn(4, 3, *plain.facts.canvas, generator=torch.Generator().manual_seed(0))
    before, after = features(plain, images), features(coded, images)
    assert (after - before).norm() < 0.05 * before.norm()
    back = backbones.dequantize(coded)
    assert back.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(features(back, images), after, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["method=full", "backbone=resnet_nano", "backbone.quantize=int8"],
            "method=full trains weights of the backbone",
        ),
        (["method=spt_lora", "backbone=resnet_nano", "backbone.quantize=int8"], "method=spt_lora trains weights"),
        (["method=linear", "backbone=resnet_nano", "backbone.quantize=nf4"], "no linear layers"),
        (["method=petah", "backbone=resnet_nano", "backbone.quantize=int8"], "give pruning=none"),
        (
            ["method=linear", "backbone=vit_nano", "backbone.quantize=int8", "backbone.stream=true"],
            "stream=true leaves",
        ),
        (["method=linear", "backbone=resnet_nano", "backbone.quantize=int8", "trainer=fsdp"], "take trainer=ddp"),
        (["method=linear", "backbone=resnet_nano", "backbone.quantize=int4"], "expected 'int8' or 'nf4'"),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_sentence(cli, words, told):
    status, _, err = cli("data=digits", *words)
    assert status == 2
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_linear_layers_without_torchao_name_the_extra(cli, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    status, _, err = cli("data=digits", "method=linear", "backbone=vit_nano", "backbone.quantize=int8")
    assert status == 2
    assert "pip install 'peftbench[quantize]'" in err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=4, test=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    record = finish(folder, data, "lora", "resnet_nano", "backbone.quantize=int8", "optimizer.lr=0.01")
    return folder / record.id, record


def test_record_and_delta_say_what_the_backbone_was(run):
    folder, record = run
    stamp = record.stamps["backbone"]
    assert stamp["quantize"]["form"] == "int8"
    assert stamp["quantize"]["origin"] == built("resnet_nano").fingerprint != stamp["fingerprint"]
    assert stamp["quantize"]["bytes"] <= 0.3 * stamp["quantize"]["of"]
    opened = peftbench.load(folder, merge=False).run
    assert opened.metadata["quantize"] == "int8"
    assert all(".lora_" in n or n.startswith("task.head") for n in opened.tensors)


def test_a_run_over_codes_predicts_the_same_loaded_dequantized_and_exported(run, data):
    folder, record = run
    tuned, plain = peftbench.load(folder), peftbench.load(folder, dequantize=True)
    assert (tuned.merged, plain.merged) == (False, True)
    assert list(coded_layers(tuned.model.backbone.net))
    assert not list(coded_layers(plain.model.backbone.net))
    ours, labels = logits_of(data, tuned)
    theirs, _ = logits_of(data, plain)
    assert torch.allclose(ours, theirs, atol=1e-4 * ours.abs().max())
    assert (ours.argmax(1) == labels).float().mean().item() == pytest.approx(record.metrics["test/accuracy"])
    assert export(folder, "safetensors").difference < 1e-4


def test_a_delta_of_codes_is_refused_on_plain_weights_and_the_other_way_round(run, tmp_path, data):
    folder, _record = run
    opened = open_run(folder)
    with pytest.raises(Refusal, match=r"with backbone.quantize=int8, and .* has backbone.quantize=null"):
        rebuild_model(opened, built("resnet_nano"))
    plain = dataclasses.replace(opened, metadata={**opened.metadata, "quantize": ""})
    with pytest.raises(Refusal, match=r"with backbone.quantize=null, and .* has backbone.quantize=int8"):
        rebuild_model(plain, built("resnet_nano", "int8"))


def test_peft_adapters_are_not_made_of_codes(run):
    with pytest.raises(Refusal, match="quantized"):
        export(run[0], "peft")


@pytest.mark.slow
def test_a_plan_shows_what_the_codes_save():
    words = ("method=lora", "backbone=resnet_nano", "data=digits", "data.batch_size=2")
    before, after = (plan_run(peftbench.compose(*words, *more)) for more in ([], ["backbone.quantize=int8"]))
    assert after.weights < 0.4 * before.weights
    assert after.parameters == before.parameters
    assert [(r.name, r.base, r.added) for r in after.rows] == [(r.name, r.base, r.added) for r in before.rows]
    assert not any(row.merges for row in after.rows)
    assert after.step.saved <= before.step.saved
    assert any("kept in int8" in note for note in after.notes)


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_linear_layers_are_coded_by_torchao(form):
    pytest.importorskip("torchao")
    plain, coded = built("vit_nano"), built("vit_nano", form)
    few, whole = backbones.bytes_of_weights(coded)
    assert few <= {"int8": 0.3, "nf4": 0.15}[form] * whole
    images = torch.randn(2, 3, *plain.facts.canvas, generator=torch.Generator().manual_seed(0))
    before, after = features(plain, images), features(coded, images)
    assert (after - before).norm() < {"int8": 0.02, "nf4": 0.15}[form] * before.norm()
    images.requires_grad_()
    coded.pool(coded.taps(images)[-1]).sum().backward()
    ours, images.grad = images.grad, None
    back = backbones.dequantize(coded)
    back.pool(back.taps(images)[-1]).sum().backward()
    assert torch.allclose(ours, images.grad, atol=1e-4 * ours.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_nano", "resnet_nano", "hybrid_nano"])
@pytest.mark.parametrize("method", ["linear", "losa", "cst", "lst", "lora", "petah", "bitfit", "ssf", "fact"])
def test_every_method_that_keeps_the_weights_runs_over_codes(method, backbone, tmp_path, data):
    if method in REFUSES and backbone != "vit_nano":
        pytest.skip("needs a plain ViT")
    if backbone != "resnet_nano":
        pytest.importorskip("torchao")
    record = finish(tmp_path, data, method, backbone, "backbone.quantize=int8", "pruning=none")
    ours, labels = logits_of(data, peftbench.load(tmp_path / record.id))
    assert (ours.argmax(1) == labels).float().mean().item() == pytest.approx(record.metrics["test/accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "vit_nano"])
def test_a_probe_over_int8_loses_less_than_half_a_point(backbone, tmp_path):
    """Of 1,097 digits to test on."""
    if backbone == "vit_nano":
        pytest.importorskip("torchao")
    images = pictures_of_digits(tmp_path / "digits", train=70)
    words = ["trainer.epochs=15", "optimizer.lr=0.01", "data.batch_size=64", "taps=memory"]
    top1 = {}
    for form in ("null", "int8"):
        record = finish(tmp_path / "out", images, "linear", backbone, f"backbone.quantize={form}", *words)
        top1[form] = record.metrics["test/accuracy"]
    assert record.stamps["data"]["images"]["test"] == 1097
    assert abs(top1["int8"] - top1["null"]) <= 0.005


def pictures_of_digits(root, train):
    """All 1,797 of scikit-learn's, the first so many of each class to train on."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    raw = load_digits()
    for digit in range(10):
        for place, i in enumerate(np.flatnonzero(raw.target == digit)):
            folder = root / ("train" if place < train else "test") / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((raw.images[i] * 255 / 16).round().astype(np.uint8)).save(folder / f"{i}.png")
    return root
