"""Archives and folders that were made to harm, or that no one meant to send."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from peftbench.common.errors import UserError
from peftbench.data.prepare.tree import gunzipped_content, open_tree
from support.standins import WORDS
from support.vtab import noah, one_line

MB = 2**20


def adopt(data, path):
    return data("prepare", "vtab/eurosat", "source=folder", f"path={path}", *WORDS)


@pytest.mark.parametrize("what", ["image", "folder", "list"])
def test_a_link_that_leads_out_of_an_adopted_folder_is_not_followed(data, tmp_path, what):
    theirs, secret = noah(tmp_path / "theirs", "eurosat"), tmp_path / "secret"
    secret.mkdir()
    (secret / "0.jpg").write_bytes((theirs / "images/test/000000.jpg").read_bytes())
    place = {"image": "images/test/000000.jpg", "folder": "images/val200", "list": "val200.txt"}[what]
    (theirs / place).rename(secret / "theirs")
    (theirs / place).symlink_to(secret / "theirs")
    one_line(adopt(data, tmp_path / "theirs"), "a link to", str(secret), "only what lies there is copied")
    assert not list((tmp_path / "data").rglob("*.jpg"))


def test_links_within_what_was_given_are_followed(data, tmp_path):
    theirs = noah(tmp_path / "theirs", "eurosat")
    (theirs / "images/test/000000.jpg").rename(tmp_path / "theirs/one.jpg")
    (theirs / "images/test/000000.jpg").symlink_to(tmp_path / "theirs/one.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    assert adopt(data, tmp_path / "link")[0] == 0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("images/a.jpg " + "9" * 5000, "expected '<path> <label>'"), ("images/\0.jpg 3", "holds a NUL character")],
)
def test_lists_with_what_no_file_and_no_label_is_are_refused(data, tmp_path, line, sentence):
    theirs = noah(tmp_path / "theirs", "eurosat")
    (theirs / "val200.txt").write_text(line + "\n")
    one_line(adopt(data, tmp_path / "theirs"), "val200.txt:1: ", sentence)


def patched(path, at, value):
    """A zip archive, whose first entry in its directory says another thing at a place."""
    content = bytearray(path.read_bytes())
    begin = content.find(b"PK\x01\x02")
    content[begin + at : begin + at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        (10, b"\x63\x00", "compression"),
        (8, b"\x01\x00", "encrypted"),
        (46, b"\0", "without a name"),
    ],
)
def test_a_zip_that_is_packed_locked_or_named_as_none_is_refused(tmp_path, at, value, sentence):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"x" * 100)
    patched(tmp_path / "a.zip", at, value)
    with pytest.raises(UserError, match=sentence):
        list(open_tree(tmp_path / "a.zip").read(["a.jpg"]))


@pytest.mark.slow
def test_archives_that_swell_are_refused_before_they_fill_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(100 * MB))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=9) as archive:
        header = tarfile.TarInfo("a.jpg")
        header.size = 100 * MB
        archive.addfile(header, io.BytesIO(bytes(100 * MB)))
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(UserError, match=r"would unpack to more than 250 times its size"):
            list(open_tree(tmp_path / name).read(["a.jpg"]))
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(100 * MB)))
    with pytest.raises(UserError, match="would unpack to more than 250 times its size"):
        gunzipped_content(tmp_path / "a.gz")


def test_small_files_may_be_packed_as_tightly_as_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", bytes(10 * MB))
    assert next(open_tree(tmp_path / "a.zip").read(["a.bmp"]))[1] == bytes(10 * MB)


def test_a_tar_that_says_megabytes_of_one_file_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        header = tarfile.TarInfo("a.jpg")
        header.pax_headers = {"comment": "x" * 2 * MB}
        archive.addfile(header)
    with pytest.raises(UserError, match="says more of one file than"):
        open_tree(tmp_path / "a.tar").names()
