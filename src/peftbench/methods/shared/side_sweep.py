"""One sweep over the layers of LoSA's recursion in low-rank form, there or back (`side_recursion` says what it is).

Layouts: h (K, N B, C), t (K, T, B D), weights (K, C, D) and (K, T, N). With the batch inside, each product is one
matrix product per net, and needs no transpose of anything large.

Legend of the names' suffixes: K side nets, N tokens, B images, D width, C = L r_c and T = L r_t the rows of all channel
and token mixers of L layers, c and t those of one layer. An underscore stands between axes where one is two of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """Down- or up-projections of all layers: channel (K, R_c, d) and token (K, R_t, n)."""

    channel: Tensor
    token: Tensor


class Layer(NamedTuple):
    """One layer's p and q, or their gradients: channel (K, n, B, r_c) and token (K, r_t, B, d)."""

    channel: Tensor
    token: Tensor


class State(NamedTuple):
    """What a sweep leaves: h (K, n B, R_c), t (K, R_t, B d), and the products of token with channel mixers.

    `a` (K, R_t B, R_c) holds dt_i h_j for each token mixer i and the channel mixers j swept before it, `c` of the same
    shape t_i dc_j^T for those swept after it; the rest is zero.
    """

    h: Tensor
    t: Tensor
    a: Tensor
    c: Tensor


class Rows(NamedTuple):
    """A range of a mixer's rows over all layers, as `Tensor.narrow` takes it."""

    first: int
    size: int


class Sweep:
    """The recursion in progress: what the mixers swept so far left, and the products that the others need of them.

    `left` is filled as they are swept. `channel_pairs` (K, C, C) holds U_j dc_i^T and `token_pairs` (K, T, T) dt_i V_j.
    """

    def __init__(self, down: Weights, up: Weights, batch: int) -> None:
        self.down, self.up, self.batch = down, up, batch
        (k, c, d), (_, t, n) = up.channel.shape, up.token.shape
        new = up.channel.new_empty
        self.left = State(
            h=new((k, n * batch, c)),
            t=new((k, t, batch * d)),
            a=new((k, t * batch, c)).zero_(),
            c=new((k, t * batch, c)).zero_(),
        )
        self.channel_pairs = torch.bmm(up.channel, down.channel.mT)
        self.token_pairs = torch.bmm(down.token, up.token.mT)

    def channel(self, p_KNBc: Tensor, own: Rows, past: Rows, done: Rows, react: Callable[[Tensor], Tensor]) -> Tensor:
        """h_i (K, N, B, c) of one layer's channel mixer, from p_i without the sums over the mixers swept before.

        Args:
            own: the rows of this layer.
            past: those of the channel mixers swept before.
            done: those of the token mixers swept before.
            react: h_i from the complete p_i.
        """
        k, n, b, c = p_KNBc.shape
        if past.size:
            h_K_NB_C = self.left.h.narrow(2, *past)
            pairs_KCc = self.channel_pairs.narrow(1, *past).narrow(2, *own)
            p_KNBc.view(k, n * b, c).baddbmm_(h_K_NB_C, pairs_KCc)
        if done.size:
            v_KNT = self.up.token.mT.narrow(2, *done)
            pairs_K_TB_c = self.left.c.narrow(1, done.first * b, done.size * b).narrow(2, *own)
            p_KNBc.view(k, n, b * c).baddbmm_(v_KNT, pairs_K_TB_c.reshape(k, done.size, b * c))
        h_KNBc = react(p_KNBc)
        self.left.h.narrow(2, *own).copy_(h_KNBc.view(k, n * b, c))
        return h_KNBc

    def pair_channel(self, h_KNBc: Tensor, own: Rows, to_do: Rows) -> None:
        """Keeps dt_i h_j for the token mixers that are swept later, the rows `to_do`."""
        k, n, b, c = h_KNBc.shape
        pairs_K_T_Bc = torch.bmm(self.down.token.narrow(1, *to_do), h_KNBc.view(k, n, b * c))
        kept_K_TB_c = self.left.a.narrow(1, to_do.first * b, to_do.size * b).narrow(2, *own)
        kept_K_TB_c.copy_(pairs_K_T_Bc.view(k, to_do.size * b, c))

    def token(self, q_KtBD: Tensor, own: Rows, past: Rows, done: Rows, react: Callable[[Tensor], Tensor]) -> Tensor:
        """t_i (K, t, B, D) of one layer's token mixer; as `channel`, `done` being rows of channel mixers."""
        k, t, b, d = q_KtBD.shape
        if past.size:
            pairs_KtT = self.token_pairs.narrow(1, *own).narrow(2, *past)
            t_K_T_BD = self.left.t.narrow(1, *past)
            q_KtBD.view(k, t, b * d).baddbmm_(pairs_KtT, t_K_T_BD)
        if done.size:
            pairs_K_tB_C = self.left.a.narrow(1, own.first * b, own.size * b).narrow(2, *done)
            u_KCD = self.up.channel.narrow(1, *done)
            q_KtBD.view(k, t * b, d).baddbmm_(pairs_K_tB_C, u_KCD)
        t_KtBD = react(q_KtBD)
        self.left.t.narrow(1, *own).copy_(t_KtBD.view(k, t, b * d))
        return t_KtBD

    def pair_token(self, t_KtBD: Tensor, own: Rows, to_do: Rows) -> None:
        """Keeps t_i dc_j^T for the channel mixers that are swept later, the rows `to_do`."""
        k, t, b, d = t_KtBD.shape
        pairs_K_tB_C = torch.bmm(t_KtBD.view(k, t * b, d), self.down.channel.mT.narrow(2, *to_do))
        self.left.c.narrow(1, own.first * b, own.size * b).narrow(2, *to_do).copy_(pairs_K_tB_C)


