"""TFRecord files: checksums, examples, and damage."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.common.errors import UserError
from peftbench.data.prepare.readers.tfrecord import crc32c, masked_checksum, parse_example, read_records
from support import standins


def test_the_checksum_is_crc_32c():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # both from RFC 3720 and the catalogue of CRCs


@given(st.binary(max_size=3000))
def test_checksums_of_any_length_are_those_taken_bit_by_bit(content):
    record = standins.tf_record(content)
    assert list(read_records(io.BytesIO(record), "x")) == [content]
    assert struct.unpack("<I", record[-4:])[0] == masked_checksum(crc32c(content))


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.one_of(st.binary(max_size=200), st.integers(0, 2**63 - 1)), max_size=4
    )
)
def test_examples_are_read_as_they_were_written(features):
    assert parse_example(standins.tf_example(**features), "x") == {name: [value] for name, value in features.items()}


@given(st.binary(max_size=60))
def test_bytes_that_are_no_example_are_read_as_one_or_refused(content):
    with contextlib.suppress(UserError):
        assert isinstance(parse_example(content, "x"), dict)


@pytest.mark.parametrize("at", [0, 9, 14, -1])
def test_a_changed_byte_of_a_record_is_found(at):
    record = bytearray(standins.tf_record(b"some data that is long enough"))
    record[at] ^= 1
    with pytest.raises(UserError, match=r"record 1 (has a wrong checksum|is cut off)"):
        list(read_records(io.BytesIO(bytes(record)), "x"))


def test_a_record_that_is_cut_off_is_named():
    whole = standins.tf_record(b"abc") + standins.tf_record(b"def")
    with pytest.raises(UserError, match="x: record 2 is cut off"):
        list(read_records(io.BytesIO(whole[:-2]), "x"))
