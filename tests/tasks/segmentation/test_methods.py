"""Every method on every family with the linear decoder: what trains, what stays, and that each starts alike."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

from support.backbones import DEAR, REFUSES
from support.detection import FAMILIES, METHODS
from support.segmentation import CANVAS, CLASSES, make, pictures, trained


def rotated():
    """Each method once, over the families in turn; a few are tried each time, the others in slow tests."""
    turn = cycle(FAMILIES)
    chosen = [(m, next(f for f in turn if f not in REFUSES.get(m, ()))) for m in METHODS]
    quick = {"full", "linear", "losa"} - set(DEAR)
    return [c if c[0] in quick else pytest.param(*c, marks=pytest.mark.slow) for c in chosen]


@pytest.mark.parametrize(("method", "family"), rotated())
def test_every_method_trains_a_segmenter(method, family):
    model = make(method, FAMILIES[family])
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    losses = trained(model)
    assert losses[-1] < losses[0]
    after = model.state_dict()
    moved = {n for n, t in before.items() if not torch.equal(t, after[n])}
    assert not moved & frozen
    assert {"task.decoder.head.weight", "task.decoder.body.weight"} <= moved
    if model.method.side:
        assert not [n for n in moved if n.startswith("backbone.")]
    assert not [n for n, p in model.trainable() if p.grad is None], "DDP would stop at a parameter without gradient"
    model.eval()
    with torch.no_grad():
        images, targets = pictures()
        logits, answers = model(images), model.evaluate((images, targets))
    assert logits.shape == (2, len(CLASSES), *CANVAS)
    assert [a.shape for a in answers] == [t["true"].shape for t in targets]


@pytest.mark.parametrize("backbone", ["resnet_nano", pytest.param("vit_nano", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["cst", *(pytest.param(m, marks=pytest.mark.slow) for m in ("losa", "lst"))])
def test_a_side_method_starts_as_the_frozen_decoder(method, backbone):
    images = pictures()[0]
    with torch.no_grad():
        ours, plain = (make(name, backbone).eval()(images) for name in (method, "linear"))
    assert torch.allclose(ours, plain, atol=1e-5), "maps laid out in another order round differently"


@pytest.mark.parametrize("method", ["losa", "linear"])
def test_a_step_from_kept_taps_is_a_step_from_images(method):
    model = make(method, "resnet_nano", "task.maps=2")
    images, targets = pictures()
    model.train()
    with torch.no_grad():
        cached = model.frozen(images)
        live = model.loss((images, targets))
    empty = torch.empty((2, 3, 0, 0), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.loss((empty, targets), cached), live)
        assert torch.equal(model.eval()(empty, cached), model(images))
