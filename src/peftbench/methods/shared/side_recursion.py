"""LoSA's recursion without norms, kept in low-rank form, for one side net or several over the same taps.

Per side net let dc_i (r, d) and dt_i (r, n) be the down-projections of layer i's channel and token mixers, U_i (r, d)
and V_i (n, r) their up-projections. Without a norm, what a mixer of layer i reads is b_i + y_0 + sum_j h_j U_j +
sum_j V_j t_j over all mixers j that worked before it, and so

    p_i = (b_i + y_0) dc_i^T + sum_j h_j (U_j dc_i^T) + sum_j V_j (t_j dc_i^T),    h_i = GELU(p_i)  (n, r)
    q_i = dt_i (b_i + y_0) + sum_j (dt_i h_j) U_j + sum_j (dt_i V_j) t_j,          t_i = GELU(q_i)  (r, d)
    y_L = y_0 + sum_j h_j U_j + sum_j V_j t_j

No y_i is written out, each tap is read once forward and once backward, and a layer costs products of rank-r matrices.

The adjoint is the same recursion with the layers in reverse and `down` and `up` exchanged: with x' the gradient of x,

    h'_j = y' U_j^T + sum_i p'_i (dc_i U_j^T) + sum_i dt_i^T (q'_i U_j^T),         p'_j = h'_j GELU'(p_j)

and likewise t'_j and q'_j, over all mixers i that work after j. `sweep_layers` serves both. The gradients of the
weights are then products over all pairs of layers at once, in `_weight_gradients`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftbench.methods.shared.side_sweep import Layer, State, Weights, sweep_layers

# Taps are converted a part of the batch at a time: fresh memory costs more than the sums, on a GPU more kernels do.
SCRATCH_BYTES = {"cpu": 8 << 20}
SCRATCH_BYTES_ELSEWHERE = 64 << 20


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
    assert not any(b.requires_grad for b in (start, *taps))
    some = next(iter(down.values()))
    for name, size in (("channel", start.shape[2]), ("token", start.shape[1])):
        if name not in down:
            none = some.new_empty((*some.shape[:2], 0, size))
            down, up = {**down, name: none}, {**up, name: none.mT}
    weights = down["channel"], down["token"], up["channel"], up["token"]
    settings = tuple(order), tuple(lifts), first, torch.is_grad_enabled()
    out: Tensor = Recursion.apply(settings, start, *weights, *lifts.values(), *taps)
    return out


class Recursion(torch.autograd.Function):
    """`refine` on tensors: start, the down- (K, L, r, size) and up-projections (K, L, size, r), lifts, taps."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], start: Tensor, *tensors: Tensor) -> Tensor:
        order, lifted, first, keep = settings
        dc, dt, uc, ut = tensors[:4]
        lifts, taps = dict(zip(lifted, tensors[4:], strict=False)), tensors[4 + len(lifted) :]
        taps_read = Taps(taps, start, dc.dtype)
        channel, token = _layers(dc), _layers(dt)
        before: list[Layer] = []

        def enter(i: int) -> Layer:
            layer = taps_read.project(i, channel[i], token[i], lifts.get(i), len(dc))
            if keep:
                before.append(layer)
            return layer

        down, up = _rows(dc, dt, uc, ut)
        state = sweep_layers(down, up, order, len(taps), len(start), enter, lambda name, i, x: F.gelu(x))
        if keep:
            shared = next((i for i, b in enumerate(taps) if b is start), None)
            rest = () if shared is not None else (start,)
            ctx.save_for_backward(*tensors, *state, *(x for layer in before for x in layer), *rest)
            ctx.settings = order, lifted, first, shared
        k, (b, _, d) = len(dc), start.shape
        n = 1 if first else start.shape[1]
        y = taps_read.start[:n].expand(k, n, b, d).clone(memory_format=torch.contiguous_format)
        y.view(k, n * b, d).baddbmm_(state.h[:, : n * b], up.channel)
        y.view(k, n, b * d).baddbmm_(up.token[..., :n].mT, state.t)
        return y.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        order, lifted, first, shared = ctx.settings
        saved: Iterator[Tensor] = iter(ctx.saved_tensors)
        dc, dt, uc, ut = (next(saved) for _ in range(4))
        depth = dc.shape[1]
        lifts = {i: next(saved) for i in lifted}
        taps = [next(saved) for _ in range(depth)]
        state = State(*(next(saved) for _ in State._fields))
        before = [Layer(next(saved), next(saved)) for _ in range(depth)]
        start = taps[shared] if shared is not None else next(saved)
        taps_read = Taps(taps, start, dc.dtype)
        down, up = _rows(dc, dt, uc, ut)
        k, (b, all_n, d) = len(dc), start.shape
        n = 1 if first else all_n
        y = gradient.transpose(1, 2).contiguous()
        along, across = y.view(k, n * b, d), y.view(k, n, b * d)
        channel, token = torch.zeros_like(_layers(dc)), torch.zeros_like(_layers(dt))
        glifts = {i: w.new_zeros(w.shape) for i, w in lifts.items()}

        def enter(i: int) -> Layer:
            p = torch.bmm(along, uc[:, i]).view(k, n, b, uc.shape[-1])
            q = torch.bmm(ut[:, i, :n].mT, across).view(k, ut.shape[-1], b, d)
            return Layer(F.pad(p, (0, 0, 0, 0, 0, all_n - 1)) if first else p, q)

        def react(name: str, i: int, x: Tensor) -> Tensor:
            return torch.ops.aten.gelu_backward(x, getattr(before[i], name))

        def leave(i: int, layer: Layer) -> None:
            taps_read.add_gradients(i, layer, channel[i], token[i], glifts.get(i))

        back = sweep_layers(up, down, order[::-1], depth, b, enter, react, leave, backwards=True)
        gdc, gdt, guc, gut = _weight_gradients(state, back, down, up, depth, b)
        guc.baddbmm_(state.h[:, : n * b].mT, along)
        gut[..., :n].baddbmm_(state.t, across.mT)
        gdc = gdc.view(dc.shape) + channel.view(depth, k, dc.shape[2], d).transpose(0, 1)
        gdt = gdt.view(dt.shape) + token.view(depth, k, dt.shape[2], all_n).transpose(0, 1)
        up_gradients = guc.view(uc.mT.shape).mT, gut.view(ut.mT.shape).mT
        return None, None, gdc, gdt, *up_gradients, *glifts.values(), *(None for _ in taps)


