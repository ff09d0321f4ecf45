"""Folders of images and masks: how their splits are found, and what is wrong with them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.digits_det import DigitsDet
from peftbench.data.digits_seg import DigitsSeg
from peftbench.data.seg_folder import SegFolder
from support.places import SHARED
from support.runs import told_by
from support.segmentation import seg_folder


def sizes(splits):
    return [0 if split is None else len(split) for split in (splits.train, splits.val, splits.test)]


def flat(root, count=10):
    """All images in one folder."""
    seg_folder(root, ("train",), count)
    for kind in ("images", "masks"):
        for file in (root / kind / "train").iterdir():
            file.rename(root / kind / file.name)
        (root / kind / "train").rmdir()
    return root


def test_splits_by_folder_in_either_order_of_folders(tmp_path):
    one = SegFolder(str(seg_folder(tmp_path / "a"))).load()
    assert sizes(one) == [2, 2, 2]
    assert one.classes == ("0", "1", "2")
    assert one.train.names == ["images/train/00.png", "images/train/01.png"]
    before = [mask.read().tolist() for mask in one.train.labels]
    for role in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (tmp_path / "b" / role).mkdir(parents=True, exist_ok=True)
            shutil.move(tmp_path / "a" / kind / role, tmp_path / "b" / role / kind)
    two = SegFolder(str(tmp_path / "b")).load()
    assert [mask.read().tolist() for mask in two.train.labels] == before
    assert sizes(two) == [2, 2, 2]


def test_splits_by_lists_and_drawn_ones(tmp_path):
    root = flat(tmp_path / "set")
    drawn = SegFolder(str(root)).load()
    assert sizes(drawn) == [7, 1, 2]
    assert SegFolder(str(root), split_seed=1).load().test.names != drawn.test.names
    (root / "train.txt").write_text("00\n01.png\n02\n")
    (tmp_path / "mine.txt").write_text("03\n\n04\n")
    listed = SegFolder(str(root), test=str(tmp_path / "mine.txt"), val_fraction=0.0).load()
    assert sizes(listed) == [3, 0, 2]
    assert listed.train.names == [f"images/0{i}.png" for i in range(3)]
    assert "5 images of" in listed.notes[0]
    with pytest.raises(UserError, match="there are images to train on and none to validate on"):
        listed.roles("tune")


def test_copies_of_an_image_are_in_one_split(tmp_path):
    root = flat(tmp_path / "set")
    for i in range(5):
        shutil.copy(root / "images" / "00.png", root / "images" / f"copy{i}.png")
        shutil.copy(root / "masks" / "00.png", root / "masks" / f"copy{i}.png")
    splits = SegFolder(str(root)).load()
    holding = [s for s in (splits.train, splits.val, splits.test) if any("copy" in n or "/00" in n for n in s.names)]
    assert len(holding) == 1


def test_the_hash_is_of_images_masks_and_what_masks_mean(tmp_path):
    root = seg_folder(tmp_path / "set")
    first = SegFolder(str(root)).load().train.content
    assert SegFolder(str(root)).load().train.content == first
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    named = SegFolder(str(root)).load().train.content
    assert named != first
    mask = root / "masks" / "train" / "00.png"
    pixels = np.asarray(Image.open(mask)).copy()
    pixels[0, 0] = (pixels[0, 0] + 1) % 3
    Image.fromarray(pixels).save(mask)
    assert SegFolder(str(root)).load().train.content != named


def test_what_has_no_partner_is_refused_or_left_out_by_request(tmp_path):
    root = seg_folder(tmp_path / "set", count=4)
    (root / "masks" / "train" / "00.png").unlink()
    with pytest.raises(UserError) as raised:
        SegFolder(str(root)).load()
    assert str(raised.value) == (
        f"{root}/images/train/00.png: there is no mask {root}/masks/train/00.*; 1 image of 4 has no mask; expected one "
        f"for each, or data.missing=0.25 to leave out what has none."
    )
    splits = SegFolder(str(root), missing=0.25).load()
    assert len(splits.train) == 3
    assert splits.notes == (f"1 image of 4 has no mask, such as {root}/images/train/00.png; left out",)
    (root / "images" / "train" / "00.png").unlink()
    (root / "images" / "val" / "10.png").unlink()
    with pytest.raises(UserError, match=r"masks/val/10\.png: there is no image .* 1 mask of 4 has no image"):
        SegFolder(str(root)).load()


def broken(root, what):
    if what == "no masks":
        shutil.rmtree(root / "masks")
    elif what == "a role":
        shutil.rmtree(root / "masks" / "val")
    elif what == "no train":
        for kind in ("images", "masks"):
            shutil.rmtree(root / kind / "train")
    elif what == "two stems":
        shutil.copy(root / "images" / "train" / "00.png", root / "images" / "train" / "00.jpg")
    elif what == "colours":
        for file in (root / "masks").rglob("*.png"):
            Image.open(file).convert("RGB").save(file)
    elif what == "a list too":
        (root / "train.txt").write_text("00\n")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no masks", "there is no folder {root}/masks; expected images and masks of the same stems"),
        ("a role", "{root}/images: has a folder for val, and {root}/masks has none"),
        ("no train", "there are val, test images but none to train on"),
        ("two stems", "{root}/images/train/00.png: has the stem of 00.jpg; expected different stems"),
        ("colours", "is in RGB, and nothing says which colour is which class"),
        ("a list too", "data.train={root}/train.txt: {root} has its splits in folders; leave the list out"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, what, told):
    root = seg_folder(tmp_path / "set")
    broken(root, what)
    with pytest.raises(UserError) as raised:
        SegFolder(str(root)).load()
    assert told.format(root=root) in str(raised.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"val_fraction": 1.0}, "data.val_fraction=1.0: expected at least 0 and below 1"),
        ({"split_seed": -1}, "data.split_seed=-1: expected 0 or more"),
        ({"classes": "nothing.csv"}, "data.classes=nothing.csv: there is no such file, nor one in"),
        ({"test": "nothing.txt"}, "data.test=nothing.txt: there is no such file, nor one in"),
        ({"train": "odd.txt"}, "odd.txt:2: there is no image and mask 'nobody'; expected a stem such as 00"),
    ],
)
def test_options_without_sense(tmp_path, options, told):
    root = flat(tmp_path / "set", 2)
    (root / "odd.txt").write_text("00\nnobody\n")
    with pytest.raises(UserError) as raised:
        SegFolder(str(root), **options).load()
    assert told in str(raised.value)


def test_digits_with_masks_are_the_canvases_of_those_with_boxes():
    splits = DigitsSeg(images=(4, 1, 2), canvas=64).load()
    boxes = DigitsDet(images=(4, 1, 2), canvas=64).load()
    assert splits.classes == ("background", *"0123456789")
    assert sizes(splits) == [4, 1, 2]
    for mask, image, objects, other in zip(
        splits.train.labels, splits.train.images, boxes.train.labels, boxes.train.images, strict=True
    ):
        assert np.array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(other)))
        pixels = mask.read()
        assert set(np.unique(pixels)) <= {0, *(objects.labels + 1)}
        inside = np.zeros_like(pixels, dtype=bool)
        for (x1, y1, x2, y2), label in zip(objects.boxes.astype(int), objects.labels, strict=True):
            inside[y1:y2, x1:x2] = True
            assert (pixels[y1:y2, x1:x2] == label + 1).mean() > 0.1
        assert not pixels[~inside].any()


@pytest.mark.parametrize("options", [{"images": (0, 1, 1)}, {"canvas": 8}, {"drawing_seed": -1}])
def test_digits_that_cannot_be_drawn(options):
    with pytest.raises(UserError, match=f"data.{next(iter(options))}="):
        DigitsSeg(**options).load()


@pytest.mark.skipif(not (SHARED / "coffee-leaf-seg").is_dir(), reason="needs ../shared/data")
def test_real_sets_by_folders_and_by_lists():
    leaves = SegFolder(str(SHARED / "coffee-leaf-seg")).load()
    assert (sizes(leaves), leaves.classes) == ([200, 50, 50], ("background", "leaf", "symptom"))
    land = SegFolder(str(SHARED / "dubai-landcover-seg")).load()
    assert (sizes(land), land.classes) == ([192, 32, 64], ("building", "land", "road", "vegetation", "water"))
    assert {255} < set(np.unique(np.concatenate([m.read() for m in land.train.labels[:40]])))


def test_a_look_at_a_set_names_masks_that_do_not_fit(tmp_path, capsys):
    root = seg_folder(tmp_path / "set", count=4)
    (root / "classes.txt").write_text("a\nb\nc\nrare\n")
    masks = root / "masks" / "train"
    Image.open(masks / "00.png").resize((8, 8)).save(masks / "00.png")
    Image.fromarray(np.full((24, 32), 255, dtype=np.uint8)).save(masks / "01.png")
    Image.fromarray(np.full((24, 32), 9, dtype=np.uint8)).save(root / "masks" / "val" / "10.png")
    status, out, err = told_by(capsys, "data", "check", "data=seg_folder", f"data.root={root}")
    assert status == 1, err
    assert "train: 4 images, 3 classes" in out
    assert f"of 2 of the training images do not fit, such as {masks}/00.png: is 8 x 8 pixels, and its image 32" in out
    assert f"of 1 of the validation images does not fit, such as {root}/masks/val/10.png: holds the value 9" in out
    assert "1 class without training images: rare" in out
