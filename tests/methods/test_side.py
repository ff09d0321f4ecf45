"""What holds for every side method: it starts as the linear probe, leaves the backbone alone, and can be cached."""

import dataclasses

import pytest
import torch

import peftbench
from peftbench import backbones, config, deltas
from peftbench.common.digests import digest
from peftbench.runs.build import instantiate
from support.side import FAMILIES, batch, make, optimizer, randomise, saved, step

SIDE = ["cst", "lst"]  # a side method added later is one word
BOTH = [(m, f) for m in SIDE for f in FAMILIES]


def awake(model):
    return {n for n, p in model.trainable() if p.grad is not None and p.grad.count_nonzero()}


@pytest.mark.parametrize(("method", "family"), BOTH)
def test_it_starts_as_the_linear_probe_and_everything_wakes_up(method, family):
    model, probe = make(method, family), make("linear", family)
    probe.task.load_state_dict(model.task.state_dict())
    images = batch(model)[0]
    with torch.no_grad():
        assert torch.allclose(model(images), probe(images), atol=1e-6)
        assert torch.equal(model.extract(images)[-1], probe.extract(images)[-1])
        model.side.every = True
        given, facts = model.extract(images), model.backbone.facts
        assert all(map(torch.equal, given, model.backbone.taps(model.normalize(images), model.side.given)))
        maps = model.backbone.maps(given, model.side.given)  # ready for detectors
        assert [m.shape[1] for m in maps] == [facts.taps[i].channels for i in model.side.given]
        model.side.every = False
    opt = optimizer(model)
    step(model, opt)
    assert all(p.grad is not None for _, p in model.trainable()), "DDP would stop at what is not part of the graph"
    first = {n for n in awake(model) if n.startswith("side")}
    assert first
    assert all("gamma" in n or ".up." in n for n in first)
    step(model, opt)
    step(model, opt)
    assert {n for n, _ in model.trainable()} == awake(model)


@pytest.mark.parametrize("method", SIDE)
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_with_the_side_net_frozen_it_trains_as_the_linear_probe(method, family):
    model, probe = make(method, family), make("linear", family)
    probe.task.load_state_dict(model.task.state_dict())
    for parameter in model.side.parameters():
        parameter.requires_grad = False
    first, second = optimizer(model), optimizer(probe)
    for _ in range(3):
        assert step(model, first) == pytest.approx(step(probe, second), abs=1e-6)


@pytest.mark.parametrize("method", SIDE)
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_no_gradient_reaches_the_backbone_whatever_it_requires(method, family):
    model = make(method, family)
    opt = optimizer(model)
    step(model, opt)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = True  # on purpose
    assert all(tap.grad_fn is None for tap in model.frozen(batch(model)[0]))
    step(model, opt)
    tail = {id(p) for p in model.backbone.tail_parameters()}  # the side path's result passes through it
    assert all(p.grad is None for p in model.backbone.parameters() if id(p) not in tail)


@pytest.mark.parametrize("method", SIDE)
def test_the_backbone_does_not_move_nor_its_batch_norms_and_only_side_and_head_are_learned(method):
    model = make(method, "resnet")
    before = {n: t.clone() for n, t in model.backbone.state_dict().items()}
    opt = optimizer(model)
    for _ in range(5):
        step(model, opt)
    after = model.backbone.state_dict()
    assert any("num_batches_tracked" in n for n in after)
    assert all(torch.equal(tensor, after[n]) for n, tensor in before.items())
    assert not any(m.training for m in model.backbone.modules())
    assert {n.split(".")[0] for n, _ in model.trainable()} == {"side", "task"}
    learned = deltas.changed_tensors(model.state_dict(), {f"backbone.{n}": digest(t) for n, t in before.items()})
    assert set(learned) == {n for n, _ in model.trainable()}
    other = make(method, "resnet")
    other.load_state_dict(learned, strict=False)
    model.eval(), other.eval()
    with torch.no_grad():
        assert torch.equal(model(batch(model)[0]), other(batch(model)[0]))


@pytest.mark.parametrize("method", SIDE)
def test_bytes_saved_for_backward_depend_on_the_taps_and_the_side_net_alone(method):
    few, deep = {"base_width": 64, "layers": [1, 1, 1, 1]}, {"layers": [2, 2, 2, 2]}
    narrow = saved(method, "resnet", **few)
    assert narrow == saved(method, "resnet", **few | {"base_width": 256}) == saved(method, "resnet", **few | deep)
    assert saved(method, "vit", mlp_ratio=1) == saved(method, "vit", mlp_ratio=8) == saved(method, "vit", num_heads=6)
    assert saved(method, "vit", "method.reduction=2") > saved(method, "vit")


@pytest.mark.parametrize(("method", "family"), [(m, f) for m in SIDE for f in ("vit", "resnet", "swin", "hybrid")])
def test_training_from_cached_taps_gives_the_same_bits(method, family):
    live, cached = make(method, family), make(method, family)
    taps = [tap.clone() for tap in cached.frozen(batch(cached)[0])]
    first, second = optimizer(live), optimizer(cached)
    for _ in range(3):
        assert step(live, first) == step(cached, second, taps)


@pytest.mark.parametrize("method", SIDE)
def test_a_class_token_hears_of_the_grid(method):
    model = make(method, "vit")
    randomise(model.side)
    taps = model.frozen(batch(model)[0])
    moved = [torch.cat([tap[:, :1], tap[:, 1:].flip(2)], 1) for tap in taps[:-1]] + [taps[-1]]
    assert not torch.allclose(model.side(taps)[-1][:, 0], model.side(moved)[-1][:, 0])


@pytest.mark.parametrize("method", SIDE)
def test_training_goes_on_after_an_evaluation_in_inference_mode(method):
    model = make(method, "hybrid")
    opt = optimizer(model)
    step(model, opt)
    with torch.inference_mode():
        model.eval()(batch(model)[0])
    step(model, opt)


@pytest.mark.parametrize("method", SIDE)
@pytest.mark.parametrize("value", [0, -1, 25])
def test_a_reduction_that_leaves_no_width_is_refused(method, value):
    with pytest.raises(peftbench.UserError, match=rf"method\.reduction={value}: .*expected at (least 1|most that)\."):
        peftbench.count_parameters(method, "hybrid_nano", reduction=value)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        *((m, r"layer4 of resnet18 has no position left at 64 pixels .*data\.size") for m in SIDE),
        ("losa", r"tap layer4 of resnet18 is empty at 64 pixels \(512 x 0 x 0\); give larger images with data\.size"),
    ],
)
def test_taps_without_a_position_are_refused(method, told):
    backbone = backbones.build_on_meta(config.Backbone("resnet18", pretrained=False), 64)
    last = dataclasses.replace(backbone.facts.taps[-1], shape=(512, 0, 0))
    backbone.facts = dataclasses.replace(backbone.facts, taps=(*backbone.facts.taps[:-1], last))
    with pytest.raises(peftbench.Refusal, match=told):
        instantiate(peftbench.compose(f"method={method}").method).check(backbone)