def sweep_layers(
    down: Weights,
    up: Weights,
    order: Sequence[str],
    depth: int,
    batch: int,
    enter: Callable[[int], Layer],
    react: Callable[[str, int, Tensor], Tensor],
    leave: Callable[[int, Layer], None] | None = None,
    *,
    backwards: bool = False,
) -> State:
    """The recursion over all layers, the last one first where `backwards`, and in each over the mixers in `order`.

    `enter` gives p_i and q_i without the sums over mixers swept before, which are added in place; `react` makes h_i or
    t_i of a complete one, and `leave` sees both.
    """
    rows = {"channel": up.channel.shape[1] // depth, "token": up.token.shape[1] // depth}
    sweep = Sweep(down, up, batch)
    for i in reversed(range(depth)) if backwards else range(depth):
        layer = enter(i)
        for position, name in enumerate(order):
            mine, others = rows[name], rows["token" if name == "channel" else "channel"]
            # This mixer's layers swept before, and the other's swept before (`done`) and after (`to_do`); in a layer
            # the mixer at position 1 comes after the other, whichever way the layers go.
            own = Rows(i * mine, mine)
            if not backwards:
                split = (i + position) * others
                past, done, to_do = Rows(0, i * mine), Rows(0, split), Rows(split, depth * others - split)
            else:
                split = (i + 1 - position) * others
                past, done, to_do = _after(i, mine, depth), Rows(split, depth * others - split), Rows(0, split)
            if name == "channel":
                h = sweep.channel(layer.channel, own, past, done, partial(react, name, i))
                if to_do.size:
                    sweep.pair_channel(h, own, to_do)
                layer = layer._replace(channel=h)
            else:
                t = sweep.token(layer.token, own, past, done, partial(react, name, i))
                if to_do.size:
                    sweep.pair_token(t, own, to_do)
                layer = layer._replace(token=t)
        if leave is not None:
            leave(i, layer)
    return sweep.left


def _after(layer: int, rows: int, depth: int) -> Rows:
    """The rows of the layers behind `layer`."""
    return Rows((layer + 1) * rows, (depth - 1 - layer) * rows)
