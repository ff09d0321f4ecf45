"""Corruptions of images, for testing how far a model's accuracy survives a shift.

The six are of the kind of ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261), applied to the image as
the model gets it; the strengths are ours and in units of the image's size and range, so that they mean the same at any
input size. Numbers are therefore not those of ImageNet-C.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from peftbench.data.images import Batch, Images, Indices

SEVERITIES = (1, 2, 3, 4, 5)


def _noise(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise; the level is its deviation, as a share of the range."""
    return image + rng.normal(0, 255 * level, image.shape)


def _blur(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur; the level is its deviation, as a share of the width."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(level * image.shape[1])))


def _contrast(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Less contrast; the level is the share that is left of the distance to each channel's mean."""
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * level + mean


def _brightness(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Brighter; the level is added to the value of hue, saturation and value, as a share of the range."""
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.float64)
    hsv[..., 2] += 255 * level
    return np.asarray(Image.fromarray(_bytes(hsv), "HSV").convert("RGB"))


def _jpeg(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Compressed as JPEG; the level is the quality (1 to 100)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(level))
    return np.asarray(Image.open(file))


def _pixelate(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Reduced and enlarged again without smoothing; the level is the share of its size that it is reduced to."""
    height, width = image.shape[:2]
    small = (max(1, round(width * level)), max(1, round(height * level)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize((width, height), Image.Resampling.NEAREST))


Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (0.005, 0.01, 0.015, 0.02, 0.03)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
}
"""Name -> (function of an image (H, W, 3) in bytes, its level at severity 1 to 5)."""


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    places: Sequence[int],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """uint8 images (B, 3, H, W), each corrupted.

    Args:
        images: as the model gets them.
        name, severity: of the corruption.
        places: of the images in the set, which seed what is random.
        sizes: height and width of each image at the top left of its canvas, where the rest is padding and stays.
    """
    function, levels = CORRUPTIONS[name]
    corrupted = images.clone()
    for i, (canvas, place) in enumerate(zip(images, places, strict=True)):
        height, width = canvas.shape[1:] if sizes is None else sizes[i]
        image = canvas[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
        rng = np.random.default_rng([zlib.crc32(name.encode()), severity, place])
        changed = torch.from_numpy(_bytes(function(image, levels[severity - 1], rng)))
        corrupted[i, :, :height, :width] = changed.permute(2, 0, 1)
    return corrupted


class Corrupted(Dataset):
    """Images of a test set, corrupted as they are asked for."""

    def __init__(self, images: Images, name: str, severity: int) -> None:
        self.images, self.name, self.severity = images, name, severity

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, batch: Indices) -> Batch:
        images, targets, _ = self.images.__getitems__(batch)
        sizes = self.images.sizes_on_canvas(targets)
        return Batch(corrupt(images, self.name, self.severity, batch, sizes), targets)


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.asarray(image).round().clip(0, 255).astype(np.uint8)
