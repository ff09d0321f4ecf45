"""LoSA's recursion without norms, kept in low-rank form, for one side net or several over the same taps.

Per side net let dc_i (r, d) and dt_i (r, n) be the down-projections of layer i's channel and token mixers, U_i (r, d)
and V_i (n, r) their up-projections. Without a norm, what a mixer of layer i reads is x = b_i + y_0 + sum_j h_j U_j +
sum_j V_j t_j over all mixers j that worked before it, and so

    p_i = (b_i + y_0) dc_i^T + sum_j h_j (U_j dc_i^T) + sum_j V_j (t_j dc_i^T),    h_i = GELU(p_i)  (n, r)
    q_i = dt_i (b_i + y_0) + sum_j (dt_i h_j) U_j + sum_j (dt_i V_j) t_j,          t_i = GELU(q_i)  (r, d)
    y_L = y_0 + sum_j h_j U_j + sum_j V_j t_j

No y_i is written out, each tap is read once forward and once backward, and a layer costs products of rank-r matrices.

The adjoint is the same recursion with the layers in reverse and `down` and `up` exchanged: with p'_i, q'_i the
gradients of p_i, q_i, and h'_i of h_i,

    h'_j = y' U_j^T + sum_i p'_i (dc_i U_j^T) + sum_i dt_i^T (q'_i U_j^T),         p'_j = h'_j GELU'(p_j)

and likewise t'_j, over all mixers i that work after j. `_sweep` serves both. The gradients of the weights are then
products over all pairs of layers at once (`_weight_gradients`).

Layouts, for K nets, R = L r: h (K, n, B, R), t (K, R, B, d), weights (K, R, size). With the batch inside, every
product of the sweeps is one matrix product per net, without a transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Scratch space for a few images of a tap: on a CPU it stays in the cache, on a GPU it bounds memory.
SCRATCH_BYTES = {"cpu": 5 << 18}
SCRATCH_BYTES_ELSEWHERE = 64 << 20

React = Callable[[str, int, Tensor], Tensor]


class Weights(NamedTuple):
    """Down- or up-projections of all layers: channel (K, R_c, d) and token (K, R_t, n)."""

    channel: Tensor
    token: Tensor


class State(NamedTuple):
    """What a sweep leaves: h, t, and the products of the token and channel mixers with each other.

    `a` (K, R_t, B, R_c) holds dt_i h_j where token mixer i works after channel mixer j, `c` of the same shape
    t_i dc_j^T where it works before; both are zero elsewhere.
    """

    h: Tensor
    t: Tensor
    a: Tensor
    c: Tensor


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

    Taps and start may be of half precision; all sums are in the precision of the weights. They get no gradient.

    Args:
        taps: b_i (B, n, C_i).
        start: y_0 (B, n, d).
        order: the mixers, `channel` or `token`, as they follow each other.
        down, up: (K, L, r, size) and (K, L, size, r) of each mixer.
        lifts: (K, r, C_i) for the layers whose tap is of another width: there b_i enters only p_i, as b_i lift^T.
    """
    assert not start.requires_grad and not any(b.requires_grad for b in taps)
    some = next(iter(down.values()))
    sizes = {"channel": start.shape[2], "token": start.shape[1]}
    absent = {m: some.new_empty((*some.shape[:2], 0, size)) for m, size in sizes.items() if m not in down}
    weights = [{**down, **absent}[m] for m in sizes] + [
        {**up, **{a: w.mT for a, w in absent.items()}}[m] for m in sizes
    ]
    settings = tuple(order), tuple(lifts), first, torch.is_grad_enabled()
    out: Tensor = Recursion.apply(settings, start, *weights, *lifts.values(), *taps)  # type: ignore[no-untyped-call]
    return out


class Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], start: Tensor, *tensors: Tensor) -> Tensor:
        order, lifted, first, keep = settings
        dc, dt, uc, ut = tensors[:4]
        lifts, taps = dict(zip(lifted, tensors[4:], strict=False)), tensors[4 + len(lifted) :]
        depth = len(taps)
        down, up = Weights(dc.flatten(1, 2), dt.flatten(1, 2)), Weights(uc.mT.flatten(1, 2), ut.mT.flatten(1, 2))
        h, t = _project(taps, start, dc, dt, lifts)
        before: dict[tuple[str, int], Tensor] = {}

        def activate(name: str, i: int, x: Tensor) -> Tensor:
            if keep:
                before[name, i] = x
            return F.gelu(x)

        state = _sweep(h, t, down, up, order, depth, activate, back=False)
        if keep:
            shared = next((i for i, b in enumerate(taps) if b is start), None)
            ctx.save_for_backward(*tensors, *state, *before.values(), *(() if shared is not None else (start,)))
            ctx.settings = order, lifted, first, shared, tuple(before), depth
        n = 1 if first else start.shape[1]
        k, rt, b, d = t.shape
        y = h.new_empty((k, n, b, d)).copy_(start[:, :n].transpose(0, 1))
        y.view(k, n * b, d).baddbmm_(h[:, :n].flatten(1, 2), up.channel)
        y.view(k, n, b * d).baddbmm_(up.token[..., :n].mT, t.view(k, rt, b * d))
        return y.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        order, lifted, first, shared, steps, depth = ctx.settings
        saved: Iterator[Tensor] = iter(ctx.saved_tensors)
        dc, dt, uc, ut = (next(saved) for _ in range(4))
        lifts = {i: next(saved) for i in lifted}
        taps = [next(saved) for _ in range(depth)]
        state = State(*(next(saved) for _ in State._fields))
        before = {step: next(saved) for step in steps}
        start = taps[shared] if shared is not None else next(saved)
        down, up = Weights(dc.flatten(1, 2), dt.flatten(1, 2)), Weights(uc.mT.flatten(1, 2), ut.mT.flatten(1, 2))

        k, all_n, b, rc = state.h.shape
        n, rt, d = (1 if first else all_n), state.t.shape[1], state.t.shape[3]
        along = gradient.transpose(1, 2).reshape(k, n * b, d)
        across = along.view(k, n, b * d)
        if first:
            h = state.h.new_zeros(state.h.shape)
            h[:, 0] = along @ up.channel.mT
        else:
            h = (along @ up.channel.mT).view(state.h.shape)
        t = (up.token[..., :n] @ across).view(state.t.shape)
        back = _sweep(
            h,
            t,
            up,
            down,
            order,
            depth,
            lambda name, i, x: torch.ops.aten.gelu_backward(x, before[name, i]),
            back=True,
        )
        gdc, gdt, guc, gut = _weight_gradients(state, back, down, up, depth)
        guc.baddbmm_(state.h[:, :n].reshape(k, n * b, rc).mT, along)
        gut[..., :n].baddbmm_(state.t.view(k, rt, b * d), across.mT)
        gdc, gdt = gdc.view(dc.shape), gdt.view(dt.shape)
        glifts = {i: torch.zeros_like(w) for i, w in lifts.items()}
        _project_gradients(taps, start, back, gdc, gdt, glifts)
        up_gradients = guc.view(uc.mT.shape).mT, gut.view(ut.mT.shape).mT
        return None, None, gdc, gdt, *up_gradients, *glifts.values(), *(None for _ in taps)




