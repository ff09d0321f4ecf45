"""SPD: the paper's arithmetic, when it is the plain optimizer, what it keeps, and its mistakes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import peftbench
from peftbench.optim import SPD
from support.optimizers import INNER, SHAPES, gradients, parameters, through_a_file


def reference(params, inner, steps, strength, start):
    """The three lines of the specification, in double precision."""
    for t in range(1, steps + 1):
        gradients(params, t)
        old = {n: (p.detach().clone(), p.grad.clone()) for n, p in params.items()}
        inner.step()
        for n, p in params.items():
            w, g = old[n]
            new = p.detach() - start[n]
            if -(g * (w - start[n])).sum() < 0 and new.norm() > 0:
                share = ((new.norm() - (w - start[n]).norm()) / new.norm()).clamp(0, 1)
                p.data -= strength * share * new


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_many_steps_follow_the_specification(inner, strength):
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    start = {n: p.detach().clone() for n, p in b.items()}
    spd = SPD(INNER[inner](list(a.values())), strength=strength)
    for t in range(1, 31):
        gradients(a, t)
        spd.step()
    reference(b, INNER[inner](list(b.values())), 30, strength, start)
    plain = parameters(dtype=torch.float64)
    optimizer = INNER[inner](list(plain.values()))
    for t in range(1, 31):
        gradients(plain, t)
        optimizer.step()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-9, atol=1e-12), name
    assert any(not torch.equal(a[n], plain[n]) for n in a), "some steps are in conflict"


@pytest.mark.parametrize("inner", INNER)
def test_the_first_step_is_the_inner_optimizers_to_the_bit(inner):
    a, b = parameters(), parameters()
    spd, plain = SPD(INNER[inner](a.values())), INNER[inner](b.values())
    for params, optimizer in ((a, spd), (b, plain)):
        gradients(params, 1)
        optimizer.step()
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_tensor_in_conflict_stays_within_its_radius_and_another_steps_freely():
    start = torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    w = nn.Parameter(start + torch.tensor([[0.3, 0.0], [0.0, 0.4]]))
    free = nn.Parameter(w.detach().clone())
    spd = SPD(torch.optim.SGD([("w", w), ("free", free)], lr=1.0), anchors={"w": start, "free": start}, strength=1.0)
    # Momentum would do so: the gradient leads back to the start (<g, W - W0> > 0), and the step past it and beyond.
    w.grad = torch.tensor([[10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    free.grad = -w.grad
    radius = (w.detach() - start).norm()
    spd.step()
    assert (w.detach() - start).norm().item() == pytest.approx(radius.item(), rel=1e-14)
    torch.testing.assert_close(free.detach() - start, torch.tensor([[10.3, 0], [0, 10.4]], dtype=torch.float64))


def test_nothing_is_divided_by_zero_where_a_step_ends_at_the_start():
    """The official code gives NaN there."""
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    spd = SPD(torch.optim.SGD([("w", w)], lr=1.0), anchors={"w": torch.zeros(2)})
    w.grad = torch.ones(2)
    spd.step()
    assert torch.equal(w.detach(), torch.zeros(2))
    w.grad = torch.zeros(2)
    spd.step()
    assert torch.equal(w.detach(), torch.zeros(2))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), max_size=4).map(tuple),
    inner=st.sampled_from(sorted(INNER)),
    strength=st.floats(0, 1),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
)
def test_it_only_ever_shortens_the_way_from_the_start(shape, inner, strength, seed, scale):
    params = parameters(seed, {"w": shape}, torch.float64)
    w, start = params["w"], params["w"].detach().clone()
    anchors = {"w": start.clone()}
    spd = SPD(INNER[inner](params.items()), anchors=anchors, strength=strength)
    for t in range(1, 8):
        gradients(params, t, seed, scale)
        before, conflict = w.detach() - start, bool((w.grad * (w.detach() - start)).sum() > 0)
        alone = copy.deepcopy(spd.inner)  # with parameters of its own, and no gradients
        alone.param_groups[0]["params"][0].grad = w.grad.clone()
        alone.step()
        free = alone.param_groups[0]["params"][0].detach() - start
        spd.step()
        after = w.detach() - start
        assert torch.isfinite(w).all()
        if not conflict or strength == 0:
            assert torch.equal(after, free)
        assert after.norm() <= free.norm() * (1 + 1e-12) + 1e-15
        if conflict and strength == 1:
            assert after.norm() <= max(before.norm(), 1e-15) * (1 + 1e-9) + 1e-12
    assert torch.equal(anchors["w"], start)


@pytest.mark.parametrize("inner", ["nesterov", "adamw"])
def test_a_saved_run_goes_on_bit_for_bit(inner):
    def fresh():
        params = parameters()
        return params, SPD(INNER[inner](params.items()), exclude=["vector"])

    a, whole = fresh()
    for t in range(1, 8):
        gradients(a, t)
        if t == 3:
            a["token"].grad = None
        whole.step()
        if t == 4:
            saved = through_a_file({"model": {n: p.detach() for n, p in a.items()}, "optimizer": whole.state_dict()})
    b, resumed = fresh()
    for name, value in saved["model"].items():
        b[name].data.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    for t in range(5, 8):
        gradients(b, t)
        resumed.step()
    assert all(torch.equal(a[n], b[n]) for n in a)
    late = SPD(INNER[inner](a.items()), exclude=["vector"])  # built on trained weights
    with pytest.raises(peftbench.UserError, match=r"another anchor of .*; build SPD on the starting weights"):
        late.load_state_dict(saved["optimizer"])


def test_what_is_excluded_is_the_inner_optimizers_alone():
    a, b = parameters(), parameters()
    spd, plain = SPD(INNER["adamw"](a.items()), exclude=list(SHAPES)), INNER["adamw"](b.items())
    for t in range(1, 6):
        for params, optimizer in ((a, spd), (b, plain)):
            gradients(params, t)
            optimizer.step()
    assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("strength", [-1.0, float("inf"), float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(peftbench.UserError, match=r"SPD strength=.*: expected 0 or more\."):
        SPD(INNER["sgd"](parameters().items()), strength=strength)
