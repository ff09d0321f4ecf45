"""Folders of one-coloured frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import DataSet, Split
from peftbench.data.images import Images, Transform


def frame(value: int, size: tuple[int, int] = (10, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, 7))


def clip(folder: Path, values: Sequence[int], name: str = "{}.png") -> Path:
    """A folder of one-coloured frames: the red of frame i is values[i]."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, value in enumerate(values):
        frame(value).save(folder / name.format(i))
    return folder


def tree(root: Path, classes: Sequence[str] = ("a", "b"), count: int = 5, frames: int = 3) -> Path:
    for at, label in enumerate(classes):
        for i in range(count):
            clip(root / label / f"c{i}", [40 * at + 5 * i + j for j in range(frames)])
    return root


def reds(pixels: np.ndarray | torch.Tensor) -> list[int]:
    """The red of each frame of a clip (T, 3, S, S)."""
    return [int(f[0].flatten()[0]) for f in pixels]


def refuses(dataset: DataSet) -> str:
    with pytest.raises(UserError) as refusal:
        dataset.load()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def images(split: Split, augment: str = "none", memory_gb: float = 1.0, views: int = 0, on_error: str = "refuse"):
    transform = Transform(8, "nearest", (0.5,) * 3, (0.5,) * 3, augment)
    return Images(split, transform, on_error, memory_gb, lambda done, of: None, views)


def words(root: Path, folder: Path, *more: str) -> list[str]:
    few = ["trainer.epochs=1", "trainer.max_batches=2", "data.batch_size=4", "trainer.progress=false", "logger=none"]
    return ["data=video_folder", f"data.root={root}", "data.frames=3", *few, f"output_dir={folder}", *more]