def _images(start: Tensor, dtype: torch.dtype) -> list[slice]:
    batch, n, d = start.shape
    space = SCRATCH_BYTES.get(start.device.type, SCRATCH_BYTES_ELSEWHERE)
    step = max(1, space // max(1, n * d * dtype.itemsize))
    return [slice(lo, min(lo + step, batch)) for lo in range(0, batch, step)]


def _inputs(
    taps: Sequence[Tensor], start: Tensor, lifts: dict[int, Tensor], dtype: torch.dtype
) -> Iterator[tuple[slice, int, Tensor, Tensor | None]]:
    """(images, i, x, b) for every few images and every layer: x = b_i + y_0 as (n, images, d).

    For a lift x is only y_0, and b is b_i (n, images, C_i); b is None otherwise. Each is valid until the next.
    """
    for images in _images(start, dtype):
        base = start[images].transpose(0, 1).to(dtype, memory_format=torch.contiguous_format, copy=True)
        scratch = torch.empty_like(base)
        for i, tap in enumerate(taps):
            b = tap[images].transpose(0, 1)
            if i in lifts:
                yield images, i, base, b.to(dtype).contiguous()
            else:
                yield images, i, scratch.copy_(b).add_(base), None


def _project(
    taps: Sequence[Tensor], start: Tensor, dc: Tensor, dt: Tensor, lifts: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """(b_i + y_0) dc_i^T of all layers (K, n, B, R_c) and dt_i (b_i + y_0) (K, R_t, B, d)."""
    (batch, n, d), (k, depth, rc), rt = start.shape, dc.shape[:3], dt.shape[2]
    h, t = dc.new_empty((k, n, batch, depth * rc)), dc.new_empty((k, depth * rt, batch, d))
    channel = [dc[:, i].reshape(k * rc, d).t() for i in range(depth)]
    token = [dt[:, i].reshape(k * rt, n) for i in range(depth)]
    for images, i, x, b in _inputs(taps, start, lifts, dc.dtype):
        p = x.flatten(0, 1) @ channel[i]
        if b is not None:
            p.addmm_(b.flatten(0, 1), lifts[i].flatten(0, 1).t())
        h[:, :, images, i * rc : (i + 1) * rc] = p.view(n, -1, k, rc).permute(2, 0, 1, 3)
        t[:, i * rt : (i + 1) * rt, images] = (token[i] @ x.flatten(1)).view(k, rt, -1, d)
    return h, t


def _project_gradients(
    taps: Sequence[Tensor], start: Tensor, back: State, gdc: Tensor, gdt: Tensor, glifts: dict[int, Tensor]
) -> None:
    """Adds to the gradients of `down` and the lifts what comes through the products with taps and start."""
    (_, n, d), (k, depth, rc), rt = start.shape, gdc.shape[:3], gdt.shape[2]
    channel, token = gdc.new_zeros((depth, k * rc, d)), gdt.new_zeros((depth, k * rt, n))
    for images, i, x, b in _inputs(taps, start, glifts, gdc.dtype):
        p = back.h[:, :, images, i * rc : (i + 1) * rc].permute(1, 2, 0, 3).reshape(-1, k * rc)
        channel[i].addmm_(p.t(), x.flatten(0, 1))
        token[i].addmm_(back.t[:, i * rt : (i + 1) * rt, images].reshape(k * rt, -1), x.flatten(1).t())
        if b is not None:
            glifts[i].flatten(0, 1).addmm_(p.t(), b.flatten(0, 1))
    gdc += channel.view(depth, k, rc, d).transpose(0, 1)
    gdt += token.view(depth, k, rt, n).transpose(0, 1)


def _sweep(
    h: Tensor, t: Tensor, down: Weights, up: Weights, order: Sequence[str], depth: int, react: React, back: bool
) -> State:
    """Runs the recursion in place: h (K, n, B, R_c) and t (K, R_t, B, d) come in without the sums over other mixers.

    `react` gives h_i of p_i, or t_i of q_i; `back` goes from the last mixer to the first.
    """
    (k, n, b, rc), (rt, d) = h.shape, (t.shape[1], t.shape[3])
    a, c = h.new_zeros((k, rt, b, rc)), h.new_zeros((k, rt, b, rc))
    channels, tokens = up.channel @ down.channel.mT, down.token @ up.token.mT  # U_j dc_i^T and dt_i V_j of all pairs
    steps = [(i, m) for i in range(depth) for m in order]
    for i, name in reversed(steps) if back else steps:
        split = i + (name == order[-1])  # the other mixer's layers up to here come first
        if name == "channel":
            r, other = rc // depth, rt // depth
        else:
            r, other = rt // depth, rc // depth
        own = slice(i * r, (i + 1) * r)
        past, done, to_do = slice(0, i * r), slice(0, split * other), slice(split * other, None)
        if back:
            past, done, to_do = slice((i + 1) * r, None), to_do, done
        if name == "channel":
            p = h[..., own].clone(memory_format=torch.contiguous_format)
            p.view(k, n * b, r).baddbmm_(h.view(k, n * b, rc)[..., past], channels[:, past, own])
            p.view(k, n, b * r).baddbmm_(up.token[:, done].mT, c[:, done, :, own].flatten(2))
            x = react(name, i, p)
            h[..., own] = x
            a[:, to_do, :, own] = (down.token[:, to_do] @ x.view(k, n, b * r)).unflatten(2, (b, r))
        else:
            q = t[:, own].clone(memory_format=torch.contiguous_format)
            q.view(k, r, b * d).baddbmm_(tokens[:, own, past], t.view(k, rt, b * d)[:, past])
            q.view(k, r * b, d).baddbmm_(a[:, own, :, done].flatten(1, 2), up.channel[:, done])
            x = react(name, i, q)
            t[:, own] = x
            c[:, own, :, to_do] = (x.view(k, r * b, d) @ down.channel[:, to_do].mT).unflatten(1, (r, b))
    return State(h, t, a, c)


def _weight_gradients(
    state: State, back: State, down: Weights, up: Weights, depth: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of both Weights, without the terms of taps, start and output, from the sweeps there and back."""
    (k, n, b, rc), (rt, d) = state.h.shape, (state.t.shape[1], state.t.shape[3])

    def earlier(pairs: Tensor) -> Tensor:
        """Zero but where column's layer comes before the row's."""
        layer = torch.arange(pairs.shape[-1], device=pairs.device) // max(1, pairs.shape[-1] // depth)
        return pairs * (layer[:, None] > layer)

    channels = earlier(back.h.view(k, n * b, rc).mT @ state.h.view(k, n * b, rc))  # p'_i^T h_j
    tokens = earlier(back.t.view(k, rt, b * d) @ state.t.view(k, rt, b * d).mT)  # q'_i t_j^T

    def channel(pairs: Tensor, other: Tensor, a: Tensor, t: Tensor) -> Tensor:
        return torch.baddbmm(a.view(k, rt * b, rc).mT @ t.view(k, rt * b, d), pairs, other)

    def token(pairs: Tensor, other: Tensor, c: Tensor, h: Tensor) -> Tensor:
        return torch.baddbmm(c.view(k, rt, b * rc) @ h.view(k, n, b * rc).mT, pairs, other)

    return (
        channel(channels, up.channel, back.a, state.t),
        token(tokens, up.token, back.c, state.h),
        channel(channels.mT, down.channel, state.a, back.t),
        token(tokens.mT, down.token, state.c, back.h),
    )