class Taps:
    """b_i + y_0 of all layers as (n, B, d) in the precision of the weights, for a few images at a time."""

    def __init__(self, taps: Sequence[Tensor], start: Tensor, dtype: torch.dtype) -> None:
        self.taps = taps
        self.start = start.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format)
        n, batch, d = self.start.shape
        space = SCRATCH_BYTES.get(start.device.type, SCRATCH_BYTES_ELSEWHERE)
        step = max(1, min(batch, space // (n * d * dtype.itemsize)))
        self.parts = [slice(lo, min(lo + step, batch)) for lo in range(0, batch, step)]
        self.scratch = self.start.new_empty(n * step * d)

    def read(self, i: int, lifted: bool) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(images, b_i + y_0, None) for every few images; y_0 and b_i apart where `lifted`. Valid until the next."""
        for images in self.parts:
            start, tap = self.start[:, images], self.taps[i][images].transpose(0, 1)
            if lifted:
                yield images, start.contiguous(), tap.to(start.dtype).contiguous()
            else:
                x = self.scratch[: start.numel()].view(start.shape)
                yield images, x.copy_(tap).add_(start), None

    def project(self, i: int, dc: Tensor, dt: Tensor, lift: Tensor | None, k: int) -> Layer:
        """(b_i + y_0) dc^T and dt (b_i + y_0) for dc (K r, d) and dt (K r, n) of K nets."""
        (n, batch, d), rc = self.start.shape, len(dc) // k
        channel, token = dc.new_empty((k, n, batch, rc)), dc.new_empty((len(dt), batch * d))
        for images, x, b in self.read(i, lift is not None):
            p = torch.mm(x.view(-1, d), dc.t())
            if b is not None and lift is not None:
                p.addmm_(b.flatten(0, 1), lift.flatten(0, 1).t())
            channel[:, :, images] = p.view(n, x.shape[1], k, rc).permute(2, 0, 1, 3)
            torch.mm(dt, x.view(n, -1), out=token[:, images.start * d : images.stop * d])
        return Layer(channel, token.view(k, len(dt) // k, batch, d))

    def add_gradients(self, i: int, layer: Layer, dc: Tensor, dt: Tensor, lift: Tensor | None) -> None:
        """Adds the gradients of `project`'s weights, given those of its results."""
        n, batch, d = self.start.shape
        token = layer.token.view(len(dt), batch * d)
        for images, x, b in self.read(i, lift is not None):
            p = layer.channel[:, :, images].permute(1, 2, 0, 3).reshape(n * x.shape[1], len(dc)).t()
            dc.addmm_(p, x.view(-1, d))
            dt.addmm_(token[:, images.start * d : images.stop * d], x.view(n, -1).t())
            if b is not None and lift is not None:
                lift.view(len(dc), -1).addmm_(p, b.flatten(0, 1))


def _layers(weight: Tensor) -> Tensor:
    """(L, K r, size) of (K, L, r, size)."""
    return weight.transpose(0, 1).flatten(1, 2)


def _rows(dc: Tensor, dt: Tensor, uc: Tensor, ut: Tensor) -> tuple[Weights, Weights]:
    down = Weights(dc.flatten(1, 2), dt.flatten(1, 2))
    return down, Weights(uc.mT.flatten(1, 2), ut.mT.flatten(1, 2))


def _weight_gradients(
    state: State, back: State, down: Weights, up: Weights, depth: int, batch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of both Weights, without the terms of taps, start and output, from the sweeps there and back."""

    def earlier(pairs: Tensor) -> Tensor:
        """Zero but where the column's layer comes before the row's."""
        layer = torch.arange(pairs.shape[-1], device=pairs.device) // max(1, pairs.shape[-1] // depth)
        return pairs * (layer[:, None] > layer)

    def channel(pairs: Tensor, other: Tensor, a: Tensor, t: Tensor) -> Tensor:
        k, rows, _ = a.shape
        return torch.baddbmm(torch.bmm(a.mT, t.view(k, rows, other.shape[2])), pairs, other)

    def token(pairs: Tensor, other: Tensor, c: Tensor, h: Tensor) -> Tensor:
        k, rt, n = other.shape
        return torch.baddbmm(
            torch.bmm(c.view(k, rt, batch * c.shape[2]), h.view(k, n, batch * c.shape[2]).mT), pairs, other
        )

    channels = earlier(torch.bmm(back.h.mT, state.h))  # p'_i^T h_j
    tokens = earlier(torch.bmm(back.t, state.t.mT))  # q'_i t_j^T
    return (
        channel(channels, up.channel, back.a, state.t),
        token(tokens, up.token, back.c, state.h),
        channel(channels.mT, down.channel, state.a, back.t),
        token(tokens.mT, down.token, state.c, back.h),
    )
