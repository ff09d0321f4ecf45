"""KITTI's left images with the distance of the nearest vehicle.

The label is task_adaptation's `closest_vehicle_distance`: the smallest z of a Car, Van or Truck (metres before the
camera, in single precision) in (-100, 8], (8, 20], (20, 999], and 3 where there is none.

Only the training images have labels, so TFDS splits those by video, a tenth of the videos each for test and for
validation, drawn by numpy's legacy generator of seed 123 from the sorted names; mapping/ in the development kit says
which video an image is of (train_rand.txt: the line of train_mapping.txt, from 1). TFDS's key is the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base

_VEHICLES = {"Car", "Van", "Truck"}
_DISTANCES = np.array([-100.0, 8.0, 20.0, 999.0], dtype=np.float32)
_IMAGES, _LABELS = "data_object_image_2.zip", "data_object_label_2.zip"


class Reader(base.Reader):
    """Reads KITTI."""

    def splits(self) -> dict[str, list[Entry]]:
        labels: dict[str, int] = {}
        tree = self.files.tree(_LABELS)
        wanted = [n for n in tree.names() if n.endswith(".txt") and "testing/" not in n]
        for name, content in tree.read(wanted):
            labels[name.rpartition("/")[2].removesuffix(".txt")] = self._label(f"{tree.title}/{name}", content)
        entries: dict[str, list[Entry]] = {"train": [], "validation": [], "test": []}
        for number, split in enumerate(self._videos()):
            stem = f"{number:06d}"
            if stem not in labels:
                raise UserError(f"{tree.title}: has no labels for image {stem}.")
            entries[split].append(Entry(f"{stem}.png", labels[stem], f"{stem}.png"))
        return entries

    def _label(self, name: str, content: bytes) -> int:
        nearest = np.float32(1000.0)
        for number, line in enumerate(content.decode().splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                if words[0] in _VEHICLES:
                    nearest = min(nearest, np.float32(words[13]))
            except (IndexError, ValueError):
                raise UserError(f"{name}: line {number} is '{shortened(line, 60)}', expected 15 columns.") from None
        return int(np.flatnonzero(nearest > _DISTANCES).max())

    def _videos(self) -> list[str]:
        """The split of each training image, by number."""
        tree = self.files.tree("devkit_object.zip")
        contents = tree.ending("train_rand.txt", "train_mapping.txt")
        try:
            videos = [line.split()[1] for line in contents["train_mapping.txt"].decode().splitlines() if line.strip()]
            lines = [
                int(word) - 1
                for word in contents["train_rand.txt"].decode().replace("\n", "").split(",")
                if word.strip()
            ]
            video_of = [videos[line] for line in lines]
        except (ValueError, IndexError) as problem:
            raise UserError(f"{tree.title}: its mapping/ is not as expected ({problem}).") from None
        rest = sorted(set(video_of))
        count = max(1, len(rest) // 10)
        if len(rest) < 3:
            raise UserError(f"{tree.title}: names {len(rest)} videos; expected at least 3 to split.")
        random = np.random.RandomState(123)
        split = {str(v): "test" for v in random.choice(rest, count, replace=False)}
        rest = sorted(set(rest) - set(split))
        split |= {str(v): "validation" for v in random.choice(rest, count, replace=False)}
        return [split.get(video, "train") for video in video_of]

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        def key(name: str) -> str:
            return name if "testing/" in name else name.rpartition("/")[2]

        return base.pictures_from_tree(self.files.tree(_IMAGES), entries, key)
