"""A user's own clips: class folders, or a CSV of path and label, as `folder` has it for images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from peftbench.common.errors import UserError
from peftbench.data.base import Split, Splits
from peftbench.data.folder import Folder
from peftbench.data.media import VIDEOS, find_clips, frame_files, require_reader


@dataclass(frozen=True)
class VideoFolder(Folder):
    """Clips under `root`, each a folder of frames or a video file, in one of the three forms of `Folder`.

    A clip is cut into `frames` equal stretches, and the middle frame of each is read. A shorter clip gives some frames
    twice.
    """

    frames: int = 8

    kind: ClassVar[str] = "clip"
    forms: ClassVar[str] = f"folders of frames, or {', '.join(sorted(VIDEOS))}"

    def load(self) -> Splits:
        if self.frames < 1:
            raise UserError(f"data.frames={self.frames}: expected at least 1.")
        return super().load()

    def items(self, folder: Path) -> Iterable[Path]:
        """The clips of a class folder, at any depth.

        Raises:
            UserError: the folder has none, or holds images.
        """
        if frame_files(folder):
            raise UserError(
                f"{folder}: holds images, not clips; expected <class>/<clip>/<frame>. Single images are data=folder."
            )
        clips = list(find_clips(folder))
        if not clips:
            raise UserError(f"{folder}: is a class folder without clips ({self.forms}); fill or remove it.")
        return clips

    def is_item(self, path: Path) -> bool:
        return path.exists()

    def split(self, root: Path, rows: list[tuple[str, str]], number: dict[str, int]) -> Split:
        split = super().split(root, rows, number)
        if video := next((p for p in split.images if isinstance(p, Path) and p.is_file()), None):
            require_reader(video)
        return replace(split, frames=self.frames)
