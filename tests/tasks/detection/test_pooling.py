"""Pooling of regions equals torchvision's operator."""

from __future__ import annotations

import pytest
import torch

from peftbench.tasks.detection.pooling import Pooling


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (7, 14, 28)])
def test_pooling_equals_torchvisions_operator(strides):
    g = torch.Generator().manual_seed(0)
    side = strides[-1] * 8
    maps = {
        str(i): torch.randn(2, 5, side // s, side // s, generator=g, requires_grad=True) for i, s in enumerate(strides)
    }
    corners = torch.rand(2, 60, 2, generator=g) * side * 1.1 - 0.05 * side  # also outside, and empty
    boxes = list(torch.cat([corners, corners + torch.rand(2, 60, 2, generator=g) ** 3 * side], 2))
    boxes[0][0] = torch.tensor([5.0, 5, 5, 5])
    weights = torch.randn(120, 5, 7, 7, generator=g)
    found = []
    pooling = Pooling(strides)
    for pool in (pooling, super(Pooling, pooling)):
        pooled = pool.forward(maps, boxes, [(side, side)] * 2)
        found.append([pooled, *torch.autograd.grad((pooled * weights).sum(), list(maps.values()))])
    for ours, peers in zip(*found, strict=True):
        assert torch.allclose(ours, peers, atol=1e-3)
    assert found[0][0].abs().sum() > 0
    nothing = pooling(maps, [torch.zeros(0, 4)] * 2, [(side, side)] * 2)
    assert nothing.shape == (0, 5, 7, 7)
