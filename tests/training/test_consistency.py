"""PACE: noise on branches, its penalty, its depth, what it costs, and what it is refused over."""

import pytest
import torch
from torch import nn

import peftbench
from peftbench.costs import SavedBytes
from peftbench.methods.shared.branches import OutputOf, UpdateOf
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, updates
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.runs.dry_run import _second_pass
from peftbench.training.consistency import Consistency, noise_shares, scaled
from support.backbones import composed, on_meta
from support.batches import batch
from support.finished_runs import same
from support.models import adapted_model
from support.runs import learned
from support.stops import interrupted_and_undisturbed

FORMS = {
    "beside": (lambda: nn.Linear(6, 4), Form(2, 0.5), (3, 5, 6)),
    "of the weight": (lambda: nn.Linear(6, 4), Form(2, 0.5, "weight", fused=True), (3, 5, 6)),
    "with lengths": (lambda: nn.Linear(6, 4), Form(2, 0.5, "weight", fused=True, magnitude=True), (3, 5, 6)),
    "of a convolution": (lambda: nn.Conv2d(6, 4, 3), Form(2, 0.5, "read", kernel_rows=True), (3, 6, 7, 7)),
}

ADDED = (("adapter",), ("spt_lora",), ("repadapter", "backbone=vit_nano"), ("fact", "backbone=vit_nano"))


def trained(name="lora", family="vit", *words):
    """A model whose updates are away from their start."""
    model = adapted_model(name, family, *words)
    for update in updates(model.backbone.net):
        update.b.data += 0.05 * torch.randn(update.b.shape)
    for name, added in model.trainable():
        if name.endswith((".up", ".up_bias")):
            added.data += 0.05 * torch.randn(added.shape)
    return model.train()


def spec(*words):
    return composed("method=pace", "data=digits", *words).trainer


@pytest.mark.parametrize("form", FORMS)
def test_a_held_branch_is_what_the_update_adds(form):
    torch.manual_seed(0)
    make, how, shape = FORMS[form]
    layer, x = make().double().requires_grad_(False), torch.randn(shape, dtype=torch.double)
    plain = layer(x)
    update = LowRankUpdate.add(layer, how)
    nn.init.normal_(update.b)
    whole, branch = layer(x), UpdateOf("layer", layer)
    branch.hold(lambda added: 3 * added)
    torch.testing.assert_close(layer(x), plain + 3 * (whole - plain))
    branch.release()
    assert torch.equal(layer(x), whole)


def test_a_module_whose_output_is_a_branch_is_held_by_it():
    module, x = nn.Linear(3, 3), torch.randn(2, 3)
    branch = OutputOf("block", module)
    branch.hold(lambda added: 2 * added)
    assert torch.equal(module(x), 2 * nn.functional.linear(x, module.weight, module.bias))
    branch.release()
    assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))


def test_the_distance_of_a_linear_net_is_the_papers():
    """f = V (h0 + z dh): the mean of |f1 - f2|^2 is 2 sigma^2 times the sum of |V_j|^2 dh_j^2."""
    torch.manual_seed(0)
    v, base, added, generator = torch.randn(4, 6), torch.randn(6), torch.randn(6), torch.Generator().manual_seed(1)
    draws = [(base + scaled(added.expand(200_000, 6), 200_000, -1, 0.7, generator, "")) @ v.T for _ in range(2)]
    found = (draws[0] - draws[1]).square().sum(1).mean()
    assert found.item() == pytest.approx((2 * 0.7**2 * v.square().sum(0) @ added.square()).item(), rel=0.02)


def test_noise_is_of_an_image_and_a_channel_shared_by_tokens_and_windows():
    generator = torch.Generator().manual_seed(0)
    z = scaled(torch.ones(6, 5, 4), 3, -1, 1.0, generator, "")  # two windows of each image
    assert torch.equal(z, z[:, :1].expand_as(z))
    assert torch.equal(z[0::2], z[1::2])
    assert len(z[::2, 0].unique()) == 12
    maps = scaled(torch.ones(3, 4, 2, 2), 3, 1, 1.0, generator, "")
    assert torch.equal(maps, maps[..., :1, :1].expand_as(maps))
    with pytest.raises(peftbench.Refusal, match="the stem is given 5 rows for 3 images"):
        scaled(torch.ones(5, 4), 3, -1, 1.0, generator, "the stem")


def test_noise_falls_with_depth():
    vit = on_meta(composed("backbone=vit_b").backbone)
    names = [f"blocks.{i}.attn.qkv" for i in range(12)]
    shares = noise_shares(vit, [*names, "patch_embed.proj"])
    assert [shares[n] for n in names] == [0.0, *(pytest.approx(i / 12) for i in range(12, 1, -1))]
    assert (shares["patch_embed.proj"], shares[""]) == (0.0, pytest.approx(1 / 12))
    cnn = noise_shares(
        on_meta(composed("backbone=resnet_nano").backbone), ["conv1", "layer1.0.conv1", "layer4.0.conv1"]
    )
    assert cnn["conv1"] == cnn["layer1.0.conv1"] == 1.0 > cnn["layer4.0.conv1"] > cnn[""] > 0


