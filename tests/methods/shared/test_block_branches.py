"""Branches on blocks: each form is the formula of its place, whatever the block's class, and leaves nothing behind."""

import copy

import pytest
import torch
from torch import nn

import peftbench
from peftbench import backbones, config
from peftbench.methods.shared.block_branches import add_behind, add_to_middle, add_to_output
from support.backbones import SMALL, method, spec, with_weights


class Affine(nn.Module):
    """A branch that no other place would give: 0.1 v + 0.3."""

    def __init__(self, factor=0.1):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, v):
        return self.factor * v + 0.3


SWIN = spec("swin_tiny_patch4_window7_224", {"img_size": 32, "depths": (2, 1), "embed_dim": 16, "num_heads": (2, 2)})


def block_of(family):
    """The second block of a net, whose windows are shifted in Swin, with an input."""
    backbone = with_weights(SMALL["vit"] if family == "vit" else SWIN, 32)
    block = backbone.facts.blocks[1]
    torch.manual_seed(3)
    return backbone.net, block, torch.randn(2, *block.shape)


def attended(module, x):
    """The attention's branch of a plain block."""
    return module.attn(module.norm1(x)) if hasattr(module, "ls1") else module._attn(module.norm1(x))


FORMS = {
    "output": lambda net, b, a: add_behind(net, b, a[0], "output"),
    "middle beside": lambda net, b, a: add_behind(net, b, a[0], "middle"),
    "second beside": lambda net, b, a: add_behind(net, b, a[0], "second"),
    "middle": lambda net, b, a: add_to_middle(net, b, a[0], "middle"),
    "first": lambda net, b, a: add_to_middle(net, b, a[0], "first"),
    "middle and output": lambda net, b, a: (add_to_middle(net, b, a[0], "middle"), add_behind(net, b, a[1], "output")),
    "first and second": lambda net, b, a: (add_to_middle(net, b, a[0], "first"), add_behind(net, b, a[1], "second")),
    "middle twice": lambda net, b, a: (add_to_middle(net, b, a[0], "middle"), add_behind(net, b, a[1], "middle")),
    "inner branches": lambda net, b, a: [
        add_to_output(net.get_submodule(f"{b.module}.drop_path{i + 1}"), a[i], f"drop_path{i + 1}") for i in (0, 1)
    ],
}


def expected(form, module, x, a):
    """What a block gives with the branches `a` in this form, from the plain module."""
    f = attended(module, x)
    f = f + a[0](f) if form == "inner branches" else f
    m = x + f
    if form in ("middle", "middle and output", "middle twice"):
        m = m + a[0](m)
    if form in ("first", "first and second"):
        m = m + a[0](module.norm1(x))
    f = module.mlp(module.norm2(m))
    y = m + (f + a[1](f) if form == "inner branches" else f)
    if form == "output":
        return y + a[0](y)
    if form == "middle beside":
        return y + a[0](m)
    if form == "second beside":
        return y + a[0](module.norm2(m))
    behind = {"middle and output": y, "first and second": module.norm2(m), "middle twice": m}
    return y + a[1](behind[form]) if form in behind else y


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_block_with_branches_is_the_formula_of_their_places(form, family):
    net, block, x = block_of(family)
    plain = copy.deepcopy(net.get_submodule(block.module))
    branches = [Affine(0.1), Affine(-0.2)]
    names = set(net.state_dict())
    FORMS[form](net, block, branches)
    module = net.get_submodule(block.module)
    assert names < set(net.state_dict()), "what was there keeps its name"
    for one in (module, copy.deepcopy(module)):
        torch.testing.assert_close(one(x), expected(form, plain, x, branches), rtol=1e-5, atol=1e-5)
    held = [m.__dict__["stream"] for m in module.modules() if "stream" in m.__dict__]
    assert all(value is None for stream in held for value in vars(stream).values())


@torch.no_grad()
def test_a_copy_has_a_stream_of_its_own_and_a_forward_that_fails_leaves_none():
    net, block, x = block_of("vit")
    add_behind(net, block, Affine(), "middle")
    module = net.get_submodule(block.module)
    other = copy.deepcopy(module)
    assert other.stream is other.norm2.stream is not module.stream
    module.mlp.forward = None
    with pytest.raises(TypeError):
        module(x)
    assert set(vars(module.stream).values()) == {None}


def test_a_module_with_a_branch_of_its_own_is_refused():
    net, block, _ = block_of("vit")
    net.get_submodule(block.module).branch = 1
    with pytest.raises(peftbench.Refusal, match=r"blocks\.1: a Block has an attribute branch of its own"):
        add_behind(net, block, Affine(), "output")


@pytest.mark.parametrize("name", ["adapter", "mona"])
@pytest.mark.parametrize("backbone", ["densenet121", "rdnet_tiny"])
def test_blocks_that_call_what_they_hold_take_no_branch(name, backbone):
    built = backbones.build_on_meta(config.Backbone(backbone, pretrained=False), 64)
    with pytest.raises(peftbench.Refusal, match=rf"method={name}: .* of {backbone} calls whatever it holds in turn"):
        method(name).check(built)
    method("lora").check(built)
