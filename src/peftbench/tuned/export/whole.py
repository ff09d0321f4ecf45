"""A graph with all that prepares an image: from what a decoder gives to logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.data.decoding import open_rgb
from peftbench.data.images import Transform
from peftbench.data.media import IMAGES
from peftbench.tuned.export.graph import PHOTOS, Graph
from peftbench.tuned.export.resizing import MEAN_LEVELS, MOST_LEVELS, Resize
from peftbench.tuned.load import Tuned

_SIZES = ((0, 0), (31, 47), (501, 333), (7, 300), (640, 97), (64, 64), (1, 5))
"""Width and height of the photos that are tried; 0 is the photo's own."""


class WholeGraph(Graph):
    """As `Graph`, of images of one size, but any, as they are decoded: uint8 (B, h, w, 3), upright, in RGB."""

    def __init__(self, tuned: Tuned) -> None:
        super().__init__(tuned)
        assert isinstance(tuned.transform, Transform)
        self.resize = Resize(tuned.transform)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes), or (B, classes, H, W) for the pixels of the model's input."""
        return super().forward(self.resize(images) / 255)


@torch.no_grad()
def decoded(tuned: Tuned) -> Sequence[tuple[Tensor, Tensor]]:
    """Photos that peftbench ships in several sizes, uint8 (2, h, w, 3), and what the run's model says of them.

    Raises:
        Refusal: a run on clips, or one whose images are prepared in a way that is not told in a graph.
        UserError: a graph would resize otherwise than the run did.
    """
    if tuned.run.frames is not None:
        raise Refusal(
            f"inside=all: {tuned.run.folder} is of clips, whose frames are chosen before; inside=normalise works."
        )
    assert isinstance(tuned.transform, Transform)
    transform = replace(tuned.transform, range="auto")  # as in `Sample`
    resize, files = Resize(transform), sorted(p for p in PHOTOS.rglob("*") if p.suffix.lower() in IMAGES)
    tried = []
    for at, (width, height) in enumerate(_SIZES):
        photos = [open_rgb(files[(2 * at + i) * len(files) // (2 * len(_SIZES))]) for i in range(2)]
        size = (width, height) if width else photos[0].size
        photos = [photo.resize(size, Image.Resampling.BICUBIC) if photo.size != size else photo for photo in photos]
        pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos]))
        wanted = torch.stack([transform(photo) for photo in photos])
        off = (resize(pixels) - wanted.float()).abs()
        if not (off.max() <= MOST_LEVELS and off.mean() <= MEAN_LEVELS):
            raise UserError(
                f"inside=all: a graph resizes an image of {size[0]} x {size[1]} pixels otherwise than the run did (up "
                f"to {off.max():.0f} of 255 levels away, {off.mean():.2g} on average), so nothing is written; "
                f"inside=normalise leaves resizing to the caller."
            )
        tried.append((pixels, tuned(wanted)))
    return tried
