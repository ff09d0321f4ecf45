"""TIFFs of the kinds that Pillow reads and does not write."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_tiff(path: Path, values: np.ndarray, white_is_zero: bool = False, bits: int = 0) -> Path:
    """A grey TIFF of whole numbers, signed or not, or floats (H, W); of 12 bits, two of them in three bytes."""
    little = values.astype(values.dtype.newbyteorder("<"))
    packed = _in_twelve_bits(little) if bits == 12 else little.tobytes()
    height, width = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: width, 257: height, 258: bits or 8 * values.itemsize, 259: 1, 262: 0 if white_is_zero else 1}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 277: 1, 278: height, 279: len(packed), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4 + packed)
    return path


def _in_twelve_bits(values: np.ndarray) -> bytes:
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
