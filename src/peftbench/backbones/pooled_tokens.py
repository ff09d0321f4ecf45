"""Which tokens a model pools: what `global_pool` says is not what every model does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peftbench.backbones.cut import replay_tail
from peftbench.backbones.facts import Facts


def pooled_tokens(net: Any, facts: Facts, kind: str) -> frozenset[int]:
    """The tokens of the last tap, by position, that the pooled features depend on where `global_pool` is `kind`.

    They are those that get a gradient, with random weights in the tail and in what pools; the model's own, which may
    not be there, are not touched.

    Args:
        net: the timm model; the last tap is tokens (NLC).
        facts: its facts.
        kind: `token` or `avg`.
    """
    random = torch.Generator().manual_seed(0)

    def values(shape: torch.Size | tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=random, device="cpu") + 0.5

    behind = [f"net.{name}." for name in (*facts.tail, *facts.pools)]
    model = _Pooling(net, facts)
    tensors = {
        n: values(t.shape)
        for n, t in (*model.named_parameters(), *model.named_buffers())
        if n.startswith(tuple(behind)) and t.is_floating_point()
    }
    before = net.global_pool
    try:
        net.global_pool = kind
        with torch.enable_grad():
            tokens = values((1, *facts.taps[-1].shape)).requires_grad_()
            features = functional_call(model, tensors, (tokens,))
            (gradient,) = torch.autograd.grad((features * values(features.shape)).sum(), tokens)
    finally:
        net.global_pool = before
    return frozenset(gradient[0].any(-1).nonzero()[:, 0].tolist())


class _Pooling(nn.Module):
    """From the last tap to pooled features."""

    def __init__(self, net: Any, facts: Facts) -> None:
        super().__init__()
        self.net, self.facts = net, facts

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = replay_tail(self.net, self.facts.tail, self.facts.reshaped, tokens)
        features: Tensor = self.net.forward_head(tokens, pre_logits=True)
        return features
