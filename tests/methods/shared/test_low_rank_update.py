"""The one low-rank update: its weight, merging and unmerging to the bit, copies, and what it leaves to its layer."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, has_update, updates

FORMS = {
    "beside a linear layer": (lambda: nn.Linear(8, 6), Form(2, 0.5, "input"), (3, 8)),
    "with dropout and drop-path": (lambda: nn.Linear(8, 6), Form(2, 0.5, "input", dropout=0.5, drop_path=0.5), (3, 8)),
    "of a linear weight": (lambda: nn.Linear(8, 6), Form(2, 0.5, "weight", fused=True), (3, 8)),
    "read from a linear layer": (lambda: nn.Linear(8, 6), Form(2, 0.5, "read"), (3, 8)),
    "beside a convolution": (lambda: nn.Conv2d(4, 6, 3), Form(2, 0.5, "input", fused=True), (3, 4, 7, 7)),
    "beside a grouped one": (lambda: nn.Conv2d(4, 6, 3, groups=2), Form(2, 0.5, "input"), (3, 4, 7, 7)),
    "of a convolution's weight": (lambda: nn.Conv2d(4, 6, 3), Form(2, 0.5, "weight", fused=True), (3, 4, 7, 7)),
    "of its authors": (lambda: nn.Conv2d(4, 6, 3), Form(2, 0.5, "read", kernel_rows=True), (3, 4, 7, 7)),
}


def tuned(case):
    torch.manual_seed(0)
    make, form, shape = FORMS[case]
    layer = make().requires_grad_(False)
    update = LowRankUpdate.add(layer, form)
    nn.init.normal_(layer.lora_b)
    return layer.eval(), update, torch.randn(shape)


@pytest.mark.parametrize("case", FORMS)
def test_the_layer_computes_with_the_sum_of_weight_and_delta(case):
    layer, update, x = tuned(case)
    plain = FORMS[case][0]()
    plain.load_state_dict({"weight": update.frozen + update.delta(), "bias": layer.bias})
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight, plain.weight)


@pytest.mark.parametrize("case", FORMS)
def test_unmerging_restores_the_very_bits(case):
    layer, update, x = tuned(case)
    kind, before = type(layer), dict(layer.named_parameters())
    bits, out = {n: p.clone() for n, p in before.items()}, layer(x)
    for _ in range(2):
        update.merge()
        assert type(layer) is kind.plain_class
        assert list(dict(layer.named_parameters())) == ["weight", "bias"]
        assert not has_update(layer)
        assert not layer.weight.requires_grad
        torch.testing.assert_close(layer(x), out, rtol=1e-4, atol=1e-5)
        assert torch.equal(before["weight"], bits["weight"])
        update.unmerge()
        assert type(layer) is kind
        assert list(dict(layer.named_parameters())) == list(before)
        assert all(p is before[n] and torch.equal(p, bits[n]) for n, p in layer.named_parameters())
        assert torch.equal(layer(x), out)


def test_a_mask_comes_back_with_the_update():
    layer = nn.Linear(8, 6).requires_grad_(False)
    mask = torch.rand(layer.weight.shape) < 0.5
    update = LowRankUpdate.add(layer, Form(2, path="read", fused=True), mask)
    nn.init.normal_(layer.lora_b)
    before = layer.weight.clone()
    assert torch.equal(update.delta() != 0, mask)
    update.merge()
    assert not dict(layer.named_buffers())
    update.unmerge()
    assert torch.equal(layer.weight, before)


def test_merging_twice_and_unmerging_before_is_refused():
    _, update, _ = tuned("of a linear weight")
    with pytest.raises(RuntimeError, match="not merged"):
        update.unmerge()
    update.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        update.merge()


@pytest.mark.parametrize("case", FORMS)
def test_a_copy_has_an_update_of_its_own(case):
    layer, update, x = tuned(case)
    other = copy.deepcopy(layer)
    assert torch.equal(other(x), layer(x))
    nn.init.zeros_(other.lora_b)
    assert update.b.abs().sum() > 0
    assert not torch.equal(other(x), layer(x))


def test_a_layer_with_an_update_is_freed_with_its_last_user():
    layer, update, _ = tuned("beside a linear layer")
    known = weakref.ref(layer)
    gc.disable()
    try:
        del layer, update
        assert known() is None
    finally:
        gc.enable()


def test_the_updates_of_a_net_are_those_of_its_layers():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    LowRankUpdate.add(net[2], Form(2))
    assert [u.layer for u in updates(net)] == [net[2]]
