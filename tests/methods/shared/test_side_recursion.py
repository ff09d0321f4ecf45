"""The low-rank form of LoSA's recursion against the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.methods.shared import side_recursion
from peftbench.methods.shared.mixing import Mixer, Norms
from peftbench.methods.shared.mixing import refine as plain

ORDERS = [("channel", "token"), ("token", "channel"), ("channel",), ("token",)]
RANK = 3


class Net(nn.Module):
    """The weights of one side net, of ranks up to RANK; `widths` are the taps'."""

    def __init__(self, order: tuple[str, ...], widths: list[int], n: int, d: int, rank: int) -> None:
        super().__init__()
        depth, size = len(widths), {"channel": d, "token": n}
        ranks = {m: min(rank, size[m]) for m in order}
        self.mixers = nn.ModuleDict({m: Mixer(depth, size[m], ranks[m], False, "kaiming") for m in order})
        wide = {str(i): w for i, w in enumerate(widths) if w != d}
        self.lifts = nn.ParameterDict({i: torch.randn(ranks["channel"], w) for i, w in wide.items()})
        for mixer in self.mixers.values():
            nn.init.normal_(mixer.up)
        self.norms = Norms("none", depth, len(order), d)
        self.double()

    def plain(self, taps: list[Tensor], start: Tensor) -> Tensor:
        return plain(taps, start, self.mixers, self.norms, self.lifts)  # type: ignore[arg-type]


def together(nets: list[Net], taps: list[Tensor], start: Tensor, first: bool = False) -> Tensor:
    order = list(nets[0].mixers)
    rank = {m: max(net.mixers[m].down.shape[1] for net in nets) for m in order}

    def pad(w: Tensor, dim: int, to: int) -> Tensor:
        missing = to - w.shape[dim]
        return F.pad(w, (0, 0, 0, missing) if dim == -2 else (0, missing))

    down = {m: torch.stack([pad(net.mixers[m].down, -2, rank[m]) for net in nets]) for m in order}
    up = {m: torch.stack([pad(net.mixers[m].up, -1, rank[m]) for net in nets]) for m in order}
    lifts = {int(i): torch.stack([pad(net.lifts[i], -2, rank["channel"]) for net in nets]) for i in nets[0].lifts}
    return side_recursion.refine(taps, start, order, down, up, lifts, first)


def case(
    order: tuple[str, ...], widths: list[int], ranks: list[int], n: int = 5, d: int = 6, batch: int = 4
) -> tuple[list[Net], list[Tensor]]:
    torch.manual_seed(0)
    nets = [Net(order, widths, n, d, r) for r in ranks]
    return nets, [torch.randn(batch, n, w, dtype=torch.double) for w in widths]


def gradients(nets: list[Net]) -> list[Tensor]:
    return [p.grad for net in nets for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ranks", [[RANK], [1, RANK, 2]])
@pytest.mark.parametrize("widths", [[6], [6, 6, 6], [4, 6, 9, 6]])
@pytest.mark.parametrize(("n", "scratch"), [(5, 1 << 20), (2, 1)])
def test_equals_the_plain_recursion(monkeypatch, order, ranks, widths, n, scratch):
    if "channel" not in order and len(set(widths)) > 1:
        pytest.skip("taps of other widths meet in the channel mixer")
    monkeypatch.setattr(
        side_recursion, "SCRATCH_BYTES", {"cpu": scratch * n * 6 * 8 * 3}
    )  # three images: 3 + 1, or all four
    nets, taps = case(order, widths, ranks, n)
    for start in taps[-1], torch.zeros_like(taps[-1]), torch.randn_like(taps[-1]):
        for first in False, True:
            seen = slice(0, 1) if first else slice(None)
            want = torch.stack([net.plain(taps, start)[:, seen] for net in nets])
            weight = torch.randn_like(want)
            got = together(nets, taps, start, first)
            assert got.shape == want.shape
            torch.testing.assert_close(got, want)
            found = []
            for y in got, want:
                for net in nets:
                    net.zero_grad()
                (y * weight).sum().backward()
                found.append(gradients(nets))
            assert len(found[0]) == len(list(nn.ModuleList(nets).parameters()))
            torch.testing.assert_close(*found)


@pytest.mark.parametrize("first", [False, True])
def test_gradcheck(first):
    nets, taps = case(("channel", "token"), [3, 4], [2, 2], n=3, d=4, batch=2)
    parameters = tuple(nn.ModuleList(nets).parameters())
    assert torch.autograd.gradcheck(lambda *_: together(nets, taps, taps[-1], first), parameters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_over_half_precision_taps_are_in_the_precision_of_the_weights(dtype):
    nets, taps = case(("channel", "token"), [6, 6, 6], [RANK])
    halves = [b.to(dtype) for b in taps]
    got = together(nets, halves, halves[-1])
    assert got.dtype == torch.double
    torch.testing.assert_close(got[0], nets[0].plain([b.double() for b in halves], halves[-1].double()))


def test_single_precision():
    nets, taps = case(("token", "channel"), [6, 6, 6], [RANK, RANK])
    want = together(nets, taps, taps[0])
    got = together([net.float() for net in nets], [b.float() for b in taps], taps[0].float())
    assert got.dtype == torch.float
    torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own_start", [False, True])
def test_keeps_for_backward_each_tap_once_and_else_only_what_is_of_rank_size(own_start):
    n, d, batch, depth = 24, 32, 8, 3
    nets, taps = case(("channel", "token"), [d] * depth, [RANK], n=n, d=d, batch=batch)
    nets, taps = [net.float() for net in nets], [b.bfloat16() for b in taps]
    start = torch.zeros_like(taps[0]) if own_start else taps[-1]
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        y = together(nets, taps, start, first=True)
    of_taps = [x for x in saved if x.dtype == torch.bfloat16]
    assert len(of_taps) == depth + own_start
    assert len({x.data_ptr() for x in of_taps}) == len(of_taps)
    rest = sum(x.nbytes for x in saved if x.dtype != torch.bfloat16)
    states = 2 * batch * depth * RANK * (n + d)  # p, q, h, t
    pairs = 2 * batch * (depth * RANK) ** 2
    weights = 2 * depth * RANK * (n + d)
    assert rest <= 4 * (states + pairs + weights)
    y.sum().backward()


def test_keeps_nothing_without_gradients():
    nets, taps = case(("channel", "token"), [6, 6], [RANK])
    saved: list[Tensor] = []
    with (
        torch.no_grad(),
        torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x),
    ):
        y = together(nets, taps, taps[-1])
    assert not saved
    assert not y.requires_grad


def test_a_second_backward_over_the_same_graph_gives_the_same():
    nets, taps = case(("channel", "token"), [4, 6, 6], [RANK, 1])
    y = together(nets, taps, taps[-1]).square().sum()
    once = torch.autograd.grad(y, list(nets[0].parameters()), retain_graph=True)
    again = torch.autograd.grad(y, list(nets[0].parameters()))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_taps_that_want_gradients_are_refused():
    nets, taps = case(("channel",), [6, 6], [RANK])
    with pytest.raises(AssertionError):
        together(nets, [taps[0].requires_grad_(), taps[1]], taps[1])
