"""Runs that train late blocks alone go on from kept taps: the same bits as in one pass, and no gradient below."""

from __future__ import annotations

import pytest
import torch

import peftbench
from peftbench.backbones.prefix import find_prefix
from peftbench.methods.base import Plan
from peftbench.methods.partial import Partial
from peftbench.models.kept_taps import why_in_one_pass
from peftbench.models.model import Model
from peftbench.runs.dry_run import plan_run
from peftbench.tasks.classification.task import Classification
from support.backbones import SMALL, spec, with_weights
from support.taps import RUN, history, record

VIT = {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 2}
SWIN = {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 16}  # which drops paths of its own
NETS = {
    "vit": (spec("vit_tiny_patch16_224", VIT), 32, 1),
    "cnn": (SMALL["cnn"], 32, 3),
    "hybrid": (SMALL["hybrid"], 64, 3),
    "Swin": (spec("swin_tiny_patch4_window7_224", {**SWIN, "drop_path_rate": 0.0}), 64, 2),
    "EVA": (spec("eva02_tiny_patch14_224", {**VIT, "img_size": 28}), 28, 1),
    "BEiT": (spec("beit_base_patch16_224", VIT), 32, 1),
    "ConvNeXt": (spec("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}), 64, 2),
}
SLOWLY = [pytest.param(n, marks=() if n in ("vit", "cnn") else pytest.mark.slow) for n in NETS]


def run_of(*words):
    """Words of a run of late blocks; RUN has its images once the tests have begun."""
    return ["method=partial", *(w for w in RUN if not w.startswith(("method", "backbone"))), *words]


def late(net, size, options=None):
    backbone = with_weights(net, size)
    method = Partial(**(options or {}))
    model = Model(backbone, Classification(backbone, ["a", "b", "c"]))
    model.adapted(method.adapt(backbone, Plan()))
    return model


def noise(model, count=8):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, *model.backbone.facts.canvas), dtype=torch.uint8, generator=random)
    return pixels, torch.arange(count) % 3


@pytest.mark.parametrize("name", SLOWLY)
def test_losses_and_gradients_behind_a_prefix_are_those_of_one_pass(name):
    net, size, last = NETS[name]
    found = []
    for apart in (False, True):
        model = late(net, size)
        if apart:
            assert model.start_behind_prefix(False) == ""
            assert model.prefix.taps == (last,)
        model.train()
        images, labels = noise(model)
        loss = model.loss((images, labels))
        if apart:
            kept = model.frozen(images)
            assert not any(t.requires_grad for t in kept)
            cached = model.loss((images[..., :0, :0], labels), kept)
            assert torch.equal(cached, loss)
            loss = cached
        names, trained = zip(*model.trainable(), strict=True)
        found.append([loss, *torch.autograd.grad(loss, trained)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), names


def test_the_prefix_ends_where_the_first_trained_tensor_is():
    net, size, _ = NETS["vit"]
    for options, taps in (
        ({"names": ("norm.*",)}, (2,)),
        ({"names": ("blocks.1.mlp.fc2.bias",)}, (0,)),
        ({"names": ("blocks.0.norm1.weight",)}, None),
        ({"names": ("pos_embed", "norm.*")}, None),
    ):
        model = late(net, size, options)
        why = model.start_behind_prefix(False)
        assert (model.prefix and model.prefix.taps) == taps
        assert (why == "") == (taps is not None)


def test_chance_in_the_prefix_makes_it_one_pass():
    for words, why in (
        ({"drop_path_rate": 0.5}, "DropPath drops"),
        ({"attn_drop_rate": 0.1}, "Dropout drops 0.1 at random before the first layer that trains"),
        ({"pos_drop_rate": 0.1}, "Dropout drops 0.1"),
    ):
        model = late(spec("vit_tiny_patch16_224", VIT | words), 32)
        assert why in model.start_behind_prefix(False)
        assert model.prefix is None
    model = late(spec("vit_tiny_patch16_224", VIT), 32, {"names": ("norm.*",)})
    assert find_prefix(model.backbone, (-1,), False).taps == (2,)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("trainer.precision=bf16", "trainer.precision=bf16 rounds between blocks"),
        ("trainer.channels_last=true", "another layout"),
        ("trainer.grad_checkpointing=true", "computes blocks again"),
        ("trainer.compile=true", "compiles whole blocks"),
    ],
)
def test_ways_of_computing_that_need_one_pass(word, why):
    config = peftbench.compose("method=partial", "backbone=vit_nano", "data=digits", word)
    assert why in why_in_one_pass(config, True)
    assert "different sizes" in why_in_one_pass(config, False)


@pytest.mark.parametrize("backbone", ["vit_nano", pytest.param("resnet_nano", marks=pytest.mark.slow)])
def test_a_run_from_the_cache_is_the_run_without_it(cli, tmp_path, cache, backbone):
    words = run_of(f"backbone={backbone}", "data.batch_size=7", "data.stage=tune", "data.eval_batch_size=11")
    for mode in ("off", "disk"):
        assert cli(*words, f"taps={mode}", f"output_dir={tmp_path / mode}")[0] == 0
    assert history(tmp_path / "off") == history(tmp_path / "disk")
    live, kept = (record(tmp_path / mode) for mode in ("off", "disk"))
    assert live["metrics"] == kept["metrics"]
    assert live["costs"]["taps"] == {"mode": "off"}
    behind = {"vit_nano": "blocks.6", "resnet_nano": "layer3"}[backbone]
    assert (kept["costs"]["taps"]["mode"], kept["costs"]["taps"]["behind"]) == ("disk", behind)
    assert kept["costs"]["taps"]["computed"] == kept["costs"]["taps"]["rows"] > 0
    assert cli(*words, "optimizer.lr=1e-3", f"output_dir={tmp_path / 'again'}")[0] == 0
    assert record(tmp_path / "again")["costs"]["taps"]["computed"] == 0


@pytest.mark.slow
def test_a_run_that_cannot_keep_its_prefix_says_why_and_trains(cli, tmp_path, cache):
    words = run_of("backbone=vit_nano", "taps=disk")
    status, _, err = cli(*words, "backbone.drop_path=0.1", f"output_dir={tmp_path / 'a'}")
    assert status == 0
    assert "taps=disk: no block of vit_tiny" in err
    assert "since DropPath drops" in err
    assert "taps" not in record(tmp_path / "a")["costs"]
    assert cli(*words, "data.augment=flip", f"output_dir={tmp_path / 'b'}")[0] == 0
    assert record(tmp_path / "b")["costs"]["taps"] == {"mode": "off"}
    status, _, err = cli(*words, "method.preset=first_k", f"output_dir={tmp_path / 'c'}")
    assert status == 0
    assert "since what trains begins before the first block" in err


def test_the_plan_foretells_what_is_kept():
    words = ["method=partial", "backbone=vit_nano", "data=digits", "taps=memory"]
    planned = plan_run(peftbench.compose(*words))
    assert planned.taps.mode == "memory"
    assert any("the backbone runs from behind blocks.6 alone" in note for note in planned.notes)
