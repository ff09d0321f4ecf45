"""What is added to a backbone merges into its weights exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from peftbench import deltas
from peftbench.backbones import Backbone
from peftbench.methods.base import Method


def assert_it_merges(
    method: Method,
    before: Backbone,
    adapted: Backbone,
    images: Tensor,
    features: Callable[[Backbone, Tensor], Tensor],
    randomized: Callable[[Backbone], Backbone],
) -> None:
    """It starts as the backbone to the bit, and with random numbers computes the same merged as beside the weights.

    Args:
        before: as it was; `adapted` is a copy that the method has adapted.
        features: of a backbone for images.
        randomized: gives what was added random numbers of the weights' own size.
    """
    assert torch.equal(features(adapted, images), features(before, images))
    for kind, limit in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        one = randomized(copy.deepcopy(adapted).to(kind))
        beside = features(one, images.to(kind))
        assert not torch.allclose(beside, features(before, images).to(kind), rtol=0.1)
        method.merge(one)
        deltas.drop_cached_values(one)
        assert set(one.state_dict()) == set(before.state_dict())
        assert [type(m) for m in one.modules()] == [type(m) for m in before.modules()]
        assert (features(one, images.to(kind)) - beside).abs().max() <= limit * beside.abs().max()
