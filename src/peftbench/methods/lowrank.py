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

and likewise t'_j and q'_j, over all mixers i that work after j. `_sweep` serves both. The gradients of the weights
are then products over all pairs of layers at once, in `_weight_gradients`.

Layouts, for K nets and R = L r: h (K, n, B, R), t (K, R, B, d), weights (K, R, size). With the batch inside, each
product is one matrix product per net, and needs no transpose of anything large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# A tap is converted a few images at a time: on a CPU they stay in its cache, elsewhere this only bounds memory.
SCRATCH_BYTES = {"cpu": 5 << 19}
SCRATCH_BYTES_ELSEWHERE = 64 << 20


class Weights(NamedTuple):
    """Down- or up-projections of all layers: channel (K, R_c, d) and token (K, R_t, n)."""

    channel: Tensor
    token: Tensor


class Layer(NamedTuple):
    """One layer's p and q, or their gradients: channel (K, n, B, r_c) and token (K, r_t, B, d)."""

    channel: Tensor
    token: Tensor


class State(NamedTuple):
    """What a sweep leaves: h, t, and the products of token with channel mixers.

    `a` (K, R_t, B, R_c) holds dt_i h_j for each token mixer i and the channel mixers j swept before it, `c` of the same
    shape t_i dc_j^T for those swept after it; the rest is zero.
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
    for name, size in (("channel", start.shape[2]), ("token", start.shape[1])):
        if name not in down:
            none = some.new_empty((*some.shape[:2], 0, size))
            down, up = {**down, name: none}, {**up, name: none.mT}
    weights = down["channel"], down["token"], up["channel"], up["token"]
    settings = tuple(order), tuple(lifts), first, torch.is_grad_enabled()
    out: Tensor = Recursion.apply(settings, start, *weights, *lifts.values(), *taps)  # type: ignore[no-untyped-call]
    return out


class Recursion(torch.autograd.Function):
    """`refine` on tensors: start, the down- (K, L, r, size) and up-projections (K, L, size, r), lifts, taps."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], start: Tensor, *tensors: Tensor) -> Tensor:
        order, lifted, first, keep = settings
        dc, dt, uc, ut = tensors[:4]
        lifts, taps = dict(zip(lifted, tensors[4:], strict=False)), tensors[4 + len(lifted) :]
        taps_read = Taps(taps, start, dc.dtype)
        before: list[Layer] = []

        def enter(i: int) -> Layer:
            layer = taps_read.project(i, dc[:, i], dt[:, i], lifts.get(i))
            if keep:
                before.append(layer)
            return layer

        down, up = _rows(dc, dt, uc, ut)
        state = _sweep(down, up, order, range(len(taps)), enter, lambda name, i, x: F.gelu(x), lambda i, layer: None)
        if keep:
            shared = next((i for i, b in enumerate(taps) if b is start), None)
            rest = () if shared is not None else (start,)
            ctx.save_for_backward(*tensors, *state, *(x for layer in before for x in layer), *rest)
            ctx.settings = order, lifted, first, shared
        k, rt, b, d = state.t.shape
        n = 1 if first else start.shape[1]
        y = taps_read.start[:n].expand(k, n, b, d).clone(memory_format=torch.contiguous_format)
        y.view(k, n * b, d).baddbmm_(state.h[:, :n].flatten(1, 2), up.channel)
        y.view(k, n, b * d).baddbmm_(up.token[..., :n].mT, state.t.view(k, rt, b * d))
        return y.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
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
        (k, all_n, b, rc), (rt, d) = state.h.shape, (state.t.shape[1], state.t.shape[3])
        n = 1 if first else all_n
        y = gradient.transpose(1, 2).contiguous()
        along, across = y.view(k, n * b, d), y.view(k, n, b * d)
        gdc, gdt, glifts = torch.zeros_like(dc), torch.zeros_like(dt), {i: torch.zeros_like(w) for i, w in lifts.items()}

        def enter(i: int) -> Layer:
            channel = (along @ uc[:, i]).view(k, n, b, uc.shape[-1])
            if first:
                channel = F.pad(channel, (0, 0, 0, 0, 0, all_n - 1))
            return Layer(channel, (ut[:, i, :n].mT @ across).view(k, ut.shape[-1], b, d))

        def react(name: str, i: int, x: Tensor) -> Tensor:
            return torch.ops.aten.gelu_backward(x, getattr(before[i], name))

        def leave(i: int, layer: Layer) -> None:
            taps_read.add_gradients(i, layer, gdc[:, i], gdt[:, i], glifts.get(i))

        back = _sweep(up, down, order[::-1], range(depth)[::-1], enter, react, leave)
        pairs_dc, pairs_dt, guc, gut = _weight_gradients(state, back, down, up, depth)
        guc.baddbmm_(state.h[:, :n].reshape(k, n * b, rc).mT, along)
        gut[..., :n].baddbmm_(state.t.view(k, rt, b * d), across.mT)
        gdc += pairs_dc.view(dc.shape)
        gdt += pairs_dt.view(dt.shape)
        up_gradients = guc.view(uc.mT.shape).mT, gut.view(ut.mT.shape).mT
        return None, None, gdc, gdt, *up_gradients, *glifts.values(), *(None for _ in taps)


