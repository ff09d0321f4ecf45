"""The files of one source on this machine: found, fetched where they can be, or explained how to get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.progress import Stages, unwatched
from peftbench.data.prepare.download import fetch_file
from peftbench.data.prepare.sources import File, Source
from peftbench.data.prepare.tree import Tree, open_tree


@dataclass
class SourceFiles:
    """The files of one source.

    Attributes:
        name: the source's name, as `sources.py` has it.
        root: where archives lie, in `root/<name>` or in `root` itself; fetched ones go to the former.
        mirror: an address that has `<name>/<file>` for every file, in place of their homes.
    """

    name: str
    source: Source
    root: Path
    mirror: str | None = None
    watch: Stages = unwatched

    def path(self, file: str) -> Path:
        """The file itself, fetched where it is missing.

        Raises:
            UserError: it cannot be had.
        """
        known = self._known(file)
        places = (folder / name for folder in self._folders() for name in (file, *known.unpacked))
        return next((p for p in places if p.is_file()), None) or self._fetched(known)

    def tree(self, file: str) -> Tree:
        """An archive, or a folder that stands for it; the archive is fetched where both are missing.

        Raises:
            UserError: it cannot be had, or is damaged.
        """
        known = self._known(file)
        for folder in self._folders():
            if (folder / file).is_file():
                return open_tree(folder / file)
        for folder in self._folders():
            for unpacked in known.unpacked:
                if (folder / unpacked).is_dir():
                    return open_tree(folder / unpacked)
        return open_tree(self._fetched(known))

    def _folders(self) -> tuple[Path, ...]:
        return self.root / self.name, self.root

    def _known(self, file: str) -> File:
        return next(f for f in self.source.files if f.name == file)

    def _fetched(self, file: File) -> Path:
        path = self.root / self.name / file.name
        url = f"{self.mirror.rstrip('/')}/{self.name}/{file.name}" if self.mirror else file.url
        places = f"{path} or {path.parent}/{file.other}" if file.other else str(path)
        if url is None:
            raise UserError(
                f"{self.source.title}: {file.name} is not in {path.parent} and cannot be fetched without you: "
                f"{self.source.steps}, then put it at {places} ({self.source.home})."
            )
        fetch_file(url, path, self.watch, by_hand=f"fetch it by hand ({self.source.home}) and put it at {places}")
        return path
