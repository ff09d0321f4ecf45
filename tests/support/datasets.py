"""Small data sets: splits in memory, image files, class folders."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.config import Data
from peftbench.data.base import DataSet, Split
from peftbench.data.images import Transform
from peftbench.data.loading import Loaders, loaders


def noise(count: int, size: int = 12, seed: int = 0) -> np.ndarray:
    """`count` RGB images of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def arrays(labels: Sequence[int], prefix: str = "i") -> Split:
    """A split in memory with the given labels."""
    return Split(noise(len(labels)), np.array(labels, dtype=np.int64), [f"{prefix}{i}" for i in range(len(labels))])


def write(path: Path, pixels: np.ndarray | None = None) -> Path:
    """An image file of random pixels, other ones for each name, or of the given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(1, seed=zlib.crc32(path.name.encode()))[0] if pixels is None else pixels).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], size: int = 12) -> Path:
    """`root/<class>/<number>.png`, so many images of each class."""
    for seed, (name, count) in enumerate(counts.items()):
        for i, pixels in enumerate(noise(count, size, seed)):
            write(root / name / f"{i}.png", pixels)
    return root


def refuses(dataset: DataSet) -> str:
    """The sentence with which loading is refused."""
    with pytest.raises(UserError) as refusal:
        dataset.load()
    return str(refusal.value)


def load(roles: tuple[Split, Split | None, Split | None], **more: object) -> Loaders:
    changes = {key: more.pop(key) for key in ("jitter", "erase", "resize", "draft", "augment_on") if key in more}
    transform = more.pop("transform", None) or replace(transform_with(str(more.pop("augment", "none"))), **changes)
    named = {key: more.pop(key) for key in ("share", "limit", "views", "seed", "classes", "neighbours") if key in more}
    return loaders(roles, transform, options(**more), **({"seed": 3} | named))


def options(**changes: object) -> Data:
    """The options of a data set that `loaders` looks at: batches of 8, changed."""
    return Data("mine", "", ("classification",), {}, **({"batch_size": 8, "eval_batch_size": 8} | changes))


def transform_with(augment: str) -> Transform:
    return Transform(16, "bilinear", (0.5,) * 3, (0.5,) * 3, augment)
