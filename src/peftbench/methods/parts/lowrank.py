"""LoSA's recursion without norms, kept in low-rank form, for one side net or several over the same taps.

Without a norm every y_i is y_0 plus a sum of rank-r parts, y_i = y_0 + sum_j H_j U_j + V_j T_j, so a mixer's
projection of b_i + y needs one read of b_i and products of r-sized matrices; no y_i is ever written out. Each tap is
kept for backward once, in its own precision, and nothing else of its size is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Project(torch.autograd.Function):
    """(b, C, W) -> b C^T (B, n, k) and W b (B, m, d), for a tap b (B, n, d), C (k, d) and W (m, n).

    The tap may be of half precision; products are in the precision of the weights, and no gradient goes to it.
    """

    @staticmethod
    def forward(ctx: Any, b: Tensor, channel: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(b)
        ctx.sizes = len(channel), len(token)
        wide = b.to(channel.dtype)
        along = F.linear(wide, channel) if len(channel) else wide.new_empty((*b.shape[:2], 0))
        across = torch.matmul(token, wide) if len(token) else wide.new_empty((len(b), 0, b.shape[2]))
        return along, across

    @staticmethod
    def backward(ctx: Any, along: Tensor, across: Tensor) -> tuple[None, Tensor | None, Tensor | None]:  # type: ignore[override]
        (b,) = ctx.saved_tensors
        wide = b.to(along.dtype)
        channels, tokens = ctx.sizes
        channel = token = None
        if channels:
            channel = along.reshape(-1, channels).t() @ wide.reshape(-1, wide.shape[-1])
        elif ctx.needs_input_grad[1]:
            channel = along.new_zeros((0, b.shape[2]))
        if tokens:
            token = torch.bmm(across.contiguous(), wide.transpose(1, 2)).sum(0)
        elif ctx.needs_input_grad[2]:
            token = across.new_zeros((0, b.shape[1]))
        return None, channel, token


def refine(
    taps: Sequence[Tensor],
    start: Tensor,
    order: Sequence[str],
    down: dict[str, Tensor],
    up: dict[str, Tensor],
    lifts: dict[int, Tensor],
    first: bool,
) -> Tensor:
    """y_L (K, B, n, d) of K side nets; only its first token (K, B, 1, d) where `first`.

    Args:
        taps: b_i (B, n, C_i).
        start: y_0 (B, n, d).
        order: the mixers, `channel` or `token`, as they follow each other.
        down, up: (K, L, r, size) and (K, L, size, r) of each mixer.
        lifts: (K, r, C_i) for the layers whose tap is of another width.
    """
    k, depth = next(iter(down.values())).shape[:2]
    n, d = start.shape[1:]
    none_c, none_t = start.new_empty((0, d), dtype=torch.float32), start.new_empty((0, n), dtype=torch.float32)

    def rows(weight: Tensor) -> Tensor:
        return weight.reshape(-1, weight.shape[-1])

    def split(along: Tensor, across: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """(K, layers, B, n, r) and (K, layers, B, r, d) of stacked projections."""
        along = along.unflatten(-1, (k, layers, -1)).permute(2, 3, 0, 1, 4)
        return along, across.unflatten(1, (k, layers, -1)).permute(1, 2, 0, 3, 4)

    every_c = rows(down["channel"]) if "channel" in down else none_c
    every_t = rows(down["token"]) if "token" in down else none_t
    base_c, base_t = split(*Project.apply(start, every_c, every_t), depth)
    h: list[Tensor] = []
    u: list[Tensor] = []
    v: list[Tensor] = []
    t: list[Tensor] = []
    for i, b in enumerate(taps):
        lifted = i in lifts
        weight_c = rows(lifts[i] if lifted else down["channel"][:, i]) if "channel" in down else none_c
        if lifted:
            along, _ = Project.apply(b, weight_c, b.new_empty((0, b.shape[1]), dtype=torch.float32))
            across = along.new_empty((len(b), 0, d))
        else:
            weight_t = rows(down["token"][:, i]) if "token" in down else none_t
            along, across = Project.apply(b, weight_c, weight_t)
        own_c, own_t = split(along, across, 1)
        for name in order:
            w = down[name][:, i]
            if name == "channel":
                p = base_c[:, i] + own_c[:, 0]
                if h:
                    p = p + torch.cat(h, -1) @ (torch.cat(u, 1) @ w.mT)[:, None]
                if t:
                    p = p + torch.cat(v, -1)[:, None] @ (torch.cat(t, 2) @ w.mT[:, None])
                h.append(F.gelu(p))
                u.append(up["channel"][:, i].mT)
            else:
                q = base_t[:, i] if lifted else base_t[:, i] + own_t[:, 0]
                if h:
                    q = q + (w[:, None] @ torch.cat(h, -1)) @ torch.cat(u, 1)[:, None]
                if t:
                    q = q + (w @ torch.cat(v, -1))[:, None] @ torch.cat(t, 2)
                t.append(F.gelu(q))
                v.append(up["token"][:, i])
    seen = slice(0, 1) if first else slice(None)
    y = start[:, seen].float()[None]
    if h:
        y = y + torch.cat(h, -1)[:, :, seen] @ torch.cat(u, 1)[:, None]
    if t:
        y = y + torch.cat(v, -1)[:, None, seen] @ torch.cat(t, 2)
    return y
