"""Sources that are not as they should be: incomplete, cut off, of another kind, dangerous or unpacked."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from peftbench.common.errors import UserError
from peftbench.data.prepare.sources import SOURCES
from peftbench.data.prepare.tree import open_tree
from support.standins import WORDS, picture, tar, zipped
from support.vtab import found, one_line, truncated


def test_a_source_that_lacks_images_is_refused_unless_a_smaller_set_is_asked_for(archives, data, tmp_path):
    told = data("prepare", "vtab/cifar", f"archives={archives}")
    one_line(told, "54 images for train, expected 45,000", "train=, val= and test=")
    told = data("prepare", "vtab/cifar", f"archives={archives}", "train=800", "val=2", "test=2")
    one_line(told, "54 images to draw train from, and 800")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [["train=5"], ["train=5", "val=-1", "test=1"], ["train=0", "val=1", "test=1"]])
def test_sizes_come_all_three(data, words):
    one_line(data("prepare", "vtab/cifar", *words), words[0], "train=N val=N test=N")


def test_a_size_is_a_whole_number(data):
    one_line(data("prepare", "vtab/cifar", "train=5", "val=x", "test=1"), "val=x: expected a whole number.")


def test_what_only_a_person_can_fetch_is_told_with_the_steps(data, tmp_path):
    told = data("prepare", "vtab/resisc45")
    one_line(
        told,
        "NWPU-RESISC45",
        "by hand",
        str(tmp_path / "data/sources/resisc45/NWPU-RESISC45"),
        SOURCES["resisc45"].home,
    )


def test_of_many_tasks_those_that_fail_are_named_and_the_others_made(archives, data, tmp_path):
    for name in ("svhn", "eurosat"):
        shutil.copytree(archives / name, tmp_path / "some" / name)
    (tmp_path / "some/resisc45").mkdir()
    status, told, _ = data("prepare", "vtab/svhn", "vtab/resisc45", "vtab/eurosat", f"archives={tmp_path}/some", *WORDS)
    assert status == 1
    assert [line.split()[0] for line in told.splitlines()] == ["made", "failed", "made", "1"]
    assert "resisc45" in told.splitlines()[-1]


def test_a_task_that_is_there_is_left_alone(prepared, archives, data):
    mark = prepared[0] / "cifar/mine.txt"
    mark.write_text("kept")
    status, told, _ = data("prepare", "vtab/cifar", f"dir={prepared[0]}", f"archives={archives}", *WORDS)
    mark.unlink()
    assert status == 0
    assert told.startswith("there  cifar")


def test_something_else_in_the_task_s_place_is_kept(archives, data, tmp_path):
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn/mine.txt").write_text("kept")
    told = data("prepare", "vtab/svhn", f"dir={tmp_path}", f"archives={archives}", *WORDS)
    one_line(told, str(tmp_path / "svhn"), "no task's folder")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["prepare", "vtab/cifra"], ["vtab/cifra", "did you mean 'cifar'"]),
        (["prepare"], ["expected vtab or vtab/<task>"]),
        (["prepare", "vtab/cifar", "sorce=folder"], ["sorce", "did you mean 'source'"]),
        (["prepare", "vtab/cifar", "source=foldr"], ["source=foldr", "did you mean 'folder'"]),
        (["prepare", "vtab/cifar", "source=folder"], ["path="]),
        (["prepare", "vtab/cifar", "path=x"], ["path=x", "source=original"]),
        (["check", "vtab/dsprite_loc"], ["did you mean 'dsprites_loc'"]),
        (["check", "./nowhere"], ["./nowhere", "no such folder"]),
        (["check", "stage=tone"], ["stage=tone", "did you mean 'tune'"]),
        (["chek"], ["did you mean 'check'"]),
        ([], ["prepare, check, sources"]),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(data, words, parts):
    one_line(data(*words), *parts)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("cifar100", "cifar-100-binary.tar.gz"),
        ("caltech101", "caltech-101.zip"),
        ("dtd", "dtd-r1.0.1.tar.gz"),
        ("flowers102", "setid.mat"),
        ("flowers102", "102flowers.tgz"),
        ("oxford_iiit_pet", "annotations.tar.gz"),
        ("svhn", "train_32x32.mat"),
        ("sun397", "SUN397.tar.gz"),
        ("patch_camelyon", "camelyonpatch_level_2_split_train_x.h5.gz"),
        ("eurosat", "EuroSAT_RGB.zip"),
        ("clevr", "CLEVR_v1.0.zip"),
        ("dmlab", "dmlab.tar.gz"),
        ("kitti", "data_object_label_2.zip"),
        ("dsprites", "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"),
        ("smallnorb", "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat.gz"),
    ],
)
def test_a_file_that_is_cut_off_is_named_and_nothing_is_made(archives, data, tmp_path, source, file):
    shutil.copytree(archives / source, tmp_path / "cut" / source)
    for unpacked in (tmp_path / "cut" / source).glob("*.h5"):
        unpacked.unlink()
    truncated(tmp_path / "cut" / source / file)
    told = data("prepare", f"vtab/{SOURCES[source].tasks[0]}", f"archives={tmp_path}/cut", *WORDS)
    one_line(told, file)
    root = tmp_path / "data/vtab"
    assert not [p for p in root.glob("*") if not p.name.startswith(".")]


@pytest.mark.parametrize("kind", ["empty", "text"])
@pytest.mark.parametrize("source", [n for n in SOURCES if n not in ("resisc45", "sun397")])
def test_files_of_another_kind_are_refused(archives, data, tmp_path, source, kind):
    file = next(f.name for f in SOURCES[source].files if not f.name.endswith(".csv"))
    shutil.copytree(archives / source, tmp_path / "other" / source)
    for path in (tmp_path / "other" / source).glob("*"):
        if path.suffix == ".h5" or path.is_dir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
    (tmp_path / "other" / source / file).write_text("no archive" if kind == "text" else "")
    told = data("prepare", f"vtab/{SOURCES[source].tasks[0]}", f"archives={tmp_path}/other", *WORDS)
    one_line(told, file)


def test_a_pickle_is_never_loaded(data, tmp_path):
    """An .npz whose images are objects would run code when they are unpickled."""
    folder = tmp_path / "bad" / "dsprites"
    folder.mkdir(parents=True)
    ours = np.array([{"a": 1}] * 40, dtype=object)
    name = SOURCES["dsprites"].files[0].name
    np.savez(folder / name, imgs=ours, latents_classes=ours)
    one_line(data("prepare", "vtab/dsprites_loc", f"archives={tmp_path}/bad", *WORDS), name, "objects")


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:/evil.jpg"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_with_a_path_that_leads_out_is_refused(data, tmp_path, name, kind):
    folder = tmp_path / "evil" / "eurosat"
    folder.mkdir(parents=True)
    path = folder / "EuroSAT_RGB.zip"
    files = {"EuroSAT_RGB/Forest/Forest_1.jpg": picture(), name: picture()}
    zipped(path, files) if kind == "zip" else tar(path, files, "w" if kind == "tar" else "w:gz")
    told = data("prepare", "vtab/eurosat", f"archives={tmp_path}/evil", *WORDS)
    one_line(told, "EuroSAT_RGB.zip", name, "leads out of its folder")
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize(("link", "target"), [("sym", "../../etc/passwd"), ("sym", "/etc/passwd"), ("hard", "../x")])
def test_a_link_that_leads_out_is_refused(tmp_path, link, target):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("folder/link.jpg")
        member.type, member.linkname = (tarfile.SYMTYPE if link == "sym" else tarfile.LNKTYPE), target
        archive.addfile(member)
    with pytest.raises(UserError, match="leads out of its folder"):
        open_tree(path).names()


def test_a_rar_is_told_to_be_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"Rar!\x1a\x07\x00 and so on")
    with pytest.raises(UserError, match="rar archive; unpack it"):
        open_tree(tmp_path / "a.zip")


def test_an_unpacked_folder_stands_for_its_archive(archives, prepared, data, tmp_path):
    folder = tmp_path / "unpacked/dtd"
    folder.mkdir(parents=True)
    with tarfile.open(archives / "dtd/dtd-r1.0.1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    assert data("prepare", "vtab/dtd", f"archives={tmp_path}/unpacked", f"dir={tmp_path}", *WORDS)[0] == 0
    assert (tmp_path / "dtd/split.json").read_bytes() == (prepared[0] / "dtd/split.json").read_bytes()


def test_what_torchvision_left_on_disk_is_read_and_gives_the_same_labels(archives, tmp_path):
    from torchvision.datasets import DTD, OxfordIIITPet

    theirs = tmp_path / "torchvision"
    for archive, place in (
        ("dtd/dtd-r1.0.1.tar.gz", "dtd"),
        ("oxford_iiit_pet/images.tar.gz", "oxford-iiit-pet"),
        ("oxford_iiit_pet/annotations.tar.gz", "oxford-iiit-pet"),
        ("flowers102/102flowers.tgz", "flowers-102"),
    ):
        with tarfile.open(archives / archive) as file:
            file.extractall(theirs / place, filter="data")
    for name in ("imagelabels.mat", "setid.mat"):
        shutil.copy(archives / "flowers102" / name, theirs / "flowers-102")
    assert len(found(theirs, "flowers102", "oxford_flowers102")[0]["test"]) == 24
    textures, _ = found(theirs, "dtd", "dtd")
    pets, _ = found(theirs, "oxford_iiit_pet", "oxford_iiit_pet")
    for ours, other in (
        (textures["validation"], DTD(theirs, split="val")),
        (pets["train"], OxfordIIITPet(theirs, split="trainval")),
    ):
        files = getattr(other, "_image_files", None) or other._images
        assert [(e.key.rpartition("/")[2], e.label) for e in ours] == [
            (Path(path).name, label) for path, label in zip(files, other._labels, strict=True)
        ]
