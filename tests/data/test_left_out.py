"""Which files of a folder are read: every suffix and spelling of the list, beyond links; the others are told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from peftbench.common.errors import UserError
from peftbench.data.base import Splits
from peftbench.data.decoding import decode_image
from peftbench.data.folder import Folder
from peftbench.data.media import DAMAGED, IMAGES
from support.datasets import class_folders, noise, refuses, write
from support.mistakes import pictures, record


def load(root: Path) -> Splits:
    return Folder(str(root), val_fraction=0.0, test_fraction=0.0).load()


SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"]
SUFFIXES += [".jfif", ".jpe", ".jp2", ".avif", ".tga"]


def test_the_list_is_fixed_and_holds_nothing_that_runs_a_program():
    assert {*SUFFIXES, ".heic"} == IMAGES


def test_a_program_for_printers_is_no_image_whatever_it_is_called(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with Image.open(file) as opened:
        assert opened.format == "EPS", "Pillow goes by what a file holds"
    with pytest.raises(DAMAGED, match="cannot identify image file"):
        decode_image(file, 8, "bilinear")


def test_every_suffix_in_any_case_is_read(tmp_path):
    class_folders(tmp_path, {"b": 1})
    readable = [suffix for suffix in SUFFIXES if suffix != ".avif" or features.check("avif")]
    for at, suffix in enumerate(readable):
        name = f"{at}{suffix if at % 3 else suffix.upper() if at % 2 else suffix.title()}"
        pixels = noise(1, 16, seed=at)[0]
        write(tmp_path / "a" / name, pixels if suffix != ".pgm" else pixels[..., 0])
    splits = load(tmp_path)
    assert len(splits.train) == len(readable) + 1
    assert splits.notes == ()
    for path in splits.train.images:
        assert decode_image(path, 8, "bilinear").shape == (3, 8, 8)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    for name in ("a/x.psd", "a/deep/y.PSD", "b/notes.txt", "b/IMG", "a/.hidden.png", "a/Thumbs.db", "b/.git/z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write(tmp_path / "loose.png"), write(tmp_path / "loose 2.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    splits = load(tmp_path)
    assert len(splits.train) == 4
    files, loose, nowhere, back = splits.notes
    assert files.startswith("left out, 4 files with names of no image (2 .psd, 1 .txt, 1 without a suffix)")
    assert files.endswith(f"such as {tmp_path}/a/deep/y.PSD")
    assert loose == f"left out, 2 images in no class folder, such as {tmp_path}/loose 2.png"
    assert nowhere == f"left out, 2 links to nothing, such as {tmp_path}/a/gone.png"
    assert back == f"left out, 1 link to what is read already, such as {tmp_path}/b/back"


def test_linked_folders_are_followed_each_real_one_once(tmp_path):
    root, far = tmp_path / "root", tmp_path / "far"
    class_folders(root, {"a": 2, "b": 2})
    class_folders(far, {"c": 3, "more": 2, "inner": 1})
    (root / "c").symlink_to(far / "c")
    (root / "a" / "more").symlink_to(far / "more")
    (root / "b" / "more").symlink_to(far / "more")  # which is read as a's
    (far / "more" / "inner").symlink_to(far / "inner")
    (far / "more" / "round").symlink_to(far)  # holds what has been read, and what was never meant
    (far / "inner" / "to b").symlink_to(root / "b")
    splits = load(root)
    assert splits.train.names == [
        *("a/0.png", "a/1.png", "a/more/0.png", "a/more/1.png", "a/more/inner/0.png"),
        *("b/0.png", "b/1.png", "c/0.png", "c/1.png", "c/2.png"),
    ]
    assert [note for note in splits.notes if note.startswith("left out, 3 links to what is read already")]


def test_a_split_and_a_class_may_be_links(tmp_path):
    class_folders(tmp_path / "far", {"a": 3, "b": 3})
    for role in ("train", "test"):
        (tmp_path / "root" / role).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "root" / role / name).symlink_to(tmp_path / "far" / name)
    splits = Folder(str(tmp_path / "root"), val_fraction=0.0).load()
    assert (len(splits.train), len(splits.test or ())) == (6, 6)
    assert "6 of the test images are training images too, such as test/a/0.png and train/a/0.png" in splits.notes


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    class_folders(tmp_path, {"a": 1, "b": 1})
    scandir = __import__("os").scandir

    def refuse(folder):
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuse)
    assert refuses(Folder(str(tmp_path))) == f"{tmp_path / 'b'}: cannot be read (Permission denied)."


def test_a_run_tells_what_is_left_out_and_its_record_holds_it(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 8, "dog": 8})
    (root / "cat" / "[bold].psd").write_bytes(b"")
    assert "trainer.progress=false" in tiny, "which hides bars, and no note"
    status, _, said = cli(*tiny, "method=linear", "data=folder", f"data.root={root}")
    note = f"left out, 1 file with names of no image (1 .psd), such as {root}/cat/[bold].psd"
    assert (status, record(tmp_path)["stamps"]["data"]["notes"]) == (0, [note])
    assert f"data=folder: {note}" in said


def test_a_shifted_set_tells_what_it_leaves_out_and_what_was_trained_on(tmp_path):
    from peftbench import compose
    from peftbench.data.ood import read_shifts

    class_folders(tmp_path / "far" / "Test", {"a": 2, "b": 1})
    (tmp_path / "far" / "Test" / "a" / "x.psd").write_bytes(b"")
    write(tmp_path / "far" / "Test" / "b" / "0.png", noise(1, seed=9)[0])
    class_folders(tmp_path / "own", {"a": 2, "b": 2})  # the same images of a
    told: list[str] = []
    entry = str(tmp_path / "far")
    words = ("data=folder", f"data.root={tmp_path / 'own'}", f"data.ood=[{entry}]")
    shifts = read_shifts(compose(*words), load(tmp_path / "own"), told.append)
    assert len(shifts[entry]) == 3
    assert told == [
        f"data.ood={entry}: left out, 1 file with names of no image (1 .psd), such as {entry}/Test/a/x.psd",
        f"data.ood={entry}: 2 of the images are training images too, such as a/0.png",
    ]


def test_empty_files_are_damaged_and_no_copies_of_each_other(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    for name in ("a/x.png", "a/y.png", "b/z.png"):
        (tmp_path / name).write_bytes(b"")
    assert load(tmp_path).notes == ()


# -- HEIC

HEIC = b"\0\0\0\x18ftypheic" + bytes(64)


def test_without_its_reader_heic_is_refused_and_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    class_folders(tmp_path, {"a": 2, "b": 2})
    for name in ("a/IMG_1.HEIC", "b/IMG_2.heic"):
        (tmp_path / name).write_bytes(HEIC)
    told = refuses(Folder(str(tmp_path)))
    assert told.startswith(f"{tmp_path / 'a' / 'IMG_1.HEIC'} (and 1 more): reading HEIC needs pillow-heif")
    assert "pip install 'peftbench[heic]'" in told
    disguised = tmp_path / "phone.jpg"
    disguised.write_bytes(HEIC)
    with pytest.raises(UserError, match=r"phone\.jpg: reading HEIC needs pillow-heif .*peftbench\[heic\]"):
        decode_image(disguised, 8, "bilinear")


def test_heic_is_read_whatever_the_file_is_called(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    class_folders(tmp_path, {"a": 2, "b": 2})
    grey = np.full((32, 48, 3), 120, dtype=np.uint8)
    file = pillow_heif.from_pillow(Image.fromarray(grey))
    file.save(tmp_path / "a" / "x.HEIC")
    (tmp_path / "b" / "y.jpg").write_bytes((tmp_path / "a" / "x.HEIC").read_bytes())
    splits = load(tmp_path)
    assert len(splits.train) == 6
    for name in ("a/x.HEIC", "b/y.jpg"):
        assert abs(decode_image(tmp_path / name, 8, "bilinear").astype(int) - 120).max() < 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes in folders")
def test_a_pipe_in_a_folder_of_images_is_left_out_and_called_one(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    splits = load(tmp_path)
    assert splits.notes == (f"left out, 1 special file (a pipe, say), such as {tmp_path}/a/pipe.png",)
