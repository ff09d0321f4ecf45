"""RepAdapter: its equation, merging that is exact, exact counts, and where it has no place."""

import pytest
import torch
from torch import nn

import peftbench
from peftbench.methods.repadapter import GroupedBottleneck
from support.backbones import SMALL, composed, method, on_meta, parameters, spec, with_weights

SWIN = spec("swin_tiny_patch4_window7_224", {"img_size": 32, "depths": (2, 1), "embed_dim": 16, "num_heads": (2, 2)})
# Scaled by timm's own start of 1e-6 what a branch adds would be seen by no tolerance.
CONVNEXT = spec("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48), "ls_init_value": 1.0})
NETS = {"vit": (SMALL["vit"], 32), "swin": (SWIN, 32), "convnext": (CONVNEXT, 64), "hybrid": (SMALL["hybrid"], 64)}


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        pytest.param("vit_s", 120_000, marks=pytest.mark.slow),
        pytest.param("convnext_b", 13 * 18_048 + 36 * 8, marks=pytest.mark.slow),  # fc1 of 36 blocks
        ("hybrid_nano", 13 * 2 * (2 * 64 + 4 * 80 + 3 * 96) + 2 * 9 * 8),  # qkv and fc1 of 2, 4 and 3 inner blocks
    ],
)
def test_exact_counts(backbone, count):
    assert parameters(method("repadapter"), on_meta(composed(f"backbone={backbone}").backbone)) == count


def randomised(net, *words):
    """A RepAdapter's backbone whose adapters are as large as the weights, in fp64."""
    built = method("repadapter", *words)
    built.check(net)
    built.adapt(net, None)
    net.double()
    random = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64) * 0.2
    return built


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_an_adapter_is_its_equation_in_groups(groups):
    layer = nn.Linear(8, 6).double()
    made = GroupedBottleneck(method("repadapter", f"method.groups={groups}", "method.scale=3"), layer, layer.weight)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, 8, dtype=torch.float64)
    narrow = x @ made.down.T + made.down_bias
    parts = [part @ made.up[i].T for i, part in enumerate(narrow.chunk(groups, 1))]
    torch.testing.assert_close(made.eval()(x), 3 * (torch.cat(parts, 1) + made.up_bias), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vit", "swin", pytest.param("convnext", marks=pytest.mark.slow), "hybrid"])
@torch.no_grad()
def test_merged_it_computes_the_same_and_is_a_plain_model(name):
    """Swin pads its windows with zeros behind the norm, which an adapter of the norm's output would not see."""
    small, size = NETS[name]
    net = with_weights(small, size)
    names, kinds = set(net.state_dict()), [type(m) for m in net.modules()]
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = net.double().eval().taps(images)[-1]
    built = randomised(net)
    beside = net.eval().taps(images)[-1]
    assert not torch.allclose(beside, plain, rtol=1e-2)
    assert names < set(net.state_dict())
    built.merge(net)
    merged = net.taps(images)[-1]
    assert (merged - beside).abs().max() <= 1e-10 * beside.abs().max()
    assert set(net.state_dict()) == names
    assert [type(m) for m in net.modules()] == kinds


@torch.no_grad()
def test_a_layer_without_a_bias_has_an_adapter_without_biases_and_merges():
    net = with_weights(
        spec("vit_tiny_patch16_224", {"img_size": 32, "depth": 1, "embed_dim": 48, "qkv_bias": False}), 32
    )
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    built = randomised(net)
    assert {n for n, _ in net.net.blocks[0].attn.qkv.branch.named_parameters()} == {"down", "up"}
    beside = net.eval().taps(images)[-1]
    built.merge(net)
    assert net.net.blocks[0].attn.qkv.bias is None
    assert (net.taps(images)[-1] - beside).abs().max() <= 1e-10 * beside.abs().max()


def test_a_weight_that_is_read_is_left_alone_and_named():
    net = on_meta(spec("beit_base_patch16_224", {"depth": 2}))
    assert method("repadapter").skipped(net) == {
        f"blocks.{i}.attn.qkv": "its weight is read instead of called" for i in range(2)
    }
    assert parameters(method("repadapter"), net) == 2 * (13 * 768 + 8)


@pytest.mark.parametrize(
    ("words", "backbone", "sentence"),
    [
        ([], "resnet_nano", r"method=repadapter: resnet18 has no linear layer called qkv or fc1.*method=lora.* work\."),
        (["method.rank=3"], "vit_nano", r"method.rank=3: expected a multiple of method.groups=2"),
        (["method.groups=3"], "vit_nano", r"method.groups=3: expected a divisor of method.rank=8, such as 2"),
        (["method.groups=3", "method.rank=9"], "vit_nano", r"method.groups=3: layer .*qkv has 128 inputs"),
        (["method.layers=[nothing]"], "vit_nano", r"method.layers=\['nothing'\]: no linear layer"),
        (["method.scale=0"], "vit_nano", "method.scale=0.0: nothing would be added"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words, backbone, sentence):
    with pytest.raises(peftbench.UserError, match=sentence):
        parameters(method("repadapter", *words), on_meta(composed(f"backbone={backbone}").backbone))
