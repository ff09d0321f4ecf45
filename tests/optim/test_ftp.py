"""FTP: the papers' arithmetic, and when it is the plain optimizer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftbench.optim import FTP
from peftbench.optim.ftp import project
from peftbench.optim.projection import Rows, project_together
from support.optimizers import INNER, SHAPES, gammas, gradients, parameters


def reference(params, inner, steps, kappa=1.0, norm="mars", lr=1e-2):
    """The specification's five lines, tensor by tensor and row by row, in plain Python."""
    start = {n: p.detach().clone() for n, p in params.items()}
    memory = {n: [1e-8, 0.0, 0.0, None, None] for n in params}
    for t in range(1, steps + 1):
        gradients(params, t)
        kept = {n: p.grad.clone() for n, p in params.items()}
        inner.step()
        for n, p in params.items():
            gamma, m, v, before, sizes = memory[n]
            c = (p.detach() - start[n]).double()
            rows = c.reshape(c.shape[0], -1) if c.ndim > 1 and norm == "mars" else c.reshape(1, -1)
            size = rows.abs().sum(1) if norm == "mars" else rows.norm(dim=1)
            size = size + 1e-8
            if before is not None:
                g = kept[n].double().reshape(rows.shape)
                slope = sum(float(g[i] @ before[i]) / float(sizes[i]) for i in range(len(rows)))
                slope *= kappa if slope > 0 else 1
                m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
                gamma -= lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
            gamma = min(max(gamma, 1e-8), float(size.max()))
            memory[n] = [gamma, m, v, rows, size]
            factor = (gamma / size).clamp(max=1).reshape(-1, 1)
            p.data.copy_((start[n].double() + (factor * rows).reshape(c.shape)).to(p.dtype))
    return [memory[n][0] for n in params]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", [1.0, 0.0])
def test_the_worked_case_of_the_official_code(dtype, kappa):
    w = nn.Parameter(torch.zeros(2, 2, dtype=dtype))
    ftp = FTP(torch.optim.SGD([w], lr=0.1), kappa=kappa)
    w.grad = torch.tensor([[1, -3], [0, 2]], dtype=dtype)
    ftp.step()
    assert torch.allclose(w, torch.tensor([[-2.5e-9, 7.5e-9], [0, -1e-8]], dtype=dtype), rtol=1e-6, atol=0)
    saved = copy.deepcopy(ftp.state_dict()), w.detach().clone()
    w.grad = torch.tensor([[2, -1], [1, 1]], dtype=dtype)
    ftp.step()
    assert gammas(ftp) == pytest.approx([0.007441378188909586], rel=1e-15)
    after = torch.tensor([[-0.00496091852, 0.00248045942], [-0.00372068872, -0.00372068909]], dtype=dtype)
    assert torch.allclose(w, after, rtol=5e-7 if dtype == torch.float32 else 2e-9, atol=0)
    ftp.load_state_dict(saved[0])
    w.data.copy_(saved[1])
    w.grad = -torch.tensor([[2, -1], [1, 1]], dtype=dtype)
    ftp.step()
    assert gammas(ftp) == [1e-8]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("norm", ["mars", "l2"])
@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_many_steps_follow_the_specification(inner, norm, kappa):
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    ftp = FTP(INNER[inner](list(a.values())), kappa=kappa, norm=norm)
    for t in range(1, 31):
        gradients(a, t)
        ftp.step()
    gamma = reference(b, INNER[inner](list(b.values())), 30, kappa, norm)
    assert gammas(ftp) == pytest.approx(gamma, rel=1e-6)
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-7, atol=1e-12), name


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), max_size=4).map(tuple),
    inner=st.sampled_from(sorted(INNER)),
    kappa=st.floats(0, 1),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
)
def test_the_projection_keeps_its_promises(shape, inner, kappa, seed, scale):
    params = parameters(seed, {"w": shape}, torch.float64)
    w, start = params["w"], params["w"].detach().clone()
    anchors = {"w": start.clone()}
    ftp = FTP(INNER[inner](params.items()), anchors=anchors, kappa=kappa)
    dims = tuple(range(1, len(shape))) or None
    before = 0.0
    for t in range(1, 8):
        gradients(params, t, seed, scale)
        ftp.step()
        (gamma,) = gammas(ftp)
        far = w.detach() - start
        norms = far.abs().sum(dims) if shape else far.abs()
        assert norms.max() <= gamma * (1 + 1e-12) + 1e-13
        assert gamma >= 1e-8
        assert torch.isfinite(w).all()
        if t == 1:
            assert norms.max() <= 1e-8 * (1 + 1e-6) + 1e-13
        if kappa == 0 and gamma < before:  # only the upper cut: then the largest row is as far as it may be
            assert norms.max() == pytest.approx(gamma - 1e-8, rel=1e-6, abs=1e-8)
        before = gamma
    assert torch.equal(anchors["w"], start)
    assert not anchors["w"].requires_grad
    if scale == 0.0 and inner in ("sgd", "nesterov"):
        assert torch.equal(w, start)


