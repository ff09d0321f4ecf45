"""SPT's parts: single entries and low-rank updates of fused matrices."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench.methods.shared.low_rank_update import Factors, Form, LowRankUpdate
from peftbench.methods.spt.parts import Adapter, Sparse, add_parts, merge_parts


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped"])
def test_single_entries_compute_and_learn_what_a_masked_weight_does(kind):
    torch.manual_seed(0)
    layer = {
        "linear": nn.Linear(40, 30), "conv": nn.Conv2d(6, 8, 3, padding=1, stride=2),
        "grouped": nn.Conv2d(6, 6, 3, groups=3),
    }[kind]  # fmt: skip
    x = torch.randn(5, 7, 40) if kind == "linear" else torch.randn(2, 6, 9, 9)
    start = layer.weight.detach().clone()
    for count in (1, 12, 200):
        places = torch.randperm(start.numel())[:count]
        part = Sparse(places, start)
        nn.init.normal_(part.values)
        dense = (start.flatten().index_add(0, places, part.values.detach())).view(start.shape).requires_grad_()
        reference, x1, x2 = type(layer), x.clone().requires_grad_(), x.clone().requires_grad_()
        if kind == "linear":
            want = F.linear(x1, dense, layer.bias)
        else:
            want = F.conv2d(x1, dense, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        layer.requires_grad_(False)
        layer.bias.requires_grad_(True)
        add_parts(layer, {"sparse_weight": part}, called=True)
        assert isinstance(layer, reference)
        got = layer(x2)
        assert torch.allclose(got, want, atol=1e-5)
        assert torch.equal(layer._parameters["weight"], start)
        torch.manual_seed(1)
        grad = torch.randn_like(got)
        layer.bias.grad = None
        got.backward(grad)
        of_bias = layer.bias.grad.clone()
        want.backward(grad)
        assert torch.allclose(x1.grad, x2.grad, atol=1e-4)
        assert torch.allclose(dense.grad.flatten()[places], part.values.grad, atol=1e-3, rtol=1e-4)
        assert torch.allclose(of_bias, layer.bias.grad - of_bias, atol=1e-4)
        assert torch.equal(layer._parameters["weight"], start)
        merge_parts(layer)
        assert torch.allclose(layer(x), got, atol=1e-5)
        layer.weight.data.copy_(start)
        assert type(layer) is reference


def test_single_entries_keep_no_copy_of_the_weight_for_backward():
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    add_parts(layer, {"sparse_weight": Sparse(torch.arange(100), layer.weight)}, called=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(3, 64))
    assert sorted(t.numel() for t in saved) == [100, 3 * 64]


def test_single_entries_pass_under_mixed_precision():
    layers = [nn.Linear(64, 32), nn.Conv2d(4, 6, 3)]
    for layer, x in zip(layers, (torch.randn(3, 64), torch.randn(2, 4, 8, 8)), strict=True):
        layer.weight.requires_grad_(False)
        part = Sparse(torch.arange(20), layer.weight)
        add_parts(layer, {"sparse_weight": part}, called=True)
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        assert part.values.grad.dtype == x.grad.dtype == layer.bias.grad.dtype == torch.float32
        rough = part.values.grad.clone()
        part.values.grad = None
        layer(x).square().sum().backward()
        assert torch.allclose(rough, part.values.grad, rtol=0.1, atol=0.1 * part.values.grad.abs().max().item())


def test_an_error_while_a_weight_is_patched_leaves_it_as_it_was():
    layer = nn.Linear(4, 4).requires_grad_(False)
    start = layer.weight.clone()
    part = Sparse(torch.tensor([0, 5]), start)
    nn.init.ones_(part.values)
    add_parts(layer, {"sparse_weight": part}, called=True)
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 3))
    assert torch.equal(layer._parameters["weight"], start)


def test_low_rank_updates_of_thirds_reach_their_rows_only():
    layer = nn.Linear(4, 12).requires_grad_(False)
    part = Factors(layer.weight, Form(2, blocks=(0, 2), of=3))
    nn.init.normal_(part.b)
    plain = nn.Linear(4, 12)
    plain.load_state_dict(layer.state_dict())
    add_parts(layer, {"lora": part}, called=True)
    x = torch.randn(5, 4)
    moved = layer(x) - plain(x)
    assert moved[:, 4:8].abs().max() < 1e-6
    assert torch.allclose(moved[:, :4], x @ part.a[:2].T @ part.b[0].T, atol=1e-6)
    assert torch.allclose(moved[:, 8:], x @ part.a[2:].T @ part.b[1].T, atol=1e-6)
    assert sum(p.numel() for p in part.parameters()) == 2 * 2 * (4 + 4)


@pytest.mark.parametrize("kind", ["linear", "conv", "adapter too"])
def test_merged_parts_come_back_to_the_bit(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3) if kind == "conv" else nn.Linear(12, 24)
    layer.requires_grad_(False)
    form = Form(2) if kind == "conv" else Form(2, blocks=(1,), of=3)
    parts = {"lora": Factors(layer.weight, form), "sparse_weight": Sparse(torch.arange(9), layer.weight)}
    parts |= {"sparse_bias": Sparse(torch.tensor([1]), layer.bias)}
    parts |= {"adapter": Adapter(layer.weight, 2, (0,), 1, 0.0, 0.0)} if kind == "adapter too" else {}
    add_parts(layer, parts, called=True)
    for parameter in (p for part in parts.values() for p in part.parameters()):
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, 9, 9) if kind == "conv" else torch.randn(5, 12)
    tuned, start, adapted = layer(x), {n: t.clone() for n, t in layer.state_dict().items()}, type(layer)
    folded = merge_parts(layer)
    torch.testing.assert_close(layer(x), tuned, rtol=1e-4, atol=1e-4)
    assert ("adapter.up" in layer.state_dict()) == (kind == "adapter too")
    assert "lora.a" not in layer.state_dict()
    folded.undo()
    assert list(layer.state_dict()) == list(start)
    assert all(torch.equal(t, start[n]) for n, t in layer.state_dict().items())
    assert type(layer) is adapted
    assert torch.equal(layer(x), tuned)


def test_a_layer_without_parts_has_nothing_to_merge():
    assert merge_parts(nn.Linear(2, 2)) is None


def test_the_update_of_parts_is_the_product_of_its_blocks():
    layer = nn.Linear(4, 12)
    add_parts(layer, {"lora": Factors(layer.weight, Form(2, blocks=(0, 2), of=3))}, called=True)
    nn.init.normal_(layer.lora.b)
    delta = LowRankUpdate(layer).delta()
    assert torch.allclose(delta[8:], layer.lora.b[1] @ layer.lora.a[2:])
    assert not delta[4:8].any()


def test_a_layer_with_an_attribute_of_our_names_is_refused_by_its_name():
    layer = nn.Linear(8, 6)
    layer.adapter = 1
    with pytest.raises(peftbench.Refusal, match=r"layer blocks\.0: a Linear has an attribute adapter of its own"):
        add_parts(layer, {"adapter": Adapter(layer.weight, 2, (0,), 1, 0.0, 0.0)}, called=True, name="blocks.0")
    assert type(layer) is nn.Linear
    assert layer.adapter == 1
