"""Convpass: its equation, its convolution on the patches' grid, exact counts, and where it has no place."""

import pytest
import torch
from torch.nn import functional as F

import peftbench
from peftbench.methods.convpass import ConvBottleneck
from support.backbones import SMALL, composed, method, on_meta, parameters, with_weights


@pytest.mark.parametrize(
    ("backbone", "words", "count"),
    [
        pytest.param("vit_s", [], 170_880, marks=pytest.mark.slow),
        ("vit_b", ["method.layers=attn"], 163_776),
        ("hybrid_nano", [], 17 * 472 + 10 * (8 + 9 * 64 + 8)),  # one behind each of 10 blocks
    ],
)
def test_exact_counts(backbone, words, count):
    assert parameters(method("convpass", *words), on_meta(composed(f"backbone={backbone}").backbone)) == count


def branch(*words):
    """One of a ViT with a class token and 2 x 2 patches, in fp64 with random numbers but for biases."""
    block = with_weights(SMALL["vit"], 32).facts.blocks[0]
    torch.manual_seed(0)
    made = ConvBottleneck(method("convpass", *words), block, 0.0, torch.empty(0)).double().eval()
    torch.nn.init.normal_(made.up)
    return made, torch.randn(2, *block.shape, dtype=torch.float64)


def quick(v):
    return v * torch.sigmoid(1.702 * v)


def test_a_branch_is_its_equation_on_the_grid_and_at_the_class_token():
    made, u = branch("method.scale=0.5")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    narrow = quick(u @ made.down.T + made.down_bias)
    images = [narrow[:, 1:].mT.reshape(2, 8, 2, 2), narrow[:, :1].mT.reshape(2, 8, 1, 1)]
    grid, token = (F.conv2d(v, made.conv.weight, made.conv.bias, padding=1).flatten(2).mT for v in images)
    expected = 0.5 * (quick(torch.cat([token, grid], 1)) @ made.up.T + made.up_bias)
    torch.testing.assert_close(made(u), expected, rtol=1e-10, atol=1e-10)


def test_with_the_identity_as_its_convolution_it_is_an_adapter_for_each_token():
    turned = [0, 4, 2, 1, 3]
    made, u = branch("method.init=identity")
    torch.testing.assert_close(made(u), quick(quick(u @ made.down.T)) @ made.up.T, rtol=1e-10, atol=1e-10)
    assert torch.allclose(made(u[:, turned]), made(u)[:, turned])
    made, u = branch()
    assert not torch.allclose(made(u[:, turned]), made(u)[:, turned])


def test_a_class_token_never_reaches_the_patches():
    made, u = branch()
    other = torch.cat([u[:, :1] + 1, u[:, 1:]], 1)
    assert torch.equal(made(other)[:, 1:], made(u)[:, 1:])
    assert not torch.equal(made(other)[:, :1], made(u)[:, :1])


def test_its_drop_path_is_that_of_its_block():
    net = with_weights(
        composed("backbone=vit_nano", "backbone.drop_path=0.2", "backbone.pretrained=false").backbone, 64
    )
    method("convpass").adapt(net, None)
    shares = [(b.norm2.branch.drop_path, b.branch.drop_path) for b in net.net.blocks]
    assert shares[0] == (0, 0)
    assert shares[-1] == (pytest.approx(0.2), pytest.approx(0.2))


@pytest.mark.parametrize(
    ("words", "backbone", "sentence"),
    [
        ([], "resnet_nano", r"method=convpass: resnet18 has no attention to stand beside .*method=lora work\."),
        (["method.scale=0"], "vit_nano", "method.scale=0.0: nothing would be added"),
        (["method.rank=0"], "vit_nano", "method.rank=0: expected at least 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words, backbone, sentence):
    with pytest.raises(peftbench.UserError, match=sentence):
        parameters(method("convpass", *words), on_meta(composed(f"backbone={backbone}").backbone))


def test_a_block_of_tokens_that_has_no_middle_is_left_alone_and_named():
    net = on_meta(composed("backbone=efficientformer_l1").backbone)
    assert list(method("convpass").skipped(net)) == ["stages.3.blocks.4"]
