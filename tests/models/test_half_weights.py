"""Frozen weights are cast once under bf16, and nothing else changes."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.models.half_weights import half_weights
from support.batches import batch
from support.models import adapted_model


class Casts(TorchDispatchMode):
    """Counts copies to bf16 of what is of a frozen parameter's shape and values."""

    def __init__(self, frozen):
        super().__init__()
        self.frozen, self.count = {p.data_ptr() for p in frozen}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.frozen:
            self.count += 1
        return func(*args, **(kwargs or {}))


def step(model, images, labels):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss((images, labels))
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.trainable()}


@pytest.mark.parametrize(("method", "family"), [("bitfit", "vit"), ("losa", "vit"), ("linear", "cnn")])
def test_steps_have_the_same_bits_and_cast_frozen_weights_once(method, family):
    model = adapted_model(method, family).train()
    images, labels = batch()
    expected = step(model, images, labels)
    names, files = [n for n, _ in model.named_modules()], model.state_dict().keys()
    frozen = [p for p in model.backbone.parameters() if not p.requires_grad and p.ndim > 1]
    with half_weights(model):
        for casts in (True, False):
            with Casts(frozen) as seen:
                loss, gradients = step(model, images, labels)
            assert bool(seen.count) is casts
            assert torch.equal(loss, expected[0])
            assert all(torch.equal(g, expected[1][n]) for n, g in gradients.items())
        assert [n for n, _ in model.named_modules()] == names
        assert model.state_dict().keys() == files
    with Casts(frozen) as seen:
        step(model, images, labels)
    assert seen.count  # it is as it was


def test_a_weight_that_changes_or_trains_is_seen():
    layer = torch.nn.Linear(4, 3).requires_grad_(False)
    x = torch.randn(2, 4)
    with half_weights(layer), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        layer.weight.mul_(2.0)
        layer.bias.mul_(2.0)
        assert torch.equal(layer(x), 2 * before)
        twin = copy.deepcopy(layer)
        twin.weight.zero_()
        assert not torch.equal(twin(x), layer(x))
        layer.weight.requires_grad_(True)
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
