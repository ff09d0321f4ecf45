"""Ladder side-tuning: its recursion, gates, blocks and dropped layers."""

import pytest
import torch
from torch.nn import functional as F

import peftbench
from peftbench import backbones
from peftbench.methods.lst import LST, Attention, Convolution, Ladder
from support.side import make, optimizer, randomise, step


def test_the_recursion_on_tokens():
    model = make("lst", "vit")
    randomise(model.side)
    taps = [torch.randn(2, 17, 48) for _ in range(5)]
    h = None
    for rung, tap in zip(model.side.rungs, taps, strict=True):
        down = tap @ rung.down.weight.T
        if h is not None:
            mu = torch.sigmoid(rung.alpha / 0.1)
            down = mu * h + (1 - mu) * down
        block, c = rung.block, 6
        q, k, v = block.qkv(F.layer_norm(down, (c,), block.norm1.weight, block.norm1.bias)).split(c, 2)
        assert block.heads == 1
        h = down + block.proj((q @ k.mT / c**0.5).softmax(2) @ v)
        hidden = block.mlp[0](F.layer_norm(h, (c,), block.norm2.weight, block.norm2.bias))
        h = h + block.mlp[2](F.gelu(hidden))
    side = model.side
    out = taps[-1] + F.layer_norm(h, (6,), side.norm.weight, side.norm.bias) @ side.up.weight.T
    assert torch.allclose(side(taps)[-1], out, rtol=1e-4, atol=1e-4)


def test_the_recursion_on_maps():
    model = make("lst", "resnet")
    side = model.side
    randomise(side)
    taps = model.backbone.taps(torch.randn(2, 3, 64, 64))
    h = None
    for rung, tap in zip(side.rungs, taps, strict=True):
        down = F.conv2d(tap, rung.down.weight[:, :, None, None])
        if h is not None:
            h = F.avg_pool2d(h, 2)
            h = h if rung.step is None else F.conv2d(h, rung.step.weight[:, :, None, None])
            mu = torch.sigmoid(rung.alpha / 0.1)
            down = mu * h + (1 - mu) * down
        block = rung.block
        y = block.conv1(F.relu(F.group_norm(down, 1, block.norm1.weight, block.norm1.bias)))
        h = down + block.conv2(F.relu(F.group_norm(y, 1, block.norm2.weight, block.norm2.bias)))
    out = side.norm(h.movedim(1, 3)) @ side.up.weight.T
    assert torch.allclose(side(taps)[-1], taps[-1] + out.movedim(3, 1), rtol=1e-4, atol=1e-4)


def test_gates_start_half_open():
    side = make("lst", "vit").side
    assert all(torch.sigmoid(rung.alpha / 0.1) == 0.5 for rung in side.rungs[1:])
    assert not hasattr(side.rungs[0], "alpha")


def test_blocks_are_of_the_backbones_kind():
    kinds = {
        "vit_b": [Attention] * 12,
        "swin_b": [Convolution] * 4,
        "efficientformer_l1": [Convolution] * 3 + [Attention],
    }
    for name, kind in kinds.items():
        side = Ladder(backbones.build_on_meta(peftbench.compose(f"backbone={name}").backbone).facts, LST())
        assert [type(rung.block) for rung in side.rungs] == kind
    assert side.rungs[-1].block.heads == 7


def test_dropped_layers_are_neither_built_nor_read():
    facts = backbones.build_on_meta(peftbench.compose("backbone=vit_b").backbone).facts
    side = Ladder(facts, LST(drop=(0, 4, 8)))
    assert side.wanted == (1, 2, 3, 5, 6, 7, 9, 10, 11)
    assert len(side.rungs) == 9
    assert Ladder(facts, LST(drop=(11,))).wanted == tuple(range(12)), "the last tap is what it is added to"
    fewer = peftbench.count_parameters("lst", "vit_b", drop=[0, 4, 8])
    assert peftbench.count_parameters("lst", "vit_b") - fewer == 3 * (12 * 96**2 + 13 * 96 + 768 * 96 + 1)


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("drop", [[0], [1, 4], [0, 1, 2, 3]])
def test_it_trains_without_the_dropped_layers(family, drop):
    model = make("lst", family, f"method.drop={drop}")
    opt = optimizer(model)
    losses = [step(model, opt) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(p.grad.count_nonzero() for _, p in model.trainable())


@pytest.mark.parametrize(("drop", "says"), [([5], "has no tap 5; it has 0 to 4"), ([0, 1, 2, 3, 4], "leaves no tap")])
def test_what_cannot_be_dropped_is_one_sentence(drop, says):
    with pytest.raises(peftbench.UserError, match=rf"method\.drop=.*{says}"):
        peftbench.count_parameters("lst", "resnet50", drop=drop)
