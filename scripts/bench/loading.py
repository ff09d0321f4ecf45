"""VTAB's 1000 images at 224 into memory against a plain Pillow loop; and that nothing is decoded after that."""

from __future__ import annotations

import sys
from typing import Any

from bench.tables import Row
from bench.timing import ROOT, interleaved_row

INTO_MEMORY = "1000 images at 224 into memory, a plain Pillow loop"
DECODED = "images decoded in an epoch after that"
DATA = ROOT.parent / "shared" / "data" / "caltech101-vtab1k-like"
"""Caltech101 as VTAB-1k lays it out; without it this topic has no rows."""


def names() -> list[str]:
    return [INTO_MEMORY, DECODED]


def measure(quick: bool = False) -> list[Row]:
    import numpy as np
    import torch
    from PIL import Image

    from peftbench.data.images import IMAGENET, Images, Transform
    from peftbench.data.vtab.dataset import Vtab

    if not DATA.is_dir():
        print(f"bench loading: left out, for {DATA} is missing.", file=sys.stderr)
        return []
    split = Vtab("caltech101", 102, str(DATA)).load().trainval
    assert split is not None
    transform = Transform(224, "bicubic", *IMAGENET)

    def ours() -> Images:
        images = Images(split, transform, "refuse", 4.0, lambda done, of: None)
        images.load()
        return images

    def plain() -> np.ndarray:
        pixels = np.empty((len(split), 224, 224, 3), dtype=np.uint8)
        for i, path in enumerate(split.images):
            with Image.open(path) as image:
                pixels[i] = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        return pixels

    rows = [interleaved_row(INTO_MEMORY, ours, plain, 1 if quick else 5, 1.30)]
    images = ours()
    opened = Image.open
    decoded = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return opened(*arguments, **options)

    Image.open = counted  # type: ignore[assignment]
    try:
        images.load()
        images.pictures(torch.arange(len(images)))
    finally:
        Image.open = opened
    rows.append(Row(DECODED, str(decoded), limit="0", kept=decoded == 0))
    return rows
