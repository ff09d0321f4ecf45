"""Handwritten digits to be found on textured canvases: real digits and photographs, put together once; no download."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from peftbench.data.base import Split, Splits
from peftbench.data.boxes import MASKS, BoxSet
from peftbench.data.coco import splits_from_files
from peftbench.data.digit_scenes import photographs, scene, scenes_once
from peftbench.data.digits import Digits
from peftbench.data.segment_forms import run_lengths

ROLES = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class DigitsDet(BoxSet):
    """One to five digits of scikit-learn's on each canvas cut from its two photographs, in COCO's format.

    `images` are to train, validate and test, and each kind has digits of its own: those of `data=digits`' splits (the
    photographs are shared). A canvas has `canvas` pixels a side. Digits differ in size, colour, contrast and slant,
    and may overlap a little. The files are drawn once, from `drawing_seed`, and kept in the cache. The mask of a digit
    is its ink, without what another digit covers.
    """

    places: ClassVar[tuple[str, ...]] = ("images",)  # how many there are is in the hash of the split

    images: tuple[int, int, int] = (600, 100, 200)
    canvas: int = 128
    drawing_seed: int = 0

    def load(self) -> Splits:
        return self.load_as("own")

    def load_as(self, targets: str) -> Splits:
        self.check()
        masks = targets == MASKS
        kind = "digits_det_masks" if masks else "digits_det"  # what lies in a cache from before has no masks
        draw = functools.partial(self._draw, masks)
        folder = scenes_once(kind, self.images, self.canvas, self.drawing_seed, draw)
        files = {role: folder / "annotations" / f"instances_{role}.json" for role in ROLES}
        folders = {role: [folder / "images"] for role in ROLES}
        return splits_from_files(self, "digits_det-v1", files, folders, masks=masks)

    def _draw(self, masks: bool, folder: Path) -> None:
        digits = Digits().load()
        photos = photographs()
        (folder / "annotations").mkdir()
        for number, role in enumerate(ROLES):
            (folder / "images" / role).mkdir(parents=True)
            source: Split = getattr(digits, role)
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for at in range(self.images[number]):
                rng = np.random.default_rng([self.drawing_seed, number, at])
                pixels, objects, digit = scene(rng, source, photos, self.canvas)
                name = f"{role}/{at:06d}.jpg"
                Image.fromarray(pixels).save(folder / "images" / name, quality=92)
                images.append({"id": at + 1, "file_name": name, "width": self.canvas, "height": self.canvas})
                for place, (label, (x1, y1, x2, y2)) in enumerate(objects, start=1):
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": at + 1,
                            "category_id": label + 1,
                            "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "area": (x2 - x1) * (y2 - y1),
                            "iscrowd": 0,
                            **({"segmentation": run_lengths(digit == place)} if masks else {}),
                        }
                    )
            content = {
                "info": {"description": "scikit-learn's digits (UCI) on parts of its photographs (CC BY 2.0)"},
                "categories": [{"id": i + 1, "name": name} for i, name in enumerate(digits.classes)],
                "images": images,
                "annotations": annotations,
            }
            (folder / "annotations" / f"instances_{role}.json").write_text(json.dumps(content), encoding="utf-8")
