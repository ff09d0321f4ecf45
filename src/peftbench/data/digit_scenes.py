"""Handwritten digits on textures: real digits and parts of photographs, put together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.common.cache_folder import cache
from peftbench.common.errors import UserError
from peftbench.data.base import Split
from peftbench.data.made_once import made_once

_VERSION = 1

_INK = 0.3  # of a digit's full ink: what counts as its pixels
_HEIGHT = (0.2, 0.42)  # of a digit, as a share of the canvas
_TURN = 12.0  # degrees either way
_OVERLAP = 0.2  # of the smaller of two boxes
_CONTRAST = 80.0  # grey levels between a digit and what lies under it, at least


def scenes_once(kind: str, images: Sequence[int], canvas: int, drawing_seed: int, draw: Callable[[Path], None]) -> Path:
    """The folder in the cache that `draw` fills with so many scenes, drawn if it is not whole.

    Args:
        kind: the folder's name in the cache.
        images: to train, validate and test.
        canvas: pixels of a side.
        drawing_seed: what the scenes are drawn from.
        draw: writes the files into an empty folder.

    Raises:
        UserError: one of these cannot be, or nothing can be written.
    """
    if min(images) < 1:
        raise UserError(f"data.images={list(images)}: expected at least 1 to train, validate and test.")
    if not 32 <= canvas <= 4096:
        raise UserError(f"data.canvas={canvas}: expected 32 to 4096 pixels.")
    if drawing_seed < 0:
        raise UserError(f"data.drawing_seed={drawing_seed}: expected 0 or more.")
    recipe = {"version": _VERSION, "images": list(images), "canvas": canvas, "drawing_seed": drawing_seed}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return made_once(cache() / kind / key, recipe, draw)


def photographs() -> list[np.ndarray]:
    """scikit-learn's two, uint8 (H, W, 3)."""
    from sklearn.datasets import load_sample_image

    return [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]


def scene(
    rng: np.random.Generator, digits: Split, photos: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, list[tuple[int, tuple[int, int, int, int]]], np.ndarray]:
    """A canvas with one to five digits.

    Returns:
        its pixels, uint8 (size, size, 3); the label and box (x1, y1, x2, y2) of each digit; and which pixels are of
        which, uint8 (size, size), from 1 in their order, 0 elsewhere. A digit that lies on another covers it.
    """
    canvas = texture(rng, photos, size)
    mask = np.zeros((size, size), dtype=np.uint8)
    objects: list[tuple[int, tuple[int, int, int, int]]] = []
    wanted = int(rng.integers(1, 6))
    for _ in range(50):
        if len(objects) == wanted:
            break
        at = int(rng.integers(len(digits)))
        ink = _slanted(rng, np.asarray(digits.images[at]), max(round(size * rng.uniform(*_HEIGHT)), 8))
        height, width = ink.shape
        top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        box = (left, top, left + width, top + height)
        if any(overlap(box, other) > _OVERLAP for _, other in objects):
            continue
        under = canvas[top : top + height, left : left + width]
        colour = _colour(rng, under.mean((0, 1)))
        under += ink[..., None] * (colour - under)
        mask[top : top + height, left : left + width][ink > _INK] = len(objects) + 1
        objects.append((int(digits.labels[at]), box))
    noisy = canvas + rng.normal(0, 3, canvas.shape)
    return noisy.round().clip(0, 255).astype(np.uint8), objects, mask


def texture(rng: np.random.Generator, photos: Sequence[np.ndarray], size: int) -> np.ndarray:
    """float (size, size, 3): a square of a photograph, turned or mirrored, its contrast a third or more."""
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.integers(100, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(photo.shape[axis] - side + 1)) for axis in (0, 1))
    part = Image.fromarray(photo[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BICUBIC)
    turned = np.rot90(np.asarray(part, dtype=np.float64), int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    mean = turned.mean((0, 1))
    return (turned - mean) * rng.uniform(1 / 3, 1) + mean


def _slanted(rng: np.random.Generator, digit: np.ndarray, height: int) -> np.ndarray:
    """A digit's ink, 0 to 1 and about `height` pixels high, turned a little; cut to its pixels."""
    large = Image.fromarray(digit).resize((height, height), Image.Resampling.BICUBIC)
    turned = large.rotate(float(rng.uniform(-_TURN, _TURN)), Image.Resampling.BICUBIC, expand=True)
    ink = np.clip(np.asarray(turned, dtype=np.float64) / 255 * 1.25, 0, 1)
    rows, columns = (np.flatnonzero((ink > _INK).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _colour(rng: np.random.Generator, under: np.ndarray) -> np.ndarray:
    """A colour that stands out from what is under it."""
    grey = np.array([0.299, 0.587, 0.114])
    for _ in range(100):
        colour = rng.uniform(0, 255, 3)
        if abs(float((colour - under) @ grey)) >= _CONTRAST:
            return colour
    return np.full(3, 255.0 if float(under @ grey) < 128 else 0.0)


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The share of the smaller box that the other covers."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller
