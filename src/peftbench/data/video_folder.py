"""A user's own clips: class folders, or a CSV of path and label, as `folder` has it for images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.base import Split, Splits
from peftbench.data.folder import Folder
from peftbench.data.label_table import Row
from peftbench.data.layout import Kind
from peftbench.data.listing import Tree, files_in, holds
from peftbench.data.media import VIDEOS, find_clips, is_image, is_video, require_reader

_FORMS = f"folders of frames, or {', '.join(sorted(VIDEOS))}"


def _clips(tree: Tree, folder: Path) -> Iterable[Path]:
    """The clips of a class folder, at any depth.

    Raises:
        UserError: the folder has none, or holds images.
    """
    if any(map(is_image, tree.files[folder])):
        raise UserError(
            f"{folder}: holds images, not clips; expected <class>/<clip>/<frame>. Single images are data=folder."
        )
    clips = list(find_clips(tree, folder))
    if not clips:
        raise UserError(f"{folder}: is a class folder without clips ({_FORMS}); fill or remove it.")
    return clips


def _fits(path: Path) -> bool:
    return is_image(path) or is_video(path)


def _is_class(folder: Path) -> bool:
    return not any(map(is_image, files_in(folder))) and holds(folder, _fits)


@dataclass(frozen=True)
class VideoFolder(Folder):
    """Clips under `root`, each a folder of frames or a video file, in one of the three forms of `Folder`.

    A clip is cut into `frames` equal stretches, and the middle frame of each is read. A shorter clip gives some frames
    twice.
    """

    frames: int = 8

    kind: ClassVar[Kind] = Kind("clip", _FORMS, _fits, _is_class, _clips)

    def load_as(self, targets: str) -> Splits:
        if self.frames < 1:
            raise UserError(f"data.frames={self.frames}: expected at least 1.")
        return super().load_as(targets)

    def is_item(self, path: Path) -> bool:
        return path.exists()

    def split(self, root: Path, rows: Sequence[Row], labels: np.ndarray) -> Split:
        split = super().split(root, rows, labels)
        if video := next((p for p in split.images if isinstance(p, Path) and p.is_file()), None):
            require_reader(video)
        return replace(split, frames=self.frames)
