"""PatchCamelyon: gzipped HDF5 files with x (N, 96, 96, 3) and y (N, 1, 1, 1); they are unpacked beside the archives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.tree import gunzipped

_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


class Reader(base.Reader):
    """Reads PatchCamelyon."""

    def splits(self) -> dict[str, list[Entry]]:
        entries = {}
        for split, name in _SPLITS.items():
            labels = self._array(name, "y")[:].ravel().tolist()
            images = self._array(name, "x")
            if images.shape != (len(labels), 96, 96, 3) or images.dtype != "uint8":
                raise UserError(
                    f"camelyonpatch_level_2_split_{name}_x.h5: x is {images.dtype} of shape {list(images.shape)}, "
                    f"expected uint8 of [{len(labels)}, 96, 96, 3]."
                )
            entries[split] = [Entry(f"{name}_{i}", int(y), (name, i)) for i, y in enumerate(labels)]
        return entries

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        images = {name: self._array(name, "x") for name in {entry.place[0] for entry in entries}}
        for at in sorted(range(len(entries)), key=lambda i: entries[i].place):  # the file is read from beginning to end
            name, i = entries[at].place
            yield at, base.png_bytes(images[name][i])

    def _array(self, split: str, part: str) -> Any:
        try:
            import h5py
        except ImportError:
            raise UserError("patch_camelyon: reading its files needs h5py; pip install 'peftbench[vtab]'.") from None
        path = _unpacked(self.files.path(f"camelyonpatch_level_2_split_{split}_{part}.h5.gz"))
        try:
            return h5py.File(path, "r")[part]
        except (OSError, KeyError) as problem:
            raise UserError(
                f"{path}: is no HDF5 file with '{part}' ({problem}); remove it and {path.name}.gz."
            ) from None


def _unpacked(packed: Path) -> Path:
    path = packed.with_suffix("")
    if path.is_file():
        return path
    with replacing(path, lambda why: f"{path}: could not be written ({why}).") as part, part.open("wb") as target:
        for piece in gunzipped(packed):
            target.write(piece)
    return path
