"""The images that pruning looks at: a folder's, or the photos that peftbench ships; their classes are not read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from peftbench import backbones
from peftbench.common.errors import Refusal, UserError
from peftbench.data.decoding import decode_image
from peftbench.data.folder import Folder
from peftbench.data.media import DAMAGED, IMAGES


def image_files(folder: str | None, most: int) -> list[Path]:
    """Up to `most` images of a folder, evenly chosen: those in it, or the training images of its class folders.

    Raises:
        UserError: it has none, or cannot be read.
    """
    plain = Path(folder).expanduser() if folder else None
    try:
        files = sorted(p for p in plain.iterdir() if p.suffix.lower() in IMAGES) if plain and plain.is_dir() else []
        files = files or Folder(folder or "package:photos").training_files()
    except OSError as problem:
        raise UserError(f"pruning.images={folder}: cannot be read ({problem.strerror}).") from None
    except UserError as problem:  # a folder of pictures is read as a data set is
        raise UserError(f"pruning.images={folder}: {str(problem).removeprefix(f'data.root={folder}: ')}") from None
    count = min(most, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over the bytes of the images, in their order. Raises UserError where one cannot be read."""
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as problem:
            raise UserError(f"pruning.images: {file} cannot be read ({problem.strerror}).") from None
    return digest.hexdigest()


def normalised(files: Sequence[Path], backbone: backbones.Backbone) -> Tensor:
    """The images as the backbone was trained to see them: (N, 3, H, W). Raises UserError where one is damaged."""
    facts = backbone.facts
    pixels = torch.stack([_pixels(file, facts) for file in files])
    mean, std = (torch.tensor(v).mul(255).view(3, 1, 1) for v in (facts.mean, facts.std))
    return (pixels.float() - mean) / std


def _pixels(image: Path, facts: backbones.Facts) -> Tensor:
    try:
        return torch.from_numpy(decode_image(image, facts.canvas, facts.interpolation).copy())
    except Refusal as problem:  # `data.range` is of the data, and the backbone is pruned before any
        what = str(problem).partition(";")[0]
        raise UserError(f"pruning.images: {what}; give images of 8 or 16 bits, or floats from 0 to 1.") from None
    except DAMAGED as problem:
        raise UserError(f"pruning.images: {image} cannot be read as an image ({problem}).") from None