def test_without_noise_the_loss_is_the_plain_one():
    model = trained()
    plain = model.loss(batch())
    pace = Consistency(model, model.method, spec("trainer.consistency_noise=0", "trainer.consistency=5"))
    torch.testing.assert_close(pace.loss(batch(), 0, 1, 2), plain)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("lora", "vit"),
        ("adapter", "vit"),
        pytest.param("lora", "cnn", marks=pytest.mark.slow),
        pytest.param("adapter", "hybrid", marks=pytest.mark.slow),
        *(pytest.param(n, "vit", marks=pytest.mark.slow) for n in ("mona", "convpass", "repadapter", "spt_adapter")),
    ],
)
def test_the_penalty_is_of_two_draws_seeded_by_their_place_and_trains_every_factor(name, family):
    model = trained(name, family)
    losses = {}
    for weight in (1, 3):
        pace = Consistency(model, model.method, spec(f"trainer.consistency={weight}"))
        losses[weight] = []
        for place in ((1, 2), (1, 2), (1, 3)):
            torch.manual_seed(0)  # of masks
            losses[weight].append(pace.loss(batch(), 0, *place))
    same_place, again, other = losses[1]
    assert same_place == again != other
    first = 1.5 * losses[1][0] - 0.5 * losses[3][0]  # of the first pass: noise is on
    assert losses[3][0] > losses[1][0] > first
    torch.manual_seed(0)
    assert first.item() != pytest.approx(model.loss(batch()).item(), rel=1e-6)
    model.zero_grad()
    other.backward()
    assert all(p.grad.any() for n, p in model.trainable())
    assert "forward" not in {k for m in model.modules() for k in m.__dict__}
    assert torch.equal(model.eval()(batch()[0]), model(batch()[0])), "noise is of training alone"


def test_masks_of_dropout_are_shared_by_both_passes():
    model = trained("lora", "vit", "method.dropout=0.5")
    pace = Consistency(model, model.method, spec("trainer.consistency=1", "trainer.consistency_noise=1e-6"))
    torch.manual_seed(0)
    plain = model.loss(batch())
    torch.manual_seed(0)
    assert pace.loss(batch(), 0, 1).item() == pytest.approx(plain.item(), abs=1e-5)


def test_every_nth_step_takes_half_a_batch_twice_and_keeps_no_more_than_a_whole_one():
    kept = {}
    for every in (1, 4):
        model = trained()
        pace = Consistency(model, model.method, spec(f"trainer.consistency_every={every}"))
        seen = []
        model.task.head.register_forward_hook(lambda head, given, out, seen=seen: seen.append(len(out)))
        meter = SavedBytes(model)
        with meter.counting():
            pace.loss(batch(), 0, 1)
        kept[every] = meter.total
        for step in range(1, 4):
            pace.loss(batch(), step, 1)
        assert seen == ([8] * 8 if every == 1 else [8, 8, 8, 4, 4])
    assert 1.8 < kept[1] / kept[4] < 2.1


@pytest.mark.parametrize(
    ("every", "told"),
    [(1, "the second pass of trainer.consistency, which takes as much again"), (2, "twice, which takes about as much")],
)
def test_a_plan_says_what_the_second_pass_takes(every, told):
    words = ("method=pace", "backbone=vit_nano", "data=digits", f"trainer.consistency_every={every}")
    assert _second_pass(composed(*words)).endswith(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["method=losa", "trainer.consistency=0.1"],
            r"trainer\.consistency=0\.1: method=losa stands beside the frozen",
        ),
        (
            ["method=full", "trainer.consistency=0.1"],
            r"method=full adds nothing beside a layer that noise could scale; take method=lora or adapter, or leave",
        ),
        *(
            pytest.param([f"method={m}", "trainer.consistency=0.1"], f"method={m} adds nothing", marks=pytest.mark.slow)
            for m in ("vpt", "bitfit", "ssf", "gps", "partial", "spt_sparse", "dtl")
        ),
        (["method=pace", "trainer.compile=true"], r"trainer\.compile=true computes again, or has compiled"),
        (["method=pace", "trainer.grad_checkpointing=true"], r"trainer\.grad_checkpointing=true computes again"),
        (["method=pace", "trainer=fsdp"], r"in two parts, which trainer=fsdp has not; use trainer=ddp"),
        (["method=pace", "trainer.consistency=0"], r"consistency=0: without it method=pace is another method, LoRA"),
        (["method=pace", "data=digits_det"], r"task=detection has none such"),
        (
            ["method=lora", "trainer.consistency_every=2"],
            r"consistency_every=2: does nothing without trainer\.consistency",
        ),
        (
            ["method=pace", "backbone=timm", "backbone.name=beit_base_patch16_224", "backbone.pretrained=false"],
            r"blocks\.0\.attn\.qkv of beit_base_patch16_224 is read instead of called",
        ),
    ],
)
def test_what_it_is_refused_over(words, told):
    def refused():
        config = peftbench.compose("backbone=vit_nano", "data=digits", *words)
        refuse_incompatible(config, instantiate(config.method))

    with pytest.raises(peftbench.UserError, match=told):
        refused()


@pytest.mark.parametrize(
    "words",
    [
        ["method=pace", "trainer.consistency_every=2"],
        *(
            pytest.param([f"method={m}", "trainer.consistency=0.5", *words], marks=pytest.mark.slow)
            for m, *words in ADDED
        ),
        pytest.param(["method=petah", "pruning=none", "trainer.consistency=0.5"], marks=pytest.mark.slow),
        pytest.param(["method=dora", "trainer.consistency=0.5", "trainer.micro_batch=7"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_run_resumes_to_the_same_bits(words, tmp_path, monkeypatch):
    resumed, undisturbed = interrupted_and_undisturbed(
        tmp_path, monkeypatch, "data.eval_batch_size=200", "logger=none", "backbone.pretrained=true", *words
    )
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics
