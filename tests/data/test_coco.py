"""Detection data in COCO's format: what is read, and which split is which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import peftbench.data.boxes
from peftbench.data.boxes import BoxSplit
from peftbench.data.coco import Coco, CocoFolder
from support.coco import box, changed, good, load, refusal, write
from support.places import shared


def test_gapped_ids_crowds_clipped_boxes_areas_and_images_without_boxes(tmp_path):
    splits = load(write(tmp_path, good()))
    train = splits.train
    assert isinstance(train, BoxSplit)
    assert (splits.classes, train.categories) == (("apple", "zebra"), (3, 90))
    assert [o.id for o in train.labels] == [5, 7, 9]
    first, empty, crowd = train.labels
    assert first.size == (20, 30)
    np.testing.assert_array_equal(first.boxes, np.array([[1, 2, 11, 7], [20, 10, 30, 20]], dtype=np.float32))
    assert first.labels.tolist() == [1, 0]
    assert first.area.tolist() == [12.5, 100], "the file's, else that of the clipped box"
    assert empty.boxes.shape == (0, 4)
    assert (first.crowd.tolist(), crowd.crowd.tolist()) == ([False, False], [True])
    assert (first.boxes.dtype, first.labels.dtype, first.area.dtype) == (np.float32, np.int64, np.float32)


def test_boxes_that_are_empty_or_outside_are_left_out_and_told(tmp_path):
    outside = [box(1, 5, bbox=(30, 0, 5, 5)), box(2, 5, bbox=(-9, 3, 9, 9)), box(3, 5, bbox=(4, 4, 0, 5))]
    outside += [box(4, 5, bbox=(9, 9, -3, 4)), box(5, 5, bbox=(1e300, 0, 1e300, 1)), box(6, 5, bbox=(-5, -5, 8, 8))]
    root = write(tmp_path, changed(annotations=outside))
    splits = load(root, dropped=0.9)
    assert splits.train.labels[0].boxes.tolist() == [[0, 0, 3, 3]]
    lost = "5 of 6 boxes are empty or outside their image, such as x 30 to 35, y 0 to 5 of 5.png (30 x 20); "
    assert splits.notes == (f"instances_train.json: {lost}they are left out",)
    assert refusal(CocoFolder(root=str(root), val=None)) == (
        f"{root}/annotations/instances_train.json: {lost}expected boxes within their images, or a larger share to "
        f"leave out, such as data.dropped=0.84."
    )


@pytest.mark.parametrize(("lost", "refused"), [(1, False), (2, True)])
def test_up_to_a_tenth_of_the_boxes_is_left_out_with_a_note(tmp_path, lost, refused):
    boxes = [box(i, 5, bbox=(1, 2, 0 if i <= lost else 10, 5)) for i in range(1, 11)]
    root = write(tmp_path, changed(annotations=boxes))
    if refused:
        assert "2 of 10 boxes are empty" in refusal(CocoFolder(root=str(root), val=None))
    else:
        (note,) = load(root).notes
        assert note.startswith("instances_train.json: 1 of 10 boxes is empty")


SIZED = [{"id": i, "file_name": f"{i}.png", "height": h, "width": 30} for i, h in ((5, 20), (7, 20), (9, None))]


@pytest.mark.parametrize("area", [{}, {"area": 0.125}, {"area": 75.0}])
@pytest.mark.parametrize("images", [good()["images"], SIZED], ids=["sizes given", "sizes not given"])
def test_boxes_in_shares_of_the_image_are_those_in_pixels(tmp_path, area, images):
    shares = [box(1, 5, bbox=(0.1, 0.25, 0.5, 0.25), **area), box(2, 9, bbox=(0, 0, 1, 0.5), **area)]
    root = write(tmp_path, changed(images=images, annotations=[*shares, box(3, 9, bbox=(0.5, 0.5, 0.507, 0.5))]))
    splits = load(root)
    first, _, last = splits.train.labels
    np.testing.assert_allclose(first.boxes, [[3, 5, 18, 10]], rtol=1e-6)
    np.testing.assert_allclose(last.boxes, [[0, 0, 30, 10], [15, 10, 30, 20]], rtol=1e-6)
    assert first.area.tolist() == pytest.approx([75.0])
    (note,) = splits.notes
    assert note.startswith("instances_train.json: its boxes are in shares of the image, 0 to 1, instead of pixels")


def test_shares_of_corners_or_centres_are_refused(tmp_path):
    shares = [box(1, 5, bbox=(0.1, 0.25, 0.5, 0.25)), box(2, 9, bbox=(0.5, 0.5, 0.9, 0.75))]
    told = refusal(CocoFolder(root=str(write(tmp_path, changed(annotations=shares))), val=None))
    assert "bbox [0.5, 0.5, 0.9, 0.75] of 9.png reaches beyond it" in told
    assert "expected [x, y, width, height] from the top left corner, in pixels or in shares" in told


@pytest.mark.parametrize("bbox", [(0, 0, 1, 1), (0.2, 0.2, 0.5, 1.5)])
def test_small_boxes_in_pixels_are_no_shares(tmp_path, bbox):
    splits = load(write(tmp_path, changed(annotations=[box(1, 5, bbox=bbox)])))
    np.testing.assert_allclose(splits.train.labels[0].boxes, [[*bbox[:2], bbox[0] + bbox[2], bbox[1] + bbox[3]]])
    assert splits.notes == ()


def test_training_leaves_out_images_without_objects_and_evaluation_does_not(tmp_path):
    write(write(tmp_path, good()), good(), "annotations/instances_val.json")
    splits = CocoFolder(root=str(tmp_path)).load()
    assert [o.id for o in splits.train.labels] == [5], "a crowd alone is nothing to train on"
    assert splits.test is not None
    assert len(splits.test) == 3
    assert "3 of the test images are training images too, such as 5.png" in splits.notes


def test_of_two_files_the_second_is_tested_and_of_three_the_second_is_watched(tmp_path):
    write(write(tmp_path, good()), good(), "annotations/instances_val.json")
    two = CocoFolder(root=str(tmp_path)).load()
    assert (two.val, len(two.test or ())) == (None, 3)
    three = CocoFolder(root=str(tmp_path), test="annotations/instances_val.json", val_images=2).load()
    assert three.val is not None
    assert [o.id for o in three.val.labels] == [5, 9], "evenly spaced"
    assert three.trainval is not None
    assert len(three.trainval) == 2, "all that have objects, whatever an epoch looks at"


def test_images_are_held_out_of_training_by_a_seed(tmp_path):
    root = write(tmp_path, good())
    splits = load(root, val_fraction=0.34)
    assert splits.val is not None
    assert (len(splits.train), len(splits.val)) == (2, 1)
    assert not set(splits.train.names) & set(splits.val.names)
    assert {tuple(load(root, val_fraction=0.34, split_seed=s).val.names) for s in range(8)} > {("5.png",)}  # type: ignore[union-attr]
    assert load(root, val_fraction=0.34).val.names == splits.val.names  # type: ignore[union-attr]


def test_the_hash_sees_boxes_classes_crowds_and_bytes(tmp_path, monkeypatch):
    hashes = {load(write(tmp_path, good())).train.content}
    for key, value in (("bbox", [1, 2, 10, 6]), ("category_id", 3), ("iscrowd", 1), ("area", 3.0)):
        content = good()
        content["annotations"][0][key] = value
        hashes.add(load(write(tmp_path, content)).train.content)
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "images" / "5.png")
    hashes.add(load(write(tmp_path, good())).train.content)
    assert len(hashes) == 6
    monkeypatch.setattr(peftbench.data.boxes, "HASHED", 10)
    assert all(line.endswith("B") for line in load(tmp_path).train.lines()), "of many bytes, only their number"


def test_sizes_that_the_file_does_not_say_are_those_of_the_upright_image(tmp_path):
    content = good()
    for image in content["images"]:
        del image["width"], image["height"]
    write(tmp_path, content)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "7.png", exif=turned)
    assert [o.size for o in load(tmp_path).train.labels] == [(20, 30), (30, 20), (20, 30)]


@pytest.mark.parametrize("place", ["", "train", "images/train", "images", "annotations", "photos"])
def test_images_are_found_in_the_usual_places(tmp_path, place):
    content = good()
    for image in content["images"]:
        image["file_name"] = f"a/{image['file_name']}"
    write(tmp_path, content)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").rename(tmp_path / place / "a")
    splits = load(tmp_path, images="photos" if place == "photos" else None)
    assert [p.name for p in splits.train.images] == ["5.png", "7.png", "9.png"]


def test_several_folders_of_images_and_a_json_file_elsewhere(tmp_path):
    root = write(tmp_path / "root", good())
    (root / "more").mkdir()
    (root / "images" / "9.png").rename(root / "more" / "9.png")
    file = root.parent / "mine.json"
    file.write_text(json.dumps(good()))
    assert len(load(root, train=str(file), images=("images", str(root / "more"))).train) == 3
    told = refusal(CocoFolder(root=str(root), train=str(file), val=None))
    assert "1 of 3 images is not there, such as 9.png" in told


def test_what_is_missing_is_left_out_up_to_a_share(tmp_path):
    content = good()
    content["annotations"].append(box(8, 77))
    root = write(tmp_path, content)
    (root / "images" / "7.png").unlink()
    told = refusal(CocoFolder(root=str(root), val=None, missing=0.3))
    assert "1 of 3 images is not there, such as 7.png" in told
    assert f"looked for in {root / 'annotations'}, {root / 'images'}" in told
    splits = load(root, missing=0.34)
    assert [o.id for o in splits.train.labels] == [5, 9]
    assert splits.notes == (
        "instances_train.json: 1 of 3 images is not there, such as 7.png; it is left out, with 0 boxes",
        "instances_train.json: 1 of 4 annotations is of an image that is not listed, such as annotation 8 of image 77; "
        "it is left out",
    )
    Image.new("RGB", (30, 20)).save(root / "images" / "7.png")
    assert "1 of 4 annotations is of an image that is not listed" in refusal(CocoFolder(root=str(root), val=None))


def test_the_small_coco_and_the_blood_cells():
    coco = CocoFolder(root=str(shared("coco-mini")), empty=True).load()
    assert (len(coco.classes), len(coco.train), len(coco.test or ())) == (80, 22, 11)
    assert sum(len(o.labels) for o in coco.train.labels) == 181
    assert sum(int(o.crowd.sum()) for o in coco.train.labels) == 3
    cells = CocoFolder(root=str(shared("bccd-coco")), test="annotations/instances_test.json").load()
    assert cells.classes == ("RBC", "WBC", "Platelets")
    splits = (cells.train, cells.val, cells.test)
    assert [len(s or ()) for s in splits] == [205, 87, 72]
    assert [sum(len(o.labels) for o in s.labels) for s in splits if s] == [2804, 1137, 945]


def test_what_is_read_is_what_pycocotools_reads():
    api = pytest.importorskip("pycocotools.coco").COCO(str(shared("coco-mini")) + "/annotations/instances_train.json")
    train = CocoFolder(root=str(shared("coco-mini")), empty=True).load().train
    assert isinstance(train, BoxSplit)
    assert list(train.categories) == sorted(api.getCatIds())
    assert [o.id for o in train.labels] == list(api.imgs)
    for objects in train.labels:
        theirs = api.loadAnns(api.getAnnIds(objects.id))
        width_height = objects.boxes[:, 2:] - objects.boxes[:, :2]
        ours = np.concatenate([objects.boxes[:, :2], width_height], axis=1)
        np.testing.assert_allclose(ours, np.reshape([a["bbox"] for a in theirs], (-1, 4)), atol=1e-3)
        assert [train.categories[label] for label in objects.labels] == [a["category_id"] for a in theirs]
        assert objects.crowd.tolist() == [bool(a["iscrowd"]) for a in theirs]
        np.testing.assert_allclose(objects.area, [a["area"] for a in theirs], rtol=1e-6)


def test_the_official_layout(tmp_path):
    for role in ("train", "val"):
        write(tmp_path, good(), f"annotations/instances_{role}2017.json")
        (tmp_path / f"{role}2017").mkdir()
        for i in (5, 7, 9):
            Image.new("RGB", (30, 20), (i, 0, len(role))).save(tmp_path / f"{role}2017" / f"{i}.png")
    splits = Coco(root=str(tmp_path)).load()
    assert splits.test is not None
    assert splits.val is None
    assert {Path(p).parent.name for p in splits.test.images} == {"val2017"}
    assert splits.notes == ()
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    assert "annotations/instances_val2017.json is not in" in refusal(Coco(root=str(tmp_path)))


def headed(*others: str, above: str = "fruits") -> list[dict[str, Any]]:
    """Categories as Roboflow lists them, the first above the others."""
    below = [{"id": i, "name": name, "supercategory": above} for i, name in enumerate(others, start=1)]
    return [{"id": 0, "name": "fruits", "supercategory": "none"}, *below]


def test_a_category_above_all_others_without_objects_is_no_class(tmp_path):
    content = changed(categories=headed("apple", "pear", "plum"), annotations=[box(1, 5, 1), box(2, 9, 3)])
    root = write(write(tmp_path, content), content, "annotations/instances_val.json")
    splits = CocoFolder(root=str(root), empty=True).load()
    assert splits.classes == ("apple", "pear", "plum"), "pear has no objects either, and stays"
    for split in (splits.train, splits.test):
        assert split.categories == (1, 2, 3)
        assert [o.labels.tolist() for o in split.labels] == [[0], [], [2]]
    assert splits.notes[0] == (
        "instances_train.json: the category 'fruits' (id 0) is the heading of the 3 others and has no objects; it is "
        "no class"
    )


@pytest.mark.parametrize(
    ("categories", "of_test"),
    [
        (headed("apple", "pear"), 0),
        ([*headed("apple", "pear"), {"id": 7, "name": "stone", "supercategory": "none"}], 1),
        (headed("apple", "pear", above="food"), 1),
        ([*headed("apple", "pear"), {"id": 7, "name": "stone", "supercategory": ["fruits"]}], 1),
        ([*headed(), {"id": 1, "name": "apple"}], 1),
    ],
    ids=["has a box in one file", "two at the top", "another above", "one of a list", "nothing said"],
)
def test_any_other_category_is_a_class(tmp_path, categories, of_test):
    content = changed(categories=categories, annotations=[box(1, 5, 1)])
    root = write(tmp_path, content)
    write(root, content | {"annotations": [box(1, 5, of_test)]}, "annotations/instances_val.json")
    splits = CocoFolder(root=str(root)).load()
    assert splits.classes == tuple(c["name"] for c in categories)
    assert splits.test.labels[0].labels.tolist() == [of_test]
