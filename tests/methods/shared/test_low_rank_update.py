"""The one low-rank update: its weight, merging and unmerging to the bit, copies, and what it leaves to its layer."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import peftbench
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, has_update, input_path_fits, updates

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


class Scaled(nn.Linear):
    """A layer with attributes of its own and a forward of its own."""

    def __init__(self):
        super().__init__(8, 6)
        self.scale, self.gain = 3.0, nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale * self.gain, self.bias)


def test_an_update_hides_no_attribute_of_the_layer():
    torch.manual_seed(0)
    layer, x = Scaled(), torch.randn(3, 8)
    assert not input_path_fits(layer)
    plain, held = layer(x), {*vars(layer), *layer._parameters}
    update = LowRankUpdate.add(layer, Form(2, 0.5, "read"))
    assert torch.equal(layer(x), plain)
    assert (layer.scale, layer.gain.item()) == (3.0, 0.5)
    assert {*vars(layer), *layer._parameters} - held == {"lora_a", "lora_b", "lora_form"}
    nn.init.normal_(layer.lora_b)
    beside = layer(x)
    assert not torch.allclose(beside, plain)
    update.merge()
    torch.testing.assert_close(layer(x), beside)


@pytest.mark.parametrize("taken", ["lora_a", "lora_form", "plain_class"])
def test_a_layer_with_an_attribute_of_our_names_is_refused_by_its_name(taken):
    layer = nn.Linear(8, 6)
    setattr(layer, taken, 1)
    with pytest.raises(peftbench.Refusal, match=rf"layer blocks\.0: a Linear has an attribute {taken} of its own"):
        LowRankUpdate.add(layer, Form(2), name="blocks.0")
    assert type(layer) is nn.Linear
    assert getattr(layer, taken) == 1
