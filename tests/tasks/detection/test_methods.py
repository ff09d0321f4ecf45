"""Every method on every detector and family: what trains, what stays, and that each differs."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

from peftbench.costs import SavedBytes
from support.backbones import DEAR, REFUSES
from support.detection import DETECTORS, FAMILIES, METHODS, make, scenes, trained


def rotated():
    """Each method once, over families and detectors in turn; dear methods are slow tests."""
    pairs = [(f, d) for f in FAMILIES for d in DETECTORS]
    turn = cycle(pairs[i * 4 % 9] for i in range(9))
    chosen = [(m, *next(p for p in turn if p[0] not in REFUSES.get(m, ()))) for m in METHODS]
    return [pytest.param(*c, marks=pytest.mark.slow) if c[0] in DEAR else c for c in chosen]


def asked(method, family, detector):
    """What every one of them must do."""
    model = make(method, FAMILIES[family], f"task.detector={detector}")
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    losses = trained(model)
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(torch.tensor(losses)))
    after = model.state_dict()
    moved = {n for n, t in before.items() if not torch.equal(t, after[n])}
    assert not moved & frozen
    assert not [n for n in moved if "running_" in n or "num_batches" in n], "statistics of batch norms are fixed"
    if model.method.side:
        assert not [n for n in moved if n.startswith("backbone.")]
    assert not [n for n in moved if any(n.startswith(f"backbone.net.{t}.") for t in model.backbone.facts.tail)]
    missing = [n for n, p in model.trainable() if p.grad is None]
    assert not missing, "what trains without a gradient would stop several processes"
    model.eval()
    with torch.no_grad():
        found = model.evaluate(scenes())
    for one, target in zip(found, scenes()[1], strict=True):
        height, width = target["original"]
        assert len(one["boxes"]) == len(one["scores"]) == len(one["labels"]) <= 100
        assert (one["scores"].diff() <= 0).all()
        assert ((one["labels"] >= 0) & (one["labels"] < 3)).all()
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize(("method", "family", "detector"), rotated())
def test_every_method_trains_a_detector(method, family, detector):
    asked(method, family, detector)


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    ("family", "method"), [(f, m) for m in METHODS for f in FAMILIES if f not in REFUSES.get(m, ())]
)
def test_every_method_on_every_detector_and_family(method, family, detector):
    asked(method, family, detector)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_methods_train_the_same(family):
    methods = ("full", "linear", "bitfit", "lora", "cst", "losa", "lst", "spt_sparse", "ftp", "petah")
    seen = {m: tuple(trained(make(m, FAMILIES[family]), 3, torch.optim.AdamW, 1e-2)) for m in methods}
    assert len(set(seen.values())) == len(seen)
    starts = {losses[0] for m, losses in seen.items() if m != "petah"}  # which prunes
    assert max(starts) - min(starts) < 1e-4, "every other method starts as the detector of the backbone as it is"


@pytest.mark.parametrize("backbone", FAMILIES.values())
@pytest.mark.parametrize("method", ["cst", *(pytest.param(m, marks=pytest.mark.slow) for m in ("losa", "lst"))])
def test_a_side_method_starts_as_the_frozen_detector(method, backbone):
    images = scenes()
    found = []
    for name in (method, "linear"):
        model = make(name, backbone).eval()
        with torch.no_grad():
            found.append(model.evaluate(images))
    for a, b in zip(*found, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in b)


def _saved(method, *words):
    short = "+backbone.args.layers=[1,1,1,1]"
    model = make(method, "timm", "backbone.name=resnet26", "backbone.pretrained=false", short, *words)
    meter = SavedBytes(model)
    model.train()
    torch.manual_seed(0)
    with meter.counting():
        model.loss(scenes())
    return meter.total


def test_cst_keeps_autograd_out_of_the_backbone():
    wide = "+backbone.args.base_width=128"
    assert _saved("cst", "task.detector=retinanet") == _saved("cst", "task.detector=retinanet", wide)
    fed = ["task.detector=retinanet", "method.feedback=true"]
    assert _saved("cst", *fed) < _saved("cst", *fed, wide)
    assert _saved("cst", "task.detector=retinanet") < _saved("cst", *fed)


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_is_not_to_train_does_not_and_is_not_counted(detector):
    few = ["task.neck=false", "task.rpn=false", "task.head=predictor", f"task.detector={detector}"]
    model = make("cst", "resnet_nano", *few)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    trained(model, 3)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    predictors = tuple(f"task.detector.net.{p}." for p in model.task.detector.predictors)
    assert {n for n in moved if n.startswith("task.")} == {n for n in before if n.startswith(predictors)}
    assert any(n.startswith("side.") for n in moved)
