"""Windows that slide over an image, and several scales: logits are the mean over all looks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from peftbench.tasks.segmentation.looking import looks_of
from peftbench.tasks.segmentation.schema import Segmentation
from support.mistakes import refused
from support.runs import told_by
from support.segmentation import CLASSES, make, pictures

SIZE = (64, 96)


@cache
def only_model():
    """One model serves all tests."""
    return make("linear", "resnet_nano", size=SIZE).eval()


def model_with(**options):
    """It, looking at images as these options of the section say."""
    model = only_model()
    model.task.looks = looks_of(Segmentation(name="segmentation", **options))
    return model


def windows_in_numpy(logits_of, images, window, stride):
    """Of each pixel the mean of the logits of the windows that it is in."""
    height, width = images.shape[-2:]
    total, counts = np.zeros((len(images), len(CLASSES), height, width)), np.zeros((height, width))
    tops = sorted({min(top, height - window[0]) for top in range(0, height - window[0] + stride[0], stride[0])})
    lefts = sorted({min(left, width - window[1]) for left in range(0, width - window[1] + stride[1], stride[1])})
    for top in tops:
        for left in lefts:
            part = images[:, :, top : top + window[0], left : left + window[1]]
            logits = F.interpolate(logits_of(part), window, mode="bilinear", align_corners=False)
            total[:, :, top : top + window[0], left : left + window[1]] += logits.numpy()
            counts[top : top + window[0], left : left + window[1]] += 1
    return total / counts


def looked(images, **options):
    """Logits at the size of the images, and what gives those of a part."""
    model = model_with(**options)

    def logits_of(part):
        return model.task.decoder(model.backbone.maps(model.extract(part), model.task.decoder.taps))

    with torch.no_grad():
        return model(images), logits_of


@pytest.mark.parametrize(
    ("window", "stride"), [((32, 48), (32, 48)), ((32, 32), (20, 24)), ((64, 64), (42, 42)), ((40, 96), (7, 1))]
)
def test_a_pixel_has_the_mean_of_the_windows_that_it_is_in(window, stride):
    images = pictures(size=SIZE)[0]
    logits, logits_of = looked(images, window=window, stride=stride)
    with torch.no_grad():
        expected = windows_in_numpy(logits_of, images, window, stride)
    assert logits.shape == (2, len(CLASSES), *SIZE)
    assert np.allclose(logits.numpy(), expected, atol=1e-5)
    if stride == window:
        with torch.no_grad():
            alone = F.interpolate(logits_of(images[:, :, 32:, 48:]), window, mode="bilinear", align_corners=False)
        assert torch.equal(logits[:, :, 32:, 48:], alone), "without overlap nothing is averaged"


def test_a_window_that_covers_the_image_is_the_image_to_the_bit():
    images, targets = pictures(size=SIZE)
    answers = []
    for options in ({}, {"window": SIZE, "stride": (8, 8)}):
        model = model_with(**options)
        with torch.no_grad():
            answers.append([model(images), *model.evaluate((images, targets))])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_an_image_smaller_than_a_window_is_padded_to_it():
    images = pictures(size=(40, 96))[0]
    logits, logits_of = looked(images, window=64, stride=(64, 32))
    model = only_model()
    padded = torch.tensor(model.task.colour, dtype=torch.uint8)[:, None, None].repeat(2, 1, 64, 96)
    padded[:, :, :40] = images
    with torch.no_grad():
        expected = windows_in_numpy(logits_of, padded, (64, 64), (64, 32))[:, :, :40]
    assert logits.shape[2:] == (40, 96)
    assert np.allclose(logits.numpy(), expected, atol=1e-5)
    floats = model.normalize(images)
    with torch.no_grad():
        assert torch.allclose(model(floats), logits, atol=0.05), "the mean's colour is about 0"


def test_scales_are_averaged_and_flips_too():
    images = pictures(size=SIZE)[0]
    logits, logits_of = looked(images, scales=(0.5, 1.0, 1.5))
    expected = 0
    for scale in (0.5, 1, 1.5):
        size = [round(side * scale) for side in SIZE]
        view = F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        with torch.no_grad():
            expected = expected + F.interpolate(logits_of(view if scale != 1 else images), SIZE, mode="bilinear") / 3
    assert torch.allclose(logits, expected, atol=1e-5)
    model = only_model()
    model.flips = True
    with torch.no_grad():
        both = model(images)
        mirrored = model(images.flip(-1)).flip(-1)
    model.flips = False
    assert torch.allclose(both, mirrored, atol=1e-4)
    assert not torch.allclose(both, logits, atol=1e-3)


def test_training_looks_at_what_it_is_given():
    batch = pictures(size=SIZE)
    model = model_with(window=32, scales=(0.5, 1.0)).train()
    loss = model.loss(batch)
    assert torch.equal(loss, model_with().loss(batch))
    model.eval()


QUICK = ["data=digits_seg", "data.images=[4,4,4]", "data.canvas=64", "backbone=resnet_nano", "method=linear"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task.window=32"], "data.augment=none trains on whole ones; give data.augment=crop, scale or rrc"),
        (["task.stride=32"], "task.stride=32: is from window to window; give task.window, too"),
        (["task.window=32", "task.stride=[33,8]", "data.augment=crop"], "so that pixels would be in no window"),
        (["task.window=32", "data.size=null", "data.augment=crop"], "cut from images of data.size, which is null"),
        (["task.window=0"], "task.window=0: expected"),
        (["task.scales=[0]"], "task.scales=[0"),
        (["task.boundary=1.5"], "task.boundary=1.5"),
        (["backbone=vit_nano", "task.scales=[0.5,1]"], "is built for one input size; give task.window=S too"),
    ],
)
def test_looks_that_make_no_sense_are_refused(words, told, capsys):
    refused(told_by(capsys, *QUICK, *words), told)
