"""dSprites: one .npz with `imgs` (N, 64, 64) of 0 and 1 and `latents_classes` (N, 6).

`dsprites_loc` is the x position and `dsprites_ori` the orientation (columns 4 and 3; 32 and 40 values), each put into
16 bins of equal width as task_adaptation does: floor(value / 2) and floor(value / 2.5). TFDS's keys are the numbers of
the images; it multiplies the pixels by 255.

The images fill 3 GB once unpacked and are read as a stream.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Generator, Iterator, Sequence
from typing import IO

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.tree import ZipTree

_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_PIXELS = 64 * 64
_COLUMN = {"dsprites_loc": (4, 32 / 16), "dsprites_ori": (3, 40 / 16)}


class Reader(base.Reader):
    """Reads dSprites."""

    def splits(self) -> dict[str, list[Entry]]:
        path = self.files.path(_FILE)
        column, width = _COLUMN[self.task]
        stream = self._array("latents_classes.npy")
        shape, dtype, file = next(stream)
        if len(shape) != 2 or shape[1] != 6 or dtype.kind not in "iu":
            raise UserError(f"{path}: latents_classes is {dtype} of shape {list(shape)}, expected integers of [N, 6].")
        values = np.frombuffer(file.read(), dtype=dtype).reshape(shape)[:, column].tolist()
        stream.close()
        return {"train": [Entry(str(i), math.floor(value / width), i) for i, value in enumerate(values)]}

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        stream = self._array("imgs.npy")
        shape, dtype, file = next(stream)
        if shape[1:] != (64, 64) or dtype != np.uint8:
            raise UserError(f"{_FILE}: imgs is {dtype} of shape {list(shape)}, expected uint8 of [N, 64, 64].")
        at = 0
        for index in sorted(range(len(entries)), key=lambda i: entries[i].place):
            place = entries[index].place
            while at < place:  # what is not wanted is passed over in pieces
                passed = len(file.read(min(place - at, 256) * _PIXELS)) // _PIXELS
                if not passed:
                    raise _ended()
                at += passed
            content = file.read(_PIXELS)
            if len(content) != _PIXELS:
                raise _ended()
            at += 1
            yield index, base.png_bytes(np.frombuffer(content, dtype=np.uint8).reshape(64, 64) * 255)
        stream.close()

    def _array(self, name: str) -> Generator[tuple[tuple[int, ...], np.dtype, IO[bytes]]]:
        """Shape, type and data of an array of the file. Objects, which are pickles, are refused."""
        path = self.files.path(_FILE)
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: is no whole .npz file; remove it and fetch it again.")
        for member_name, file in ZipTree(path).walk(lambda member: member == name):
            if member_name == name and file is not None:
                try:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, fortran, dtype = read(file)
                except ValueError as problem:
                    raise UserError(f"{path}: {name} is no array ({problem}).") from None
                if dtype.hasobject or fortran:
                    raise UserError(f"{path}: {name} holds objects or is in Fortran's order, and is not read.")
                yield shape, dtype, file
                return
        raise UserError(f"{path}: holds no {name}.")


def _ended() -> UserError:
    return UserError(f"{_FILE}: ends before its last image; remove it and fetch it again.")
