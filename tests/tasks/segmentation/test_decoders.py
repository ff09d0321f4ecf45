"""Decoders over maps of any backbone: which they read, odd sizes, single images, and what is refused."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from peftbench.common.errors import Refusal, UserError
from peftbench.tasks.segmentation.decoders import SteadyBatchNorm, SteadyGroupNorm, in_halves, resized
from support.segmentation import CLASSES, make, pictures, trained

SMP = ("fpn", "upernet", "segformer", "deeplabv3plus")


def test_the_linear_decoder_is_batch_norm_and_a_convolution_on_the_last_map():
    model = make("linear", "resnet_nano")
    assert model.reads == (4,)
    assert sum(p.numel() for _, p in model.trainable()) == 2 * 192 + 192 * 3 + 3
    assert model.task.parts() == {"decoder": 2 * 192, "head": 192 * 3 + 3}
    logits = model.task.scores(model.extract, model.backbone, pictures()[0])
    assert logits.shape == (2, 3, 2, 2), "logits at the stride of the last map"


@pytest.mark.parametrize(
    ("backbone", "maps", "taps", "channels", "stride"),
    [("resnet_nano", 3, (2, 3, 4), 48 + 96 + 192, 8), ("vit_nano", 4, (4, 5, 6, 7), 4 * 128, 8)],
)
def test_several_maps_are_joined_at_the_finest(backbone, maps, taps, channels, stride):
    model = make("linear", backbone, f"task.maps={maps}")
    assert model.reads == taps
    assert model.task.decoder.head.in_channels == channels
    logits = model.task.scores(model.extract, model.backbone, pictures()[0])
    assert logits.shape[2:] == (64 // stride, 64 // stride)


def test_more_maps_than_there_are_and_maps_of_other_decoders():
    with pytest.raises(Refusal, match=r"task\.maps=6: resnet18 gives maps of 5 strides; give at most 5"):
        make("linear", "resnet_nano", "task.maps=6")
    with pytest.raises(Refusal, match=r"gives maps in 8 taps; give at most 8"):
        make("linear", "vit_nano", "task.maps=9")
    with pytest.raises(UserError, match=r"task\.maps=2: is of task\.decoder=linear; task\.decoder=fpn has its own"):
        make("linear", "resnet_nano", "task.decoder=fpn", "task.maps=2")
    with pytest.raises(UserError, match=r"task\.width=96: task\.decoder=fpn norms half of its channels in 32 groups"):
        make("linear", "resnet_nano", "task.decoder=fpn", "task.width=96")


@pytest.mark.parametrize("size", [(50, 37), (64, 64)])
def test_the_linear_decoder_takes_odd_sizes_and_single_images(size):
    model = make("losa", "resnet_nano", "task.maps=2", size=size)
    images, targets = pictures(1, size)
    model.train()
    loss = model.loss((images, targets))
    loss.backward()
    assert torch.isfinite(loss)
    model.eval()
    assert model(images).shape == (1, 3, *size)


def test_a_channel_of_one_value_is_normed_by_what_is_kept():
    norm = SteadyBatchNorm(3)
    before = {n: t.clone() for n, t in norm.state_dict().items()}
    single = torch.randn(1, 3, 1, 1)
    assert torch.allclose(norm.train()(single), norm.eval()(single))
    assert all(torch.equal(t, before[n]) for n, t in norm.state_dict().items())
    several = torch.randn(2, 3, 1, 1)
    plain = nn.BatchNorm2d(3)
    assert torch.equal(norm.train()(several), plain.train()(several))
    assert torch.equal(norm.running_mean, plain.running_mean)


def test_groups_of_one_value_are_normed_as_others_are():
    norm, plain = SteadyGroupNorm(4, 4), nn.GroupNorm(4, 4)
    several = torch.randn(1, 4, 2, 1)
    assert torch.equal(norm(several), plain(several))
    nn.init.constant_(norm.bias, 3.0)
    assert torch.allclose(norm(torch.randn(1, 4, 1, 1)), torch.full((1, 4, 1, 1), 3.0), atol=1e-3)


def test_maps_are_resized_only_where_they_must_be():
    maps = [torch.randn(1, 2, side, side) for side in (16, 8, 4, 2)]
    assert all(a is b for a, b in zip(in_halves(maps), maps, strict=True))
    odd = [torch.randn(1, 2, h, w) for h, w in ((13, 10), (7, 5), (4, 3), (2, 2))]
    assert [tuple(m.shape[2:]) for m in in_halves(odd)] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert resized(odd[0], (13, 10)) is odd[0]


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    real = importlib.import_module

    def absent(name, *rest):
        if name.startswith("segmentation_models_pytorch"):
            raise ModuleNotFoundError("No module named 'segmentation_models_pytorch'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match=r"pip install 'peftbench\[seg\]', or give task\.decoder=linear"):
        make("linear", "resnet_nano", "task.decoder=segformer")


@pytest.mark.parametrize("backbone", ["resnet_nano", "vit_nano"])
@pytest.mark.parametrize("decoder", [*SMP[2:], *(pytest.param(d, marks=pytest.mark.slow) for d in SMP[:2])])
def test_decoders_of_the_library_train_on_single_images_of_odd_sizes(decoder, backbone):
    pytest.importorskip("segmentation_models_pytorch")
    size = (50, 37) if backbone == "resnet_nano" else (64, 40)
    model = make("losa", backbone, f"task.decoder={decoder}", "task.width=64", size=size)
    losses = trained(model, 3, 0.01, size=size)
    assert losses[-1] < losses[0]
    assert not [n for n, p in model.trainable() if p.grad is None]
    images, targets = pictures(1, size)
    model.train()
    loss = model.loss((images, targets))
    assert torch.isfinite(loss)
    model.eval()
    assert model(images).shape == (1, len(CLASSES), *size)
    if backbone == "resnet_nano":
        model = make("linear", backbone, f"task.decoder={decoder}", "task.width=64", size=(32, 32))
        assert torch.isfinite(model.train().loss(pictures(1, (32, 32)))), "maps of one entry"
    parts = model.task.parts()
    assert parts["head"] < parts["decoder"]
    assert sum(parts.values()) == sum(p.numel() for p in model.task.parameters())


def test_a_backbone_with_too_few_maps_is_refused_in_a_sentence():
    pytest.importorskip("segmentation_models_pytorch")
    dilated = ["backbone.name=resnet10t", "backbone.pretrained=false", "+backbone.args.output_stride=8"]
    with pytest.raises(Refusal, match=r"reads 4 maps, of strides 4 to 32, and .* take task\.decoder=linear"):
        make("linear", "timm", *dilated, "task.decoder=segformer")
