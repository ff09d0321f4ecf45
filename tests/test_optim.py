"""Optimizers that stay near a start: the papers' arithmetic, resuming, and what users may do wrong."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from finished_runs import records_in
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import peftbench
from peftbench import backbones
from peftbench.optim import FTP, L2SP, TPGM
from peftbench.runs.run import run
from peftbench.training.checkpoint import Checkpoints

INNER = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
}
SHAPES = {"matrix": (5, 7), "conv": (4, 3, 3, 3), "vector": (6,), "token": (1, 1, 8), "scalar": ()}


def parameters(seed=0, shapes=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    shapes = shapes or SHAPES
    return {n: nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)) for n, s in shapes.items()}


def gradients(params, step, seed=1, scale=1.0):
    g = torch.Generator().manual_seed(1000 * seed + step)
    for p in params.values():
        p.grad = scale * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)


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


# -- the arithmetic


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
    assert ftp.gammas == pytest.approx([0.007441378188909586], rel=1e-15)
    after = torch.tensor([[-0.00496091852, 0.00248045942], [-0.00372068872, -0.00372068909]], dtype=dtype)
    assert torch.allclose(w, after, rtol=5e-7 if dtype == torch.float32 else 2e-9, atol=0)
    ftp.load_state_dict(saved[0])
    w.data.copy_(saved[1])
    w.grad = -torch.tensor([[2, -1], [1, 1]], dtype=dtype)
    ftp.step()
    assert ftp.gammas == [1e-8]


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
    assert ftp.gammas == pytest.approx(gamma, rel=1e-6)
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
        (gamma,) = ftp.gammas
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
    (gamma,) = ftp.gammas
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
    assert everything.gammas == []


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
            found[inner, scale] = ftp.gammas
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
            assert ftp.gammas[0] == 1e-8
        if t == 5:
            assert ftp.gammas[0] == pytest.approx(0.0074414, rel=1e-4) or ftp.gammas[0] == 1e-8
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
        return [p.detach() for p in model.parameters()], ftp.gammas

    (a, gamma), (b, other) = trained(False), trained(True)
    assert gamma == pytest.approx(other, rel=1e-4)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b, strict=True))


# -- saving and resuming


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_saved_run_goes_on_bit_for_bit(inner, at):
    def fresh():
        params = parameters()
        return params, FTP(INNER[inner](params.items()), exclude=["vector"])

    a, whole = fresh()
    for t in range(1, 10):
        gradients(a, t)
        if t == 3:
            a["token"].grad = None
        whole.step()
        if t == at:
            saved = through_a_file({"model": {n: p.detach() for n, p in a.items()}, "optimizer": whole.state_dict()})
    b, resumed = fresh()
    for name, value in saved["model"].items():
        b[name].data.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    for t in range(at + 1, 10):
        gradients(b, t)
        if t == 3:
            b["token"].grad = None
        resumed.step()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert whole.gammas == resumed.gammas


def test_resuming_does_not_throw_the_weights_back_to_their_start():
    """The official code saves no radius: after loading, its first step is a first step, which is undone."""

    def model():
        torch.manual_seed(0)
        net = nn.Linear(6, 4)
        return net, FTP(torch.optim.AdamW(net.named_parameters(), lr=0.01))

    def step(net, ftp):
        ftp.zero_grad()
        (net(torch.ones(1, 6)) - 5).square().sum().backward()
        ftp.step()
        return (net.weight - model()[0].weight).abs().sum(1).max().item()

    net, ftp = model()
    far = [step(net, ftp) for _ in range(20)][-1]
    assert far > 0.1
    other, resumed = model()
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(through_a_file(ftp.state_dict()))
    assert step(other, resumed) > far
    other.load_state_dict(net.state_dict())
    official = FTP(torch.optim.AdamW(other.named_parameters(), lr=0.01), anchors=dict(model()[0].named_parameters()))
    official.inner.load_state_dict({k: v for k, v in ftp.state_dict().items() if k != "anchored"})
    assert step(other, official) < 1e-6


def test_a_state_that_does_not_belong_here_is_refused_in_one_sentence():
    a = parameters()
    ftp = FTP(INNER["adamw"](a.items()))
    gradients(a, 1)
    ftp.step()
    state = through_a_file(ftp.state_dict())

    def other(shapes, **more):
        return FTP(INNER["adamw"](parameters(shapes=shapes).items()), **more)

    wider = other(SHAPES | {"matrix": (6, 7)})
    with pytest.raises(peftbench.UserError, match=r"another model: direction of 'matrix' is \[5, 7\], expected \[6, 7"):
        wider.load_state_dict(state)
    with pytest.raises(peftbench.UserError, match=r"holds 5 tensors, expected 1"):
        other({"matrix": (5, 7)}).load_state_dict(state)
    renamed = {("other" if n == "matrix" else n): s for n, s in SHAPES.items()}
    with pytest.raises(peftbench.UserError, match="'matrix' where 'other' is expected"):
        other(renamed).load_state_dict(state)
    with pytest.raises(peftbench.UserError, match=r"excludes other tensors"):
        other(SHAPES, exclude=["matrix"]).load_state_dict(state)
    late = FTP(INNER["adamw"](a.items()))  # built on trained weights
    with pytest.raises(peftbench.UserError, match=r"another anchor of 'matrix'; build FTP on the starting weights"):
        late.load_state_dict(state)
    with pytest.raises(peftbench.UserError, match="expected one of FTP"):
        ftp.load_state_dict(INNER["adamw"](a.items()).state_dict())


def test_names_and_anchors_that_do_not_fit_are_refused_in_one_sentence():
    a = parameters()
    with pytest.raises(peftbench.UserError, match="no tensor 'matrx' \\(did you mean 'matrix'\\?\\)"):
        FTP(INNER["adamw"](a.items()), exclude=["matrx"])
    with pytest.raises(peftbench.UserError, match=r"build it with model\.named_parameters"):
        FTP(INNER["adamw"](a.values()), exclude=["matrix"])
    anchors = {n: p.detach() for n, p in a.items()}
    with pytest.raises(peftbench.UserError, match=r"'matrix' has shape \[2, 2\], its parameter \[5, 7\]"):
        FTP(INNER["adamw"](a.items()), anchors=anchors | {"matrix": torch.zeros(2, 2)})
    with pytest.raises(peftbench.UserError, match="'matrix' has none"):
        FTP(INNER["adamw"](a.items()), anchors={"conv": anchors["conv"]})
    with pytest.raises(peftbench.UserError, match="no tensor 'more'"):
        FTP(INNER["adamw"](a.items()), anchors=anchors | {"more": torch.zeros(2)})
    for wrong in ({"kappa": 2}, {"gamma_lr": 0.0}, {"norm": "max"}):
        with pytest.raises(peftbench.UserError, match=next(iter(wrong))):
            FTP(INNER["adamw"](a.items()), **wrong)
    with pytest.raises(peftbench.UserError, match="one of them is enough"):
        FTP(FTP(INNER["adamw"](a.items())))
    with pytest.raises(peftbench.UserError, match="before it is wrapped"):
        FTP(INNER["adamw"](a.items())).add_param_group({"params": []})


def test_given_anchors_are_where_it_stays():
    a = parameters()
    anchors = {n: torch.zeros(s) for n, s in SHAPES.items()}
    ftp = FTP(INNER["sgd"](a.items()), anchors=anchors)
    gradients(a, 1)
    ftp.step()
    assert all(p.abs().max() < 1e-7 for p in a.values())


# -- the relatives


def test_tpgm_learns_radii_on_its_objective_and_projects():
    a = parameters(dtype=torch.float64, shapes={"w": (3, 4)})
    start = a["w"].detach().clone()
    seen = []

    def objective():
        seen.append((a["w"] - start).abs().sum(1).detach())
        return -((a["w"] - start) ** 2).sum()  # wants to be far: every radius grows

    tpgm = TPGM(torch.optim.SGD(a.items(), lr=1.0), objective=objective, iterations=3)
    gradients(a, 1)
    plain = a["w"].detach() - a["w"].grad
    tpgm.step()
    sizes = (plain - start).abs().sum(1)
    assert len(seen) == 3
    assert seen[0].max() == pytest.approx(sizes.min().item() / 2, rel=1e-6)
    gamma = tpgm.radii.gamma.item()
    assert gamma == pytest.approx(sizes.min().item() / 2 + 0.03, rel=1e-2)
    assert (a["w"].detach() - start).abs().sum(1).max() == pytest.approx(gamma)
    with pytest.raises(peftbench.UserError, match="no objective"):
        TPGM(torch.optim.SGD(a.items(), lr=1.0)).step()


def test_l2sp_is_the_gradient_of_its_penalty():
    a, b = parameters(), parameters()
    start = {n: p.detach().clone() for n, p in b.items()}
    ours, plain = L2SP(INNER["adamw"](a.items()), exclude=["vector"], strength=0.3), INNER["adamw"](b.items())
    for t in range(1, 5):
        gradients(a, t)
        gradients(b, t)
        penalty = sum(0.15 * ((p - start[n]) ** 2).sum() for n, p in b.items() if n != "vector")
        penalty.backward()
        ours.step()
        plain.step()
    assert all(torch.allclose(a[n], b[n], atol=1e-6) for n in a)
    assert torch.equal(a["vector"], b["vector"])
    through = through_a_file(ours.state_dict())
    fresh = L2SP(INNER["adamw"](parameters().items()), exclude=["vector"])
    fresh.load_state_dict(through)


# -- runs

QUICK = ["backbone=resnet_nano", "backbone.pretrained=false", "data=digits", "data.size=32", "trainer.progress=false"]
QUICK += ["trainer.epochs=2", "trainer.max_batches=2", "data.batch_size=20"]
PROJECTED = [["method=ftp"], ["method=bitfit", "optimizer=ftp"]]
PROJECTED += [pytest.param([f"method={m}"], marks=pytest.mark.slow) for m in ("tpgm", "l2sp", "wise_ft")]


def learned(record):
    return safetensors.torch.load_file(Path(record.folder) / "delta.safetensors")


PRUNED = [["method=full", "pruning=unstructured"]]
PRUNED += [
    pytest.param(words, marks=pytest.mark.slow) for words in (["method=petah"], ["method=losa", "pruning=structured"])
]


@pytest.mark.parametrize("words", PROJECTED + PRUNED, ids=" ".join)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, monkeypatch, words):
    config = [peftbench.compose(*QUICK, *words, f"output_dir={tmp_path / place}") for place in "ab"]
    undisturbed = run(config[0])
    batch_end, seen = Checkpoints.on_train_batch_end, []

    def stop(self, *arguments):
        seen.append(1)
        self.stop = len(seen) >= 3  # in the second epoch
        batch_end(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert run(config[1]).status == "interrupted"
    resumed = run(config[1])
    a, b = learned(undisturbed), learned(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert resumed.metrics == undisturbed.metrics


def test_projection_stays_near_and_the_head_is_free(tmp_path):
    """Two seeds: FTP ends nearer to its start than full fine-tuning at equal epochs, and its head is not held back."""
    for seed in (0, 1):
        far = {}
        for method in ("ftp", "full"):
            words = [f"method={method}", f"seed={seed}", "optimizer.lr=3e-3", "optimizer.warmup=0"]
            config = peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}")
            tensors = learned(run(config))
            torch.manual_seed(peftbench.data.loading.mix(seed, 1))
            start = backbones.build(config.backbone, 32).state_dict()
            inside = [n for n in tensors if n.startswith("backbone.") and n.endswith(("weight", "bias"))]
            far[method] = sum((tensors[n] - start[n.removeprefix("backbone.")]).square().sum() for n in inside)
            far[method, "head"] = tensors["task.head.bias"].abs().max()
        assert far["ftp"] < 0.5 * far["full"]
        assert far["ftp", "head"] > 1e-3


@pytest.mark.parametrize("method", ["lora", pytest.param("spt", marks=pytest.mark.slow)])
def test_other_methods_learn_under_ftp(tmp_path, method):
    """LoRA's A and B are anchored at their starts: at 0 both would never move."""
    words = ["backbone=vit_nano", "data=digits", f"method={method}", "optimizer=ftp", "trainer.progress=false"]
    words += [
        "trainer.epochs=2",
        "trainer.max_batches=6",
        "data.stage=tune",
        "optimizer.lr=5e-3",
        "optimizer.schedule=constant",
    ]
    record = run(peftbench.compose(*words, f"output_dir={tmp_path}"))
    losses = [h["train_loss"] for h in record.history]
    assert losses[-1] < losses[0] - 0.1
    if method == "lora":
        assert max(t.abs().max().item() for n, t in learned(record).items() if n.endswith("lora_b")) > 1e-4


