"""DTL: its equation, its exact start, and the frozen half of the blocks, which runs once."""

import copy

import pytest
import torch

import peftbench
from peftbench.methods.base import Plan
from peftbench.methods.dtl import DTL
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import composed, on_meta, parameters, spec, with_weights
from support.mistakes import refused
from support.taps import history, record

VIT = {"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 2}
NETS = {
    "vit": spec("vit_tiny_patch16_224", VIT),
    "registers": spec("vit_small_patch14_reg4_dinov2", VIT | {"img_size": 42}),
    "EVA": spec("eva02_tiny_patch14_224", {**VIT, "img_size": 28}),
    "BEiT": spec("beit_base_patch16_224", VIT),
}


def made(name="vit", moved=True, **options):
    backbone = with_weights(NETS[name])
    method = DTL(**options)
    method.check(backbone)
    model = Model(backbone, Classification(backbone, ["a", "b", "c"]))
    torch.manual_seed(1)
    model.adapted(method.adapt(backbone, Plan()))
    if moved:
        for up in backbone.stream.up:
            torch.nn.init.normal_(up, std=0.05)
    return model


def noise(model, count=8):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, *model.backbone.facts.canvas), dtype=torch.uint8, generator=random)
    return pixels, torch.arange(count) % 3


@pytest.mark.parametrize("plus", [False, True])
def test_it_computes_the_papers_equation(plus):
    model = made(plus=plus, rank=3)
    net, stream = model.backbone.net, model.backbone.stream
    images = model.frames(noise(model)[0])
    with torch.no_grad():
        got = model.backbone.taps(images)[-1]
        entered = []
        net.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        plain = copy.deepcopy(net)
        for block in plain.blocks:
            block._forward_hooks.clear()
        model.backbone.taps(images)
        x, h = entered[0], torch.zeros(())
        for i, block in enumerate(plain.blocks):
            h = h + x @ stream.down[i].T @ stream.up[i].T
            x = block(x)
            if i >= 2:
                added = h * torch.sigmoid(100 * h)
                if plus:
                    grid = added[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
                    spread = torch.nn.functional.conv2d(grid, stream.spread.weight, padding=1, groups=48)
                    added = torch.cat([added[:, :1], spread.flatten(2).transpose(1, 2)], 1)
                x = x + added
    torch.testing.assert_close(got, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", *(pytest.param(n, marks=pytest.mark.slow) for n in NETS if n != "vit")])
@pytest.mark.parametrize("plus", [False, True])
def test_from_kept_taps_it_is_what_it_is_in_one_pass_to_the_bit(name, plus):
    start = made(name, moved=False, plus=plus)
    untouched = with_weights(NETS[name])
    with torch.no_grad():
        images = start.frames(noise(start)[0])
        assert torch.equal(start.backbone.taps(images)[-1], untouched.taps(images)[-1])
    found = []
    for apart in (False, True):
        model = made(name, plus=plus).train()
        images, labels = noise(model)
        kept = None
        if apart:
            assert model.start_behind_prefix(True) == ""
            assert (model.prefix.taps, model.prefix.embedded) == ((0, 1, 2), True), "the half, and one block more"
            kept = model.frozen(images)
            assert len(kept) == 4
            assert not any(tap.requires_grad for tap in kept)
        loss = model.loss((images, labels), kept)
        names, trained = zip(*model.trainable(), strict=True)
        found.append([loss, *torch.autograd.grad(loss, trained)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), names
    assert all(gradient.any() for gradient in found[0][1:])


def test_no_graph_leads_into_the_frozen_half():
    model = made().train()
    reached = set()
    for i, block in enumerate(model.backbone.net.blocks):
        block.attn.register_full_backward_hook(lambda *_, i=i: reached.add(i))
    model.loss(noise(model)).backward()
    assert reached == {3}, "block 2 is the first whose output is changed, and needs no gradient of its own"


def test_counts_and_refusals(cli):
    for name, (count, plus) in {"vit_b": (36_864, 43_776), "vit_s": (18_432, 21_888)}.items():
        backbone = on_meta(composed(f"backbone={name}").backbone)
        assert parameters(DTL(), copy.deepcopy(backbone)) == count
        assert parameters(DTL(plus=True), backbone) == plus
    told = cli("method=dtl", "backbone=resnet_nano", "data=digits")
    refused(told, "has no sequence of equal blocks of tokens; method=losa and method=lora work.")
    refused(cli("method=dtl", "backbone=vit_nano", "data=digits", "method.first=8"), "has 8 blocks, counted from 0")
    with pytest.raises(
        peftbench.UserError, match=r"method\.first=0: blocks are counted from 0, and the first one must"
    ):
        DTL(first=0).check(backbone)
    for word in ("trainer.grad_checkpointing=true", "trainer.compile=true"):
        refused(cli("method=dtl", "backbone=vit_nano", "data=digits", word), "which must run once and whole")


@pytest.mark.slow
def test_a_run_is_the_same_from_the_cache_and_loaded(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    tiny = ["backbone=vit_nano", "data=digits", "data.stage=tune", "data.batch_size=7", "trainer.epochs=2"]
    tiny += ["trainer.max_batches=3", "trainer.progress=false", "logger=none", "method=dtl_plus"]
    for mode in ("off", "disk"):
        status, _, err = cli(*tiny, f"taps={mode}", f"output_dir={tmp_path / mode}")
        assert status == 0, err
    assert history(tmp_path / "off") == history(tmp_path / "disk")
    kept = record(tmp_path / "disk")
    assert kept["costs"]["taps"]["behind"] == "blocks.4"
    run = next((tmp_path / "disk").glob("*/result.json")).parent
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    tuned = peftbench.load(run)
    assert torch.equal(tuned(images), peftbench.load(next((tmp_path / "off").glob("*/result.json")).parent)(images))
