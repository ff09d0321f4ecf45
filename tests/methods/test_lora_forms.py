"""The forms of LoRA: rsLoRA, DoRA, PiSSA, OLoRA, LoRA+; each against its formula, and what each is refused on."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench import backbones, optim
from peftbench.backbones.weight_reads import layers_read
from peftbench.methods.base import Plan
from peftbench.methods.lora import LoRA
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, updates
from peftbench.methods.shared.origins import origin_of
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.training.rate_factors import rate_factors
from support.backbones import SMALL, composed, on_meta, parameters, spec, with_weights
from support.backbones import method as method_of
from support.batches import batch
from support.models import adapted_model

BEIT = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}


def dora_layer(path="weight", bias=True, dtype=torch.double):
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=bias, dtype=dtype).requires_grad_(False)
    update = LowRankUpdate.add(layer, Form(2, 0.5, path, fused=path == "weight", magnitude=True))
    return layer, update, torch.randn(3, 5, 6, dtype=dtype)


def moved(update):
    """The update with factors and lengths away from their start."""
    nn.init.normal_(update.b)
    if update.magnitude is not None:
        update.magnitude.data.mul_(torch.linspace(0.5, 2, len(update.magnitude), dtype=update.b.dtype))
    return update


# LoRA's 8 (d_in + d_out) of each linear layer, and DoRA's lengths, the outputs of all. Of blocks of width d: 128 d and
# 9 d of a ViT, 80 d and 5 d of ConvNeXt, 96 d and 7 d of hybrid_nano (whose MLPs are twice as wide as d).
COUNTS = {
    "hybrid_nano": (96 * 736, 7 * 736),
    "vit_s": (128 * 4608, 9 * 4608),
    "convnext_base": (80 * 18_048, 5 * 18_048),
}


@pytest.mark.parametrize(
    "backbone", [b if b == "hybrid_nano" else pytest.param(b, marks=pytest.mark.slow) for b in COUNTS]
)
def test_counts_of_other_backbones(backbone):
    words = ["backbone=timm", f"backbone.name={backbone}"] if backbone == "convnext_base" else [f"backbone={backbone}"]
    meta = on_meta(composed(*words).backbone)
    low_rank, rows = COUNTS[backbone]
    for name in ("dora", "olora"):
        assert parameters(method_of(name), copy.deepcopy(meta)) == low_rank + (rows if name == "dora" else 0)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 2.0), (True, 4.0)])
def test_rslora_scales_by_the_root_of_the_rank(rslora, scale):
    backbone = with_weights(SMALL["vit"], 32)
    LoRA(rank=4, alpha=8.0, rslora=rslora).adapt(backbone, Plan())
    assert {u.form.scale for u in updates(backbone.net)} == {scale}


def test_dora_computes_its_formula_and_a_doubled_length_doubles_its_row():
    layer, update, x = dora_layer()
    plain = F.linear(x, update.frozen, layer.bias)
    assert torch.equal(layer(x), plain)
    assert torch.equal(layer.weight, update.frozen)
    moved(update)
    v = update.frozen + 0.5 * update.b @ update.a
    want = update.magnitude[:, None] * v / v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(layer.weight, want)
    torch.testing.assert_close(layer(x), F.linear(x, want, layer.bias))
    before = layer.weight.detach().clone()
    update.magnitude.data[1] *= 2
    assert torch.equal(layer.weight[1], 2 * before[1])
    assert torch.equal(layer.weight[[0, 2, 3]], before[[0, 2, 3]])


@pytest.mark.parametrize("path", ["weight", "read", "input"])
@pytest.mark.parametrize("bias", [True, False])
def test_doras_gradients_are_those_of_a_norm_that_is_a_constant(path, bias):
    layer, update, x = dora_layer(path, bias)
    moved(update)
    x.requires_grad_()
    found = torch.autograd.grad((layer(x) ** 3).sum(), [x, update.a, update.b, update.magnitude])
    v = update.frozen + 0.5 * update.b @ update.a
    length = v.norm(dim=1).detach()
    whole = (update.magnitude / length)[:, None] * v
    y = F.linear(x, whole, layer.bias)
    want = torch.autograd.grad((y**3).sum(), [x, update.a, update.b, update.magnitude, whole])
    torch.testing.assert_close(list(found), list(want[:4]))
    of_whole = want[4]
    torch.testing.assert_close(found[3], (of_whole * v).sum(1) / length)
    # with a norm that is differentiated the gradient of V would be orthogonal to each row
    of_v = torch.autograd.grad((F.linear(x, (update.magnitude / length)[:, None] * v, layer.bias) ** 3).sum(), v)[0]
    torch.testing.assert_close(found[2], 0.5 * of_v @ update.a.T)
    assert ((of_v * v).sum(1).abs() > 1e-3 * of_v.norm(dim=1) * length).all()


def test_a_row_of_zeros_has_no_length_and_stays():
    layer = nn.Linear(6, 4)
    layer.weight.data[2] = 0
    update = LowRankUpdate.add(layer.requires_grad_(False), Form(2, path="weight", fused=True, magnitude=True))
    x = torch.randn(3, 6)
    layer(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in (update.a, update.b, update.magnitude))
    assert update.magnitude.grad[2] == 0
    assert not layer.weight[2].any()


@pytest.mark.parametrize("way", ["pissa", "olora"])
def test_what_factors_begin_as(way):
    torch.manual_seed(0)
    for shape in ((8, 5), (5, 8)):
        weight = torch.randn(shape)
        low, high = origin_of(weight, 3, 0.5, way)
        if way == "pissa":
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            torch.testing.assert_close(0.5 * high @ low, (u[:, :3] * s[:3]) @ v[:3])
            torch.testing.assert_close(high.T @ high, torch.diag(s[:3] / 0.5), atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(high.T @ high, torch.eye(3), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close((high @ low)[:, :3], weight[:, :3])  # the first columns of Q span these


@pytest.mark.parametrize("path", ["weight", "read", "input"])
def test_factors_count_from_what_they_began_as(path):
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).requires_grad_(False)
    frozen, x = layer.weight.detach().clone(), torch.randn(3, 6)
    plain = layer(x)
    origin = origin_of(layer.weight, 2, 0.5, "pissa")
    update = LowRankUpdate.add(layer, Form(2, 0.5, path, fused=path == "weight"), origin=origin)
    assert torch.equal(layer(x), plain)
    assert torch.equal(update.a, origin[0])
    update.b.data += 0.1 * torch.randn(4, 2)
    want = frozen + 0.5 * (update.b @ update.a - origin[1] @ origin[0])
    torch.testing.assert_close(layer(x), F.linear(x, want, layer.bias))
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    gradients = torch.autograd.grad(layer(x).square().sum(), [update.a, update.b])
    again = torch.autograd.grad(F.linear(x, want, layer.bias).square().sum(), [update.a, update.b])
    torch.testing.assert_close(gradients, again)


@pytest.mark.parametrize("name", ["dora", "pissa"])
@pytest.mark.parametrize("family", ["vit", pytest.param("cnn", marks=pytest.mark.slow)])
def test_a_merged_backbone_computes_the_same_bits(name, family):
    """What is called computes with the very weight that merging leaves."""
    model = adapted_model(name, family)
    for update in updates(model.backbone.net):
        update.b.data += 0.05 * torch.randn(update.b.shape)
        if update.magnitude is not None:
            update.magnitude.data *= 1.1
    model.eval()
    with torch.no_grad():
        beside = model(batch()[0])
        model.method.merge(model.backbone)
        assert torch.equal(model(batch()[0]), beside)
    assert not any(n.rpartition(".")[2].startswith("lora") for n in model.backbone.state_dict())


def test_dora_with_dropout_starts_as_the_backbone_in_training_too():
    layer, update, x = dora_layer("input")
    update.form = None
    layer.__dict__["lora_form"] = Form(2, 0.5, "input", dropout=0.5, magnitude=True)
    assert torch.equal(layer.train()(x), F.linear(x, layer._parameters["weight"], layer.bias))
    moved(LowRankUpdate(layer))
    assert not torch.equal(layer(x), layer(x))


def test_lora_plus_has_a_rate_for_b_and_for_lengths_and_the_head_keeps_its_own():
    model = adapted_model("lora_plus", "vit", "method.dora=true")
    factors = rate_factors(model, model.method, peftbench.compose("method=lora_plus", "data=digits").optimizer)
    names = {n for n, _ in model.trainable()}
    assert factors == dict.fromkeys((n for n in names if n.endswith(("lora_b", "lora_magnitude"))), 16.0)
    assert {n.rpartition(".")[2] for n in names - set(factors)} == {"lora_a", "weight", "bias"}


def test_a_run_of_lora_plus_steps_b_farther():
    """From equal gradients AdamW's first step is the rate in each entry."""
    model = adapted_model("lora_plus", "vit")
    section = dataclasses.replace(peftbench.compose("method=lora_plus", "data=digits").optimizer, weight_decay=0.0)
    named = model.trainable()
    optimizer = optim.optimizer(section, named, {}, False, rate_factors(model, model.method, section))
    model.train().loss(batch()).backward()
    optimizer.step()
    b = next(u.b for u in updates(model.backbone.net))
    head = model.task.head.bias
    assert b.abs().max().item() == pytest.approx(16 * head.abs().max().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "backbone", "told"),
    [
        (
            ("method=dora",),
            spec("beit_base_patch16_224", BEIT),
            r"method\.dora=true: beit_base_patch16_224 reads the weight of blocks\.0\.attn\.qkv instead of calling the "
            r"layer.*method\.layers=\[\*attn\.proj,\*mlp\.fc1,\*mlp\.fc2\] leaves it out, and method=lora adapts it",
        ),
        (
            ("method=dora",),
            spec("resnetv2_50x1_bit"),
            r"method\.dora=true: resnetv2_50x1_bit cannot be adapted so in \S+, because its weight is standardised",
        ),
        (
            ("method=pissa",),
            spec("nf_resnet26"),
            r"method\.init=pissa: nf_resnet26 cannot be adapted so in \S+, because",
        ),
        (("method=pissa", "method.alpha=-1"), SMALL["vit"], r"method\.alpha=-1\.0: expected a number above 0 with"),
    ],
)
def test_what_a_form_cannot_adapt_is_one_sentence(words, backbone, told):
    name, *more = words
    with pytest.raises(peftbench.UserError, match=told):
        method_of(name.removeprefix("method="), *more).check(on_meta(backbone))