def test_wise_ft_ends_half_way_and_says_what_it_reaches_there(tmp_path):
    full, half, whole = (
        run(peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}"))
        for words in (["method=full"], ["method=wise_ft"], ["method=wise_ft", "method.alpha=1.0"])
    )
    a, b = learned(full), learned(half)
    torch.manual_seed(peftbench.data.loading.mix(0, 1))
    start = backbones.build(peftbench.compose(*QUICK).backbone, 32).state_dict()
    for name in a:
        if name.startswith("backbone.") and a[name].is_floating_point():
            between = (start[name.removeprefix("backbone.")] + a[name]) / 2
            assert torch.allclose(b[name], between, atol=1e-6), name
    assert torch.equal(a["task.head.weight"], b["task.head.weight"])
    assert full.metrics == whole.metrics
    assert half.metrics["val/loss"] != full.metrics["val/loss"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=ftp", "method.kappa=1.5"], "method.kappa=1.5: expected a number from 0 to 1"),
        (["method=ftp", "method.exclude=[nothing*]"], "method.exclude=.*'nothing\\*' matches no trained tensor"),
        (["method=full", "optimizer=ftp", "optimizer.exclude=[taks.*]"], "optimizer.exclude=.*matches no trained"),
        (["method=ftp", "optimizer=ftp"], "method=ftp has an optimizer of its own; leave optimizer=ftp out"),
        (["method=ftp", "trainer=fsdp"], "method=ftp: needs whole tensors.*use trainer=ddp"),
        (["method=full", "optimizer=ftp", "trainer=fsdp"], "optimizer=ftp: needs whole tensors"),
        (["method=full", "optimizer=ftp", "optimizer.kappa=-1"], "optimizer.kappa=-1.0: expected a number from 0"),
        (["method=tpgm", "method.iterations=0"], "method.iterations=0: expected at least 1"),
        (["method=l2sp", "method.strength=-1"], "method.strength=-1.0: expected 0 or more"),
        (["method=wise_ft", "method.alpha=2"], "method.alpha=2.0: expected a number from 0"),
    ],
)
def test_mistakes_of_the_command_line_get_one_sentence(tmp_path, monkeypatch, words, told):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(peftbench.UserError, match=told):
        run(peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}"))


def test_bf16_clipping_accumulation_and_sgd_pass(tmp_path):
    words = ["method=full", "optimizer=ftp", "optimizer.inner=sgd", "trainer.precision=bf16", "trainer.clip=1"]
    record = run(peftbench.compose(*QUICK, *words, "trainer.accumulate=2", f"output_dir={tmp_path}"))
    assert record.status == "complete"


@pytest.mark.slow
@pytest.mark.parametrize(
    "trained",
    [
        ["method=bitfit", "optimizer=ftp", "optimizer.inner=sgd"],
        ["method=spt_lora", "optimizer=sgd", "method.batches=2", "method.dropout=0", "method.drop_path=0"],
        ["method=petah", "optimizer=sgd", "pruning.merge=masked"],
    ],
    ids=lambda words: words[0],
)
def test_two_processes_reach_what_one_does(tmp_path, trained):
    found = []
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        words = [*QUICK, *trained, "optimizer.lr=0.01"]
        words += ["trainer.accelerator=cpu", "data.eval_batch_size=500", f"output_dir={tmp_path / place}"]
        command = [sys.executable, "-m", "peftbench.cli.main", *more, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(learned(records_in(tmp_path / place)[0]))
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-4) for n in found[0])
