"""Adapters: their equation, exact counts, the published names over the one class, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

import peftbench
from peftbench.methods.adapter import Bottleneck
from peftbench.runs.build import instantiate
from support.backbones import SMALL, composed, method, on_meta, parameters, with_weights

NAMES = ("adapter", "adaptformer", "adapter_plus", "houlsby", "pfeiffer")
COUNTS = {
    # widths of blocks: ViT-S 12 x 384; ConvNeXt-B 36 of sum 18,048; hybrid_nano 10 of sum 472
    "adapter": {"vit_s": 78_432, "convnext_b": 17 * 18_048 + 36 * 8, "hybrid_nano": 17 * 472 + 10 * 8},
    "adaptformer": {"vit_s": 595_200, "convnext_b": 129 * 18_048 + 36 * 64, "hybrid_nano": 129 * 472 + 10 * 64},
    "adapter_plus": {"vit_s": 83_040, "convnext_b": 18 * 18_048 + 36 * 8, "hybrid_nano": 18 * 472 + 10 * 8},
    "pfeiffer": {"vit_s": 87_648, "convnext_b": 19 * 18_048 + 36 * 8, "hybrid_nano": 19 * 472 + 10 * 8},
    "houlsby": {"vit_s": 175_296},
}


ROWS = [(m, b, n) for m, row in COUNTS.items() for b, n in row.items()]
DEAR = [r if r[1] == "hybrid_nano" else pytest.param(*r, marks=pytest.mark.slow) for r in ROWS]


@pytest.mark.parametrize(("name", "backbone", "count"), DEAR)
def test_exact_counts(name, backbone, count):
    assert parameters(method(name), on_meta(composed(f"backbone={backbone}").backbone)) == count


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["method.position=houlsby"], 2 * 156_768),
        (["method.position=intermediate"], 156_768),
        (["method.position=pre"], 156_768),
        (["method.scaling=learned"], 156_768 + 12),
        (["method.norms=affine"], 156_768 + 12 * 4 * 768),
        (["method.position=post", "method.act=gelu", "method.scaling=channel", "method.rank=16"], 313_536),
    ],
)
def test_counts_follow_the_options(words, count):
    assert parameters(method("adapter", *words), on_meta(composed("backbone=vit_b").backbone)) == count


def bottleneck(name, *words):
    block = with_weights(SMALL["vit"], 32).facts.blocks[0]
    torch.manual_seed(0)
    made = Bottleneck(method(name, *words), block, torch.empty(0)).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made, torch.randn(3, 5, block.channels, dtype=torch.float64)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "adaptformer"])
def test_a_bottleneck_is_its_equation(name):
    made, v = bottleneck(name)
    x = F.layer_norm(v, v.shape[-1:], made.norm.weight, made.norm.bias, 1e-5) if name == "pfeiffer" else v
    act = F.gelu if name in ("adapter_plus", "houlsby") else F.relu
    scale = made.scale if name == "adapter_plus" else 0.1 if name == "adapter" else 1.0
    expected = scale * (act(x @ made.down.T + made.down_bias) @ made.up.T + made.up_bias)
    torch.testing.assert_close(made.eval()(v), expected, rtol=1e-10, atol=1e-10)


def test_dropout_is_of_the_bottleneck_and_drop_path_of_the_image():
    made, v = bottleneck("adapter_plus", "method.drop_path=0.5")
    whole = made.eval()(v.repeat(20, 1, 1))
    dropped = made.train()(v.repeat(20, 1, 1))
    gone = (dropped == 0).all((1, 2))
    assert 10 < gone.sum() < 50
    torch.testing.assert_close(dropped[~gone], whole[~gone] * 2)
    made, v = bottleneck("adapter", "method.dropout=0.5")
    assert not torch.equal(made.train()(v), made.train()(v))


def test_adapter_plus_starts_near_and_the_others_at_the_backbone():
    assert {n for n in NAMES if not method(n).identity_start} == {"adapter_plus"}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, near = with_weights(SMALL["vit"], 32), with_weights(SMALL["vit"], 32)
    method("adapter_plus").adapt(near, None)
    up = near.net.blocks[0].branch.up
    assert 0.005 < up.std() < 0.01
    assert up.abs().max() <= 0.02
    with torch.no_grad():
        a, b = (net.eval().taps(x)[-1] for net in (plain, near))
    assert 0 < (a - b).abs().max() < 1e-2 * a.abs().max()


def test_scales_and_biases_are_not_decayed_and_norms_train_where_asked():
    net = with_weights(SMALL["vit"], 32)
    method("houlsby").adapt(net, None)
    trained = {n.removeprefix("net.blocks.1.") for n, p in net.named_parameters() if p.requires_grad and "s.1." in n}
    parts = {f"drop_path{i}.branch.{p}" for i in (1, 2) for p in ("down", "down_bias", "up", "up_bias")}
    assert trained == parts | {f"norm{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}
    net = with_weights(SMALL["vit"], 32)
    method("adapter_plus").adapt(net, None)
    assert {p.ndim for n, p in net.named_parameters() if p.requires_grad and "up" not in n and "down" not in n} == {1}


@pytest.mark.parametrize(
    ("words", "backbone", "sentence"),
    [
        (["method.rank=0"], "vit_nano", "method.rank=0: expected at least 1"),
        (["method.dropout=1"], "vit_nano", r"method.dropout=1.*expected a share"),
        (["method.scale=0"], "vit_nano", "method.scale=0.0: nothing would be added"),
        (["method.position=beside"], "vit_nano", "expected .*parallel"),
        (["method.position=pre"], "resnet_nano", r"method.position=pre: layer1.0 of .*method=adapter, .* works"),
        (
            ["method.norms=affine"],
            "hybrid_nano",
            r"affine: .* stages.0.0 of .* has none such; method.norms=frozen works",
        ),
        (["method.norms=affine"], "resnet_nano", r"none such; method.norms=frozen works"),
        (["method=houlsby"], "resnet_nano", r"method.position=houlsby: layer1.0 of .*method=adapter, .* works"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words, backbone, sentence):
    named = words if words[0].startswith("method=") else ["method=adapter", *words]
    with pytest.raises(peftbench.UserError, match=sentence) as raised:
        parameters(instantiate(composed(*named).method), on_meta(composed(f"backbone={backbone}").backbone))
    assert "\n" not in str(raised.value)