def test_what_dora_names_to_leave_out_is_enough():
    backbone = on_meta(spec("beit_base_patch16_224", BEIT))
    method_of("dora", "method.layers=[*attn.proj,*mlp.fc1,*mlp.fc2]").check(backbone)
    assert layers_read(backbone) == {"blocks.0.attn.qkv"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("method=pissa", "pruning=unstructured"), r"method\.init=pissa: .* is pruned to zeros.*method\.init=zero"),
        (("method=olora", "pruning=unstructured"), r"method\.init=olora: .* is pruned to zeros"),
        (("method=pissa", "backbone.stream=true"), r"backbone\.stream=true: method=pissa changes the backbone's"),
        (("method=dora", "pruning=unstructured", "pruning.merge=masked"), r"pruning\.merge=masked: method=dora can"),
        (("method=pissa", "trainer=fsdp"), r"method=pissa: what its plan says is of whole tensors.*trainer=ddp"),
        (("method=dora", "method.init=svd"), r"method\.init='svd': expected 'zero', 'pissa' or 'olora'"),
        (("method=lora", "method.lr_ratio=0"), r"method\.lr_ratio=0\.0: expected a number above 0"),
    ],
)
def test_bad_input_of_a_run_is_one_sentence(words, told):
    def refused():
        config = peftbench.compose("backbone=vit_nano", "data=digits", *words)
        refuse_incompatible(config, instantiate(config.method))

    with pytest.raises(peftbench.UserError, match=told):
        refused()


@pytest.mark.parametrize("name", ["dora", "pissa", "olora"])
def test_weights_in_few_bits_are_adapted_and_start_as_they_are(name):
    pytest.importorskip("torchao")
    backbone = backbones.quantize(with_weights(SMALL["vit"], 32), "int8")
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = backbone.taps(image)[-1]
        method_of(name).adapt(backbone, Plan())
        torch.testing.assert_close(backbone.taps(image)[-1], before, rtol=1e-4, atol=1e-4)
    backbone.taps(image)[-1].square().sum().backward()
    assert all(u.b.grad is not None for u in updates(backbone.net))