def test_a_vector_has_one_norm():
    params = parameters(shapes={"v": (4,)})
    start = params["v"].detach().clone()
    ftp = FTP(torch.optim.SGD(params.values(), lr=0.1))
    params["v"].grad = torch.tensor([1.0, 2.0, 3.0, 4.0])
    ftp.step()
    moved = (params["v"] - start).detach()
    assert moved.abs().sum() < 2e-7  # float32 around 1; one norm an element would leave up to 4e-8 in exact numbers
    assert ftp.own_state()[0]["direction"].tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4], rel=1e-5)


def test_rows_inside_keep_what_the_inner_optimizer_gave_them_and_others_their_direction():
    a = parameters(dtype=torch.float64, shapes={"w": (3, 4)})
    start = a["w"].detach().clone()
    ftp = FTP(torch.optim.SGD(a.items(), lr=1.0))
    gradients(a, 1)
    ftp.step()
    ftp.radii.gamma.fill_(0.5)
    ftp.radii._mean.zero_()
    a["w"].grad = torch.tensor([[0.1], [0.01], [1.0]], dtype=torch.float64).expand(3, 4).clone()
    plain = a["w"].detach() - a["w"].grad
    ftp.step()
    (gamma,) = gammas(ftp)
    moved, want = (a["w"] - start).detach(), plain - start
    inside = want.abs().sum(1) <= gamma
    assert inside.tolist() == [True, True, False]
    assert torch.allclose(moved[:2], want[:2], atol=1e-15)
    assert torch.cosine_similarity(moved[2], want[2], dim=0) == pytest.approx(1)


@pytest.mark.parametrize("inner", INNER)
def test_excluded_tensors_are_bit_equal_to_the_plain_optimizer(inner):
    a, b = parameters(), parameters()
    ftp, plain = FTP(INNER[inner](a.items()), exclude=["vector", "conv"]), INNER[inner](b.items())
    for t in range(1, 9):
        gradients(a, t)
        gradients(b, t)
        ftp.step()
        plain.step()
        assert torch.equal(a["vector"], b["vector"])
        assert torch.equal(a["conv"], b["conv"])
        assert not torch.equal(a["matrix"], b["matrix"])
    everything = FTP(INNER[inner](parameters().items()), exclude=list(SHAPES))
    assert gammas(everything) == []


def test_wide_radii_are_the_plain_optimizer_to_rounding():
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    ftp, plain = FTP(INNER["adamw"](a.values()), kappa=0.0), INNER["adamw"](b.values())
    for t in range(1, 6):
        gradients(a, t)
        gradients(b, t)
        ftp.radii.gamma.fill_(1e9)
        ftp.step()
        plain.step()
    assert all(torch.allclose(a[n], b[n], rtol=1e-12) for n in a)


def test_the_scale_of_the_loss_does_not_matter_under_adam_and_does_under_sgd():
    found = {}
    for inner in ("adamw", "sgd"):
        for scale in (1.0, 1000.0):
            params = parameters(dtype=torch.float64)
            ftp = FTP(INNER[inner](params.values()))
            for t in range(1, 20):
                gradients(params, t, scale=scale)
                ftp.step()
            found[inner, scale] = gammas(ftp)
    assert found["adamw", 1.0] == pytest.approx(found["adamw", 1000.0], rel=1e-4)
    assert found["sgd", 1.0] != pytest.approx(found["sgd", 1000.0], rel=1e-2)


