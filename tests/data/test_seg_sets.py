"""Published sets with masks, in small: their layouts, what their values mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import DataMissing
from peftbench.data.seg_sets import ADE20K, VOC_CLASSES, CocoStuff, VOCSeg

PARTS = {"ade": ("training", "validation"), "stuff": ("train2017", "val2017")}


def written(root, images, masks, stems, values):
    """An image and a mask of two rows of these values for each stem."""
    for folder in (images, masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem in stems:
        pixels = np.random.default_rng(list(stem.encode())).integers(0, 256, (2, len(values), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / images / f"{stem}.jpg")
        Image.fromarray(np.array([values] * 2, dtype=np.uint8)).save(root / masks / f"{stem}.png")


def official(root, kind, values):
    for part in PARTS[kind]:
        written(root, f"images/{part}", f"annotations/{part}", [f"{part}{i}" for i in range(4)], values)
    return root


def test_ade20k_begins_with_no_class(tmp_path):
    root = official(tmp_path, "ade", [0, 1, 150])
    splits = ADE20K(root=str(root)).load()
    assert splits.train.labels[0].read()[0].tolist() == [255, 0, 149]
    assert (splits.classes[0], len(splits.classes), splits.val, len(splits.test)) == ("1", 150, None, 4)
    names = ["wall", "building, edifice", "screen, silver screen", "screen, door", *(f"thing{i}" for i in range(146))]
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{i}\t0\t0\t0\t1\t{name}" for i, name in enumerate(names, 1))]
    (root / "objectInfo150.txt").write_text("\n".join(rows))
    named = ADE20K(root=str(root), val_fraction=0.25).load()
    assert named.classes[:4] == ("wall", "building", "screen, silver screen", "screen, door")
    assert [len(s) for s in (named.train, named.val, named.test)] == [3, 1, 4]
    written(root, "images/training", "annotations/training", ["more"], [151])
    with pytest.raises(UserError, match="holds the value 151; expected 1 to 150"):
        ADE20K(root=str(root)).load().train.labels[0].read()
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    with pytest.raises(UserError, match="names 1 classes; expected 150"):
        ADE20K(root=str(root)).load()


def test_voc_goes_by_its_lists(tmp_path):
    written(tmp_path, "JPEGImages", "SegmentationClass", ["a", "b", "c"], [0, 20, 255])
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "trainaug.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    splits = VOCSeg(root=str(tmp_path)).load()
    assert (splits.train.names, splits.test.names) == (["JPEGImages/a.jpg"], ["JPEGImages/c.jpg"])
    assert splits.classes == VOC_CLASSES
    assert splits.train.labels[0].read()[0].tolist() == [0, 20, 255]
    assert len(VOCSeg(root=str(tmp_path), train_list="trainaug").load().train) == 2
    (lists / "val.txt").write_text("gone\n")
    with pytest.raises(UserError, match=r"val\.txt: names gone, and there is no .*gone\.jpg"):
        VOCSeg(root=str(tmp_path)).load()


def test_coco_stuff_leaves_ids_out_that_no_release_has(tmp_path):
    root = official(tmp_path, "stuff", [0, 11, 181, 255])
    splits = CocoStuff(root=str(root)).load()
    assert len(splits.classes) == 171
    with pytest.raises(UserError, match="holds the value 11"):
        splits.train.labels[0].read()
    for part in PARTS["stuff"]:
        written(root, f"images/{part}", f"annotations/{part}", [f"{part}{i}" for i in range(4)], [0, 12, 181, 255])
    (root / "labels.txt").write_text("".join(f"{i}: thing{i}\n" for i in range(183)))
    named = CocoStuff(root=str(root)).load()
    assert named.train.labels[0].read()[0].tolist() == [0, 11, 170, 255]
    assert (named.classes[0], named.classes[11], named.classes[170]) == ("thing1", "thing13", "thing182")
    (root / "labels.txt").write_text("person\n")
    with pytest.raises(UserError, match=r"labels\.txt:1: 'person' is no id and name"):
        CocoStuff(root=str(root)).load()


@pytest.mark.parametrize("kind", [ADE20K, VOCSeg, CocoStuff])
def test_what_is_not_there_is_named(kind, tmp_path):
    with pytest.raises(DataMissing, match="there is no folder"):
        kind(root=str(tmp_path / "nowhere")).load()
    with pytest.raises(DataMissing, match="is not in"):
        kind(root=str(tmp_path)).load()
