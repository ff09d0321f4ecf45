"""The mathematics of LoSA's side path: low-rank mixers and the recursion over taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AXIS = {"channel": -1, "token": -2, "space": -2, "time": -3}


class Mixer(nn.Module):
    """Bottlenecks of rank r along one axis, one for each of L layers: up(GELU(down(x))).

    `down` (L, r, size) and `up` (L, size, r); with `bias` also (L, r) and (L, size). `up` starts at zero.
    """

    def __init__(self, depth: int, size: int, rank: int, bias: bool, init: str) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(depth, rank, size))
        self.up = nn.Parameter(torch.zeros(depth, size, rank))
        self.down_bias = nn.Parameter(torch.zeros(depth, rank)) if bias else None
        self.up_bias = nn.Parameter(torch.zeros(depth, size)) if bias else None
        for layer in self.down:
            if init == "kaiming":
                nn.init.kaiming_uniform_(layer, a=5**0.5)
            else:
                nn.init.trunc_normal_(layer, std=0.02)


class Norms(nn.Module):
    """One layer norm before each mixer of each layer: none, without affine parameters, or with them (L, M, d)."""

    def __init__(self, kind: str, depth: int, mixers: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(depth, mixers, width)) if kind == "ln" else None
        self.bias = nn.Parameter(torch.zeros(depth, mixers, width)) if kind == "ln" else None

    def forward(self, x: Tensor, layer: int, mixer: int) -> Tensor:
        if self.kind == "none":
            return x
        if self.weight is None or self.bias is None:
            return F.layer_norm(x, x.shape[-1:])
        return F.layer_norm(x, x.shape[-1:], self.weight[layer, mixer], self.bias[layer, mixer])


def refine(
    taps: Sequence[Tensor],
    start: Tensor,
    mixers: nn.ModuleDict,
    norms: Norms,
    lifts: nn.ParameterDict,
    frames: int | None = None,
) -> Tensor:
    """y_L of the recursion: taps b_i (B, n, C_i) and y_0 (B, n, d) give y_L (B, n, d).

    With `frames` T the batch is of B T frames, clip after clip.
    """
    y = start
    for i, b in enumerate(taps):
        lift = lifts.get(str(i), None)
        x = y if lift is not None else b + y
        if lift is not None:
            b = F.layer_norm(b, b.shape[-1:]) if norms.kind != "none" else b
        delta: Tensor | None = None
        for m, (name, mixer) in enumerate(mixers.items()):
            u = norms(x if delta is None else x + delta, i, m)
            extra = F.linear(b, lift) if lift is not None and name == "channel" else None
            step = _mix(u, cast(Mixer, mixer), i, AXIS[name], frames, extra)
            delta = step if delta is None else delta + step
        assert delta is not None
        y = y + delta
    return y


def _mix(u: Tensor, mixer: Mixer, layer: int, axis: int, frames: int | None, extra: Tensor | None) -> Tensor:
    if axis == -3:
        assert frames is not None
        u = u.unflatten(0, (-1, frames))
        u = u.transpose(1, 3)  # (B, d, n, T)
        out = _bottleneck(u, mixer, layer, None).transpose(1, 3)
        return out.flatten(0, 1)
    if axis == -2:
        return _bottleneck(u.transpose(1, 2), mixer, layer, None).transpose(1, 2)
    return _bottleneck(u, mixer, layer, extra)


def _bottleneck(u: Tensor, mixer: Mixer, layer: int, extra: Tensor | None) -> Tensor:
    down, up = mixer.down_bias, mixer.up_bias
    hidden = F.linear(u, mixer.down[layer], None if down is None else down[layer])
    if extra is not None:
        hidden = hidden + extra
    return F.linear(F.gelu(hidden), mixer.up[layer], None if up is None else up[layer])
