"""TFRecord files of tf.Examples, read without TensorFlow.

A record is its length (8 bytes), the length's checksum, the data and the data's checksum; checksums are CRC-32C,
rotated and shifted by a constant. An Example is a protocol buffer: a map from names to lists of bytes or integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import IO

import numpy as np

from peftbench.common.errors import UserError

_LANE = 256  # bytes whose checksum is taken at once with those of the other lanes


def read_records(file: IO[bytes], title: str) -> Iterator[bytes]:
    """The records of a file. Raises UserError where one is cut off or its checksum is another."""
    number = 0
    while head := file.read(12):
        number += 1
        where = f"{title}: record {number}"
        if len(head) < 12:
            raise UserError(f"{where} is cut off; fetch the archive again.")
        length, check = struct.unpack("<QI", head)
        if masked_checksum(crc32c(head[:8])) != check:
            raise UserError(f"{where} has a wrong checksum; fetch the archive again.")
        data = file.read(length)
        tail = file.read(4)
        if len(data) < length or len(tail) < 4:
            raise UserError(f"{where} is cut off; fetch the archive again.")
        if masked_checksum(crc32c(data)) != struct.unpack("<I", tail)[0]:
            raise UserError(f"{where} has a wrong checksum; fetch the archive again.")
        yield data


def masked_checksum(crc: int) -> int:
    """A checksum as TFRecord stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). The data is cut into lanes whose checksums are taken together, then put into one.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table = _table()
    if len(data) < 4 * _LANE:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = int(table[(crc ^ byte) & 0xFF]) ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    # To begin with all ones is to invert the first four bytes; zeros before them then change nothing.
    start = bytes(b ^ 0xFF for b in data[:4])
    padded = bytes(-len(data) % _LANE) + start + data[4:]
    lanes = np.frombuffer(padded, dtype=np.uint8).reshape(-1, _LANE).T
    checksums = np.zeros(lanes.shape[1], dtype=np.uint32)
    for column in np.ascontiguousarray(lanes):
        checksums = table[(checksums ^ column) & 0xFF] ^ checksums >> 8
    passed = _passed()
    crc = 0
    for lane in checksums.tolist():
        crc = (
            lane
            ^ passed[0][crc & 0xFF]
            ^ passed[1][crc >> 8 & 0xFF]
            ^ passed[2][crc >> 16 & 0xFF]
            ^ passed[3][crc >> 24]
        )
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


@cache
def _passed() -> tuple[list[int], ...]:
    """What a checksum becomes after a lane of zeros, by each of its four bytes."""
    table = _table()
    tables = []
    for shift in (0, 8, 16, 24):
        crc = np.arange(256, dtype=np.uint32) << np.uint32(shift)
        for _ in range(_LANE):
            crc = table[crc & 0xFF] ^ crc >> 8
        tables.append(crc.tolist())
    return tuple(tables)


Value = list[bytes] | list[int]


def parse_example(data: bytes, title: str) -> dict[str, Value]:
    """The features of a tf.Example: lists of bytes or of integers (lists of floats are passed over)."""
    features_by_name: dict[str, Value] = {}
    try:
        for features in _fields(data, 1):
            for entry in _fields(features, 1):
                name = b"".join(_fields(entry, 1)).decode()
                for feature in _fields(entry, 2):
                    for texts in _fields(feature, 1):
                        features_by_name[name] = list(_fields(texts, 1))
                    for numbers in _fields(feature, 3):
                        features_by_name[name] = [n for packed in _fields(numbers, 1) for n in _varints(packed)]
    except (IndexError, ValueError):
        raise UserError(f"{title}: a record is no tf.Example.") from None
    return features_by_name


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """The values of a message's field: of texts and messages their bytes, of plain integers theirs as a varint."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        begin = at
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, begin = _varint(data, at)
            at = begin + length
        elif kind == 5:
            at += 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(data):
            raise ValueError("cut off")
        if tag >> 3 == wanted:
            yield data[begin:at]


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value - (1 << 64) if value >> 63 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without an end")
