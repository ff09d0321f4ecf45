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


def write_colour_tiff(path: Path, colours: np.ndarray, planes: bool) -> Path:
    """A TIFF of unsigned colours (H, W, 3), interleaved or one plane after another."""
    little = colours.astype(colours.dtype.newbyteorder("<"))
    packed = (little.transpose(2, 0, 1) if planes else little).tobytes()
    height, width, channels = colours.shape
    strips, bits = channels if planes else 1, [8 * colours.itemsize] * channels
    start = 8 + 2 + 12 * 10 + 4
    pixels, length = start + 4 * (channels + 2 * strips), len(packed) // strips
    places = [pixels + at * length for at in range(strips)]
    of_bits, of_places, of_lengths = (start + 4 * at for at in (0, channels, channels + strips))
    tags = {256: (1, width), 257: (1, height), 258: (channels, of_bits), 259: (1, 1), 262: (1, 2)}
    tags |= {273: (strips, of_places if planes else pixels), 277: (1, channels), 278: (1, height)}
    tags |= {279: (strips, of_lengths if planes else length), 284: (1, 2 if planes else 1)}
    entries = b"".join(struct.pack("<HHII", tag, 4, *value) for tag, value in sorted(tags.items()))
    tables = [*bits, *places, *([length] * strips)]  # of the tags whose values do not fit in
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    path.write_bytes(head + struct.pack(f"<{len(tables)}I", *tables) + packed)
    return path


def _in_twelve_bits(values: np.ndarray) -> bytes:
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
