"""Calibration side-tuning: its formulas, gates, counts and shapes, and what feeding back costs."""

import json

import pytest
import torch
from torch.nn import functional as F

import peftbench
from peftbench import backbones, config
from peftbench.methods.cst import CST, Gate, SideNet
from support import backbones as small
from support.side import batch, make, optimizer, randomise, saved, step

GATES = ["gate", "max", "sum", "input_gate"]


def on_meta(name, size=None, **options):
    """The side net, and the images' taps, without weights or memory."""
    backbone = small.on_meta(small.spec(name), size)
    CST(**options).check(backbone)
    return backbone, SideNet(backbone.facts, CST(**options)).to("meta")


@pytest.mark.parametrize(("reduction", "count"), [(4, 3_328_768), (8, 1_536_256), (16, 737_536), (32, 362_560)])
def test_the_counts_of_resnet50(reduction, count):
    assert peftbench.count_parameters("cst", "resnet50", reduction=reduction) == count


def formula(stem, channels, reduction, gates):
    """The count for a stem and stages of these channels; `gates` is the parameters of a gate of some width."""
    widths = [c // reduction for c in channels]
    total = sum(2 * c * w + 9 * w + w * w + 6 * w + gates(w) + c for c, w in zip(channels, widths, strict=True))
    return total + sum(a * b for a, b in zip([stem, *widths[:-1]], widths, strict=True))


@pytest.mark.parametrize(("name", "scale"), [("resnet18", 1), ("resnet34", 1), ("resnet50", 4), ("resnet101", 4)])
@pytest.mark.parametrize("gate", GATES)
def test_every_resnet_works_through_the_same_entry(name, scale, gate):
    backbone = small.on_meta(small.composed("backbone=timm", f"backbone.name={name}").backbone)
    method = small.method("cst", f"method.gate={gate}")
    method.check(backbone)
    side = method.adapt(backbone, None)
    gates = {"gate": lambda w: w, "input_gate": lambda w: w * w + w}.get(gate, lambda w: 0)
    channels = [64 * scale * 2**i for i in range(4)]
    assert sum(p.numel() for p in side.parameters()) == formula(64, channels, 8, gates)


def test_the_shape_table_at_224_and_the_sizes_of_detectors():
    backbone, side = on_meta("resnet50")
    states = []
    for stage in side.stages:
        stage.register_forward_hook(lambda m, a, out: states.append(out))
    for height, width in ((224, 224), (801, 1333), (97, 65)):
        states.clear()
        side.every = True
        taps = backbone.taps(torch.empty(2, 3, height, width, device="meta"), side.wanted)
        kept = side.condense(taps)
        given = side(kept)
        assert [t.shape for t in given] == [t.shape for t in taps[1:]]
        assert kept[0].shape[2:] == taps[1].shape[2:]
        assert [s.grid for s in states] == [tuple(t.shape[2:]) for t in given]
        assert [s.x.shape[1] for s in states] == [32, 64, 128, 256]
        if height == 224:
            assert [s.grid for s in states] == [(56, 56), (28, 28), (14, 14), (7, 7)]
            assert kept[0].shape == (2, 64, 56, 56)
        if height == 801:
            assert [s.grid for s in states] == [(201, 334), (101, 167), (51, 84), (26, 42)]


def test_an_odd_input_is_calibrated_and_the_stem_is_what_the_backbone_itself_pools():
    model = make("cst", "resnet")
    images = torch.randn(1, 3, 97, 65)
    with torch.no_grad():
        taps = model.backbone.taps(images, model.side.wanted)
        kept = model.side.condense(taps)
        net = model.backbone.net
        assert torch.equal(kept[0], net.maxpool(taps[0]))
        assert kept[0].is_contiguous()
        model.side.every = True
        assert all(map(torch.equal, model.side(kept), taps[1:]))
    assert model.side.condensed


def test_stages_stem_and_groups_of_blocks():
    wanted = {"swin_b": (0, 1, 2, 3), "resnet50": (0, 1, 2, 3, 4), "vit_b": (1, 2, 5, 8, 11)}
    facts = {name: small.on_meta(small.composed(f"backbone={name}").backbone).facts for name in wanted}
    for name, indices in wanted.items():
        side = SideNet(facts[name], CST())
        assert (side.wanted, side.given) == (indices, indices[-4:])
    assert SideNet(facts["swin_b"], CST(stages=2)).wanted == (1, 2, 3)
    assert SideNet(facts["vit_b"], CST(stages=5)).given == (1, 4, 6, 9, 11)
    assert SideNet(facts["vit_b"], CST(stages=12)).wanted == tuple(range(12))


@pytest.mark.parametrize("gate", GATES)
def test_the_formulas_of_the_specification(gate):
    model = make("cst", "resnet", f"method.gate={gate}")
    side = model.side
    randomise(side)
    side.every = True
    stem, *taps = side.condense(model.backbone.taps(torch.randn(2, 3, 64, 64), side.wanted))

    def conv(layer, x):
        return F.conv2d(x, layer.weight[:, :, None, None])

    def norm(layer, x):
        return F.group_norm(x, max(1, x.shape[1] // 8), layer.weight, layer.bias)

    below = stem
    for i, (stage, b, given) in enumerate(zip(side.stages, taps, side([stem, *taps]), strict=True)):
        r = F.relu(norm(stage.reduce_norm, conv(stage.reduce, b)))
        d = conv(stage.transition, below if i == 0 else F.avg_pool2d(below, 2))
        d = F.relu(norm(stage.transition_norm, d))
        if gate == "max":
            m = torch.max(r, d)
        elif gate == "sum":
            m = r + d
        else:
            a = stage.gate.a / 0.1 if gate == "gate" else stage.gate.mix((r + d).mean((2, 3)))
            mu = torch.sigmoid(a)[..., None, None]
            m = mu * r + (1 - mu) * d
        s = m + conv(stage.pointwise, F.relu(norm(stage.block_norm, stage.depthwise(m))))
        o = b + stage.gamma[:, None, None] * conv(stage.expand, s)
        assert torch.allclose(given, o, rtol=1e-4, atol=1e-4)
        below = s + conv(stage.reduce, o - b)


def test_a_stage_changes_itself_and_those_above_it():
    model = make("cst", "resnet")
    side = model.side
    randomise(side)
    side.every = True
    taps = model.frozen(batch(model)[0])
    before = side(taps)
    taps[2] = taps[2].flip(1)
    assert [torch.equal(a, b) for a, b in zip(before, side(taps), strict=True)] == [True, False, False, False]


@pytest.mark.parametrize("kind", ["gate", "input_gate"])
def test_the_gate_lies_between_its_limits(kind):
    r, d = torch.rand(2, 8, 9), torch.rand(2, 8, 9)
    for start, low, high in ((2.0, 0.88, 0.881), (0.0, 0.5, 0.5)):
        gate = Gate(kind, 8, start)
        mu = ((gate(r, d) - d) / (r - d)).detach()
        assert low - 1e-3 < mu.min() <= mu.max() < high + 1e-3
    assert torch.allclose(Gate(kind, 8, 1e3)(r, d), r)
    assert torch.allclose(Gate(kind, 8, -1e3)(r, d), d)


def test_the_other_gates_have_no_parameters():
    r, d = torch.rand(2, 8, 9), torch.rand(2, 8, 9)
    assert torch.equal(Gate("max", 8, 2.0)(r, d), torch.max(r, d))
    assert torch.equal(Gate("sum", 8, 2.0)(r, d), r + d)
    assert not [*Gate("max", 8, 2.0).parameters(), *Gate("sum", 8, 2.0).parameters()]


def test_options_compute_different_things():
    words = [[f"method.gate={g}"] for g in GATES] + [["method.gate_init=0.0"], ["method.norm=batch"]]
    words += [["method.reduction=4"], ["method.stages=3"], ["method.feedback=true"]]
    seen = []
    for given in words:
        model = make("cst", "resnet", *given)
        opt = optimizer(model)
        seen.append(tuple(step(model, opt) for _ in range(3)))
    assert len(set(seen)) == len(seen)
    assert max(s[0] for s in seen) - min(s[0] for s in seen) < 1e-5, "all start as the frozen backbone"


def test_in_classification_the_outputs_that_nobody_reads_are_not_computed():
    model = make("cst", "resnet")
    asked = []
    for i, stage in enumerate(model.side.stages):
        stage.calibrate = lambda tap, state, i=i, real=stage.calibrate: asked.append(i) or real(tap, state)
    model.loss(batch(model))
    assert asked == [3]
    model.side.every = True
    model.loss(batch(model))
    assert asked == [3, 0, 1, 2, 3]


@pytest.mark.parametrize("family", ["vit", "resnet", "swin", "maps, then tokens"])
def test_feedback_starts_as_the_probe_and_trains_through_the_later_stages(family):
    still = {"drop_path_rate": 0}
    model, probe = make("cst", family, "method.feedback=true", **still), make("linear", family, **still)
    probe.task.load_state_dict(model.task.state_dict())
    assert model.side is None, "what it reads depends on what it learns: there is nothing to cache"
    images = batch(model)[0]
    with torch.no_grad():
        assert torch.allclose(model(images), probe(images), atol=1e-6)
    frozen = {n: t.clone() for n, t in model.backbone.state_dict().items() if not n.startswith("calibration.")}
    opt = optimizer(model)
    step(model, opt)
    first = model.backbone.calibration.stages[0]
    assert first.gamma.grad.count_nonzero(), "the gradient of O_1 comes through the later stages"
    step(model, opt)
    step(model, opt)
    assert all(p.grad.count_nonzero() for _, p in model.trainable())
    assert all(torch.equal(t, model.backbone.state_dict()[n]) for n, t in frozen.items())
    with torch.no_grad():
        changed = model.backbone.taps(model.normalize(images))
        assert not torch.equal(changed[-1], probe.extract(images)[-1])


def test_feedback_keeps_the_activations_of_the_later_stages():
    few = {"base_width": 64, "layers": [1, 1, 1, 1]}
    plain, fed = saved("cst", "resnet", **few), saved("cst", "resnet", "method.feedback=true", **few)
    assert fed > 1.5 * plain
    assert saved("cst", "resnet", "method.feedback=true", **few | {"base_width": 256}) > fed
    assert saved("cst", "resnet", "method.feedback=true", **few | {"layers": [1, 1, 1, 3]}) > fed


def test_feedback_needs_a_later_stage():
    backbone = backbones.build_on_meta(config.Backbone("cait_xxs24_224", args={"depth": 1}, pretrained=False))
    with pytest.raises(peftbench.Refusal, match=r"method\.feedback=true: .* method\.feedback=false works"):
        CST(feedback=True).check(backbone)
    with pytest.raises(peftbench.Refusal, match=r"method\.stages=0: expected at least 1"):
        CST(stages=0).check(backbone)


def test_runs_report_the_count_and_what_feedback_costs(tiny, cli, tmp_path):
    status, _, err = cli("-m", "method=cst", "method.feedback=false,true", *tiny, "logger=none")
    assert status == 0, err
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    costs = {r["config"]["method"]["options"]["feedback"]: r["costs"] for r in records}
    count = peftbench.count_parameters("cst", "resnet_nano")
    assert [costs[fed]["parameters"]["method"] for fed in (False, True)] == [count, count]
    assert costs[True]["memory"]["saved_for_backward"] > costs[False]["memory"]["saved_for_backward"]