def test_gradients_may_come_late_vanish_and_never_come():
    params = parameters(dtype=torch.float64)
    start = {n: p.detach().clone() for n, p in params.items()}
    ftp = FTP(INNER["adamw"](params.items()))
    for t in range(1, 12):
        gradients(params, t)
        params["scalar"].grad = None
        if t < 4:
            params["matrix"].grad = None
        if 5 <= t < 8:
            params["conv"].grad = None
        held = params["conv"].detach().clone()
        ftp.step()
        assert torch.equal(params["conv"], held) is (5 <= t < 8)
        if t == 4:  # its own first step
            assert (params["matrix"] - start["matrix"]).abs().sum(1).max() < 2e-6
            assert gammas(ftp)[0] == 1e-8
        if t == 5:
            assert gammas(ftp)[0] == pytest.approx(0.0074414, rel=1e-4) or gammas(ftp)[0] == 1e-8
    assert torch.equal(params["scalar"], start["scalar"])


def test_one_forward_and_backward_a_step():
    model = nn.Linear(3, 2)
    ftp = FTP(torch.optim.AdamW(model.named_parameters()))
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        ftp.zero_grad()
        loss = model(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    assert ftp.step(closure).requires_grad
    assert calls == [True]


def test_half_precision_scaling_clipping_and_schedules_see_a_plain_optimizer():
    def trained(scaled):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        ftp = FTP(torch.optim.AdamW(model.named_parameters(), lr=0.01, fused=True))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(ftp, 10)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        x = torch.randn(16, 4)
        for step in range(8):
            ftp.zero_grad()
            loss = (model(x) ** 2).mean() * (float("inf") if scaled and step == 3 else 1.0)
            scaler.scale(loss).backward()
            scaler.unscale_(ftp)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            if scaled or step != 3:
                scaler.step(ftp)
            scaler.update()
            schedule.step()
        assert schedule.get_last_lr()[0] == ftp.inner.param_groups[0]["lr"] < 0.01
        return [p.detach() for p in model.parameters()], gammas(ftp)

    (a, gamma), (b, other) = trained(False), trained(True)
    assert gamma == pytest.approx(other, rel=1e-4)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("norm", ["mars", "l2"])
def test_what_a_gpu_projects_together_is_what_each_tensor_s_projection_gives(norm):
    alone, together = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    gamma = torch.tensor([0.5, 1e-8, 2.0, 1e3, 0.1], dtype=torch.float64)
    starts = [p.detach() - 0.3 * torch.ones_like(p).cumsum(-1 if p.ndim else 0) for p in alone.values()]
    moved = [p.detach() for p in together.values()]
    kept = [torch.empty_like(p) for p in moved]
    largest = project_together(moved, starts, kept, gamma, Rows.of(moved, norm))
    for i, (w, start) in enumerate(zip(alone.values(), starts, strict=True)):
        direction = torch.empty_like(w)
        most = project(w.detach(), start, direction, gamma[i], norm)
        torch.testing.assert_close(
            [moved[i], kept[i], largest[i]], [w.detach(), direction, most], rtol=1e-12, atol=1e-15
        )


def test_a_large_tensor_in_pieces_has_the_bits_of_one_piece(monkeypatch):
    left = []
    for chunk in (1 << 19, 32):
        monkeypatch.setattr("peftbench.optim.ftp.CHUNK", chunk)
        params = parameters(shapes={"matrix": (13, 17), "conv": (9, 5, 3, 3)})
        ftp = FTP(INNER["fused"](params.items()))
        for t in range(1, 6):
            gradients(params, t)
            ftp.step()
        left.append([*(p.detach() for p in params.values()), *(kept["direction"] for kept in ftp.own_state())])
    assert all(torch.equal(whole, pieces) for whole, pieces in zip(*left, strict=True))


def test_what_is_away_from_its_anchor_when_it_begins_is_not_taken_back():
    """As where a run begins with what another learned, and stays near the weights before that."""
    params = parameters(0, {"w": (3, 4)}, torch.float64)
    w = params["w"]
    begun, anchor = w.detach().clone(), w.detach() + 0.1 * torch.arange(12.0).view(3, 4)
    ftp = FTP(torch.optim.SGD(params.items(), lr=1e-3), anchors={"w": anchor}, from_here=True)
    (gamma,) = gammas(ftp)
    assert gamma == pytest.approx((begun - anchor).abs().sum(1).max())
    for t in range(1, 4):
        gradients(params, t, 0, 1.0)
        ftp.step()
        assert (w.detach() - begun).abs().max() < 0.05
        assert (w.detach() - anchor).abs().sum(1).max() <= gammas(ftp)[0] * (1 + 1e-12)
