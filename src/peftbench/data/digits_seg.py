"""Handwritten digits on textured canvases, with the class of each pixel; put together once, no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from peftbench.data.base import DataSet, Split, Splits
from peftbench.data.digit_scenes import photographs, scene, scenes_once
from peftbench.data.digits import Digits
from peftbench.data.layout import ROLES
from peftbench.data.seg_folder import SegFolder

_BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class DigitsSeg(DataSet):
    """The canvases of `data=digits_det`, one to five digits on each, with masks of what is ink and of which digit.

    `images` are to train, validate and test, and each kind has digits of its own: those of `data=digits`' splits. A
    canvas has `canvas` pixels a side. The files are drawn once, from `drawing_seed`, and kept in the cache, in the
    form that `data=seg_folder` reads.
    """

    places: ClassVar[tuple[str, ...]] = ("images",)  # how many there are is in the hash of the split

    images: tuple[int, int, int] = (600, 100, 200)
    canvas: int = 128
    drawing_seed: int = 0

    def load(self) -> Splits:
        folder = scenes_once("digits_seg", self.images, self.canvas, self.drawing_seed, self._draw)
        return SegFolder(str(folder)).load_called("digits_seg-v1")

    def _draw(self, folder: Path) -> None:
        digits, photos = Digits().load(), photographs()
        for number, role in enumerate(ROLES):
            source: Split = getattr(digits, role)
            for kind in ("images", "masks"):
                (folder / kind / role).mkdir(parents=True)
            for at in range(self.images[number]):
                rng = np.random.default_rng([self.drawing_seed, number, at])
                pixels, objects, digit = scene(rng, source, photos, self.canvas)
                mask = np.array([0, *(label + 1 for label, _ in objects)], dtype=np.uint8)[digit]
                Image.fromarray(pixels).save(folder / "images" / role / f"{at:06d}.jpg", quality=92)
                Image.fromarray(mask).save(folder / "masks" / role / f"{at:06d}.png")
        (folder / "classes.txt").write_text("\n".join([_BACKGROUND, *digits.classes]) + "\n", encoding="utf-8")