class Taps:
    """b_i + y_0 of all layers as (n, B, d) in the precision of the weights, for a few images at a time."""

    def __init__(self, taps: Sequence[Tensor], start: Tensor, dtype: torch.dtype) -> None:
        self.taps = taps
        self.start = start.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format)
        n, batch, d = self.start.shape
        space = SCRATCH_BYTES.get(start.device.type, SCRATCH_BYTES_ELSEWHERE)
        step = min(batch, max(1, space // (n * d * dtype.itemsize)))
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

    def project(self, i: int, dc: Tensor, dt: Tensor, lift: Tensor | None) -> Layer:
        """(b_i + y_0) dc^T and dt (b_i + y_0) of K nets' dc (K, r, d) and dt (K, r, n)."""
        (k, rc, d), rt, (n, batch, _) = dc.shape, dt.shape[1], self.start.shape
        layer = Layer(dc.new_empty((k, n, batch, rc)), dc.new_empty((k, rt, batch, d)))
        along, across = dc.reshape(k * rc, d).t(), dt.reshape(k * rt, n)
        for images, x, b in self.read(i, lift is not None):
            p = x.flatten(0, 1) @ along
            if b is not None and lift is not None:
                p.addmm_(b.flatten(0, 1), lift.flatten(0, 1).t())
            layer.channel[:, :, images] = p.view(n, -1, k, rc).permute(2, 0, 1, 3)
            torch.mm(across, x.flatten(1), out=layer.token.view(k * rt, batch * d)[:, images.start * d : images.stop * d])
        return layer

    def add_gradients(self, i: int, layer: Layer, dc: Tensor, dt: Tensor, lift: Tensor | None) -> None:
        """Adds what the gradients of `project`'s results mean for its weights."""
        (k, rc, d), rt, (n, batch, _) = dc.shape, dt.shape[1], self.start.shape
        along, across = dc.new_zeros((k * rc, d)), dt.new_zeros((k * rt, n))
        for images, x, b in self.read(i, lift is not None):
            p = layer.channel[:, :, images].permute(1, 2, 0, 3).reshape(-1, k * rc).t()
            q = layer.token.view(k * rt, batch * d)[:, images.start * d : images.stop * d]
            along.addmm_(p, x.flatten(0, 1))
            across.addmm_(q, x.flatten(1).t())
            if b is not None and lift is not None:
                lift.view(k * rc, -1).addmm_(p, b.flatten(0, 1))
        dc += along.view(dc.shape)
        dt += across.view(dt.shape)


def _rows(dc: Tensor, dt: Tensor, uc: Tensor, ut: Tensor) -> tuple[Weights, Weights]:
    down = Weights(dc.flatten(1, 2), dt.flatten(1, 2))
    return down, Weights(uc.mT.flatten(1, 2), ut.mT.flatten(1, 2))


def _sweep(
    down: Weights,
    up: Weights,
    order: Sequence[str],
    layers: range,
    enter: Callable[[int], Layer],
    react: Callable[[str, int, Tensor], Tensor],
    leave: Callable[[int, Layer], None],
) -> State:
    """The recursion over `layers`, up or down, and in each over the mixers in `order`.

    `enter` gives p_i and q_i without the sums over mixers swept before, which are added in place; `react` makes h_i or
    t_i of a complete one, and `leave` sees both.
    """
    depth, forward = len(layers), layers.step > 0
    channels, tokens = up.channel @ down.channel.mT, down.token @ up.token.mT  # U_j dc_i^T and dt_i V_j of all pairs
    state: State | None = None
    for i in layers:
        layer = enter(i)
        (k, n, b, rc), (rt, d) = layer.channel.shape, (layer.token.shape[1], layer.token.shape[3])
        if state is None:
            some = layer.channel
            a = some.new_zeros((2, k, depth * rt, b, depth * rc))
            state = State(some.new_empty((k, n, b, depth * rc)), some.new_empty((k, depth * rt, b, d)), a[0], a[1])
            h, t, a, c = state
        done: dict[str, slice] = {}
        result: dict[str, Tensor] = {}
        for name in order:
            # of the other mixer, this layer's has been swept before if it comes first in `order`
            own, other, with_this = (rc, rt, "token" in result) if name == "channel" else (rt, rc, "channel" in result)
            here = slice(i * own, (i + 1) * own)
            if forward:
                past = slice(0, i * own)
                split = (i + with_this) * other
                done, to_do = slice(0, split), slice(split, None)
            else:
                past = slice((i + 1) * own, None)
                split = (i + 1 - with_this) * other
                done, to_do = slice(split, None), slice(0, split)
            if name == "channel":
                p = layer.channel
                p.view(k, n * b, rc).baddbmm_(h.flatten(1, 2)[..., past], channels[:, past, here])
                p.view(k, n, b * rc).baddbmm_(up.token[:, done].mT, c[:, done, :, here].flatten(2))
                x = react(name, i, p)
                h[..., here] = x
                a[:, to_do, :, here] = (down.token[:, to_do] @ x.view(k, n, b * rc)).unflatten(2, (b, rc))
            else:
                q = layer.token
                q.view(k, rt, b * d).baddbmm_(tokens[:, here, past], t.flatten(2)[:, past])
                q.view(k, rt * b, d).baddbmm_(a[:, here, :, done].flatten(1, 2), up.channel[:, done])
                x = react(name, i, q)
                t[:, here] = x
                c[:, here, :, to_do] = (x.view(k, rt * b, d) @ down.channel[:, to_do].mT).unflatten(1, (rt, b))
            result[name] = x
        leave(i, Layer(result.get("channel", layer.channel), result.get("token", layer.token)))
    assert state is not None
    return state


def _weight_gradients(
    state: State, back: State, down: Weights, up: Weights, depth: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of both Weights, without the terms of taps, start and output, from the sweeps there and back."""
    (k, n, b, rc), (rt, d) = state.h.shape, (state.t.shape[1], state.t.shape[3])

    def earlier(pairs: Tensor) -> Tensor:
        """Zero but where the column's layer comes before the row's."""
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
