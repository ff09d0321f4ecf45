"""What becomes of an image that is no square: squashed, cut or padded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.data.base import Split
from support.clips import clip
from support.datasets import load, noise, transform_with

WIDE = noise(1, 24)[0][:12]  # 12 high, 24 wide


def made(resize: str, image: object = WIDE, **changes: object) -> np.ndarray:
    """(16, 16, 3)."""
    return replace(transform_with("none"), resize=resize, **changes)(image).permute(1, 2, 0).numpy()


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def test_squash_crop_and_pad():
    assert (made("squash") == resized(WIDE, 16, 16)).all()
    inner = np.s_[:, 1:-1]  # at its edges PIL looks a little beyond the part that it cuts
    assert (made("crop")[inner] == resized(WIDE[:, 6:18], 16, 16)[inner]).all()
    padded = made("pad", mean=(0.5, 0.25, 1.0))
    assert (padded[4:12] == resized(WIDE, 16, 8)).all()
    assert (padded[[0, 3, 12, 15]] == [128, 64, 255]).all(), "the colour of the mean"
    tall = np.ascontiguousarray(WIDE.transpose(1, 0, 2))
    for how in ("crop", "pad"):
        assert (np.abs(made(how, tall).astype(int) - made(how).transpose(1, 0, 2)) <= 1).all()


@pytest.mark.parametrize("how", ["crop", "pad"])
def test_a_square_is_the_same_in_every_way_and_thin_images_are_read(how):
    square = noise(1, 20)[0]
    assert (made(how, square) == made("squash", square)).all()
    assert made(how, np.ascontiguousarray(WIDE[:1])).shape == (16, 16, 3)
    assert made(how, np.zeros((1, 900, 3), dtype=np.uint8)).shape == (16, 16, 3)


@pytest.mark.parametrize("how", ["crop", "pad"])
def test_training_evaluation_and_a_single_image_agree(tmp_path, how):
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.roll(WIDE, i, 1)).save(paths[-1])
    split = Split(paths, np.arange(4), [p.name for p in paths])
    loaded = load((split, split, None), resize=how)
    expected = torch.stack([loaded.train.dataset.transform(p) for p in paths])
    (training,), (validation,) = loaded.train, loaded.val
    assert torch.equal(validation.images, expected)
    assert torch.equal(training.images[training.targets.argsort()], expected)


def test_cuts_are_taken_from_what_is_cut_or_padded_first():
    split = Split(WIDE[None], np.zeros(1, dtype=np.int64), ["wide"])
    images = load((split, None, None), augment="crop", resize="pad").train.dataset
    assert images.pictures(torch.arange(1)).shape == (1, 3, 18, 18)
    assert (images.pictures(torch.arange(1))[0, :, 0] == 128).all()


def test_frames_of_clips_keep_their_shape_too(tmp_path):
    folder = clip(tmp_path / "c", [10, 20])  # frames of 10 x 8 pixels
    split = Split([folder], np.zeros(1, dtype=np.int64), ["c"], frames=2)
    pixels = load((split, None, None), resize="pad").train.dataset.pictures(torch.arange(1))[0]
    assert (pixels[:, :, 0] == 128).all()
    assert pixels[:, 0, 8, 8].tolist() == [10, 20]
