"""CLEVR: images/<split>/*.png and scenes/CLEVR_<split>_scenes.json.

The labels are task_adaptation's. `clevr_count`: the number of objects, 3 to 10, less 3. `clevr_dist`: in which of the
intervals (0, 8], (8, 8.5], (8.5, 9], (9, 9.5], (9.5, 10], (10, 100] the smallest distance of an object from the camera
lies, the third of its `pixel_coords` in single precision. TFDS's key is the file's name; VTAB tests on CLEVR's
validation split, whose objects are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base

_SPLITS = {"train": "train", "validation": "val"}
_DISTANCES = np.array([0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0], dtype=np.float32)


class Reader(base.Reader):
    """Reads CLEVR."""

    def splits(self) -> dict[str, list[Entry]]:
        tree = self.files.tree("CLEVR_v1.0.zip")
        files = {split: f"scenes/CLEVR_{name}_scenes.json" for split, name in _SPLITS.items()}
        contents = tree.ending(*files.values())
        entries: dict[str, list[Entry]] = {}
        for split, file in files.items():
            try:
                scenes = json_of(contents[file])["scenes"]
                entries[split] = [
                    Entry(
                        scene["image_filename"],
                        self._label(scene["objects"]),
                        f"{_SPLITS[split]}/{scene['image_filename']}",
                    )
                    for scene in scenes
                ]
            except (ValueError, KeyError, TypeError, IndexError) as problem:
                raise UserError(f"{tree.title}: {file} is not as expected ({problem!r}).") from None
        return entries

    def _label(self, objects: Sequence[Any]) -> int:
        if self.task == "clevr_count":
            return len(objects) - 3
        nearest = np.float32(min(o["pixel_coords"][2] for o in objects))
        return int(np.flatnonzero(nearest > _DISTANCES).max())

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(self.files.tree("CLEVR_v1.0.zip"), entries, base.path_after("images"))
