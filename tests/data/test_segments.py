"""Masks from COCO's polygons and run lengths, as COCO's own tools draw them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.seg_folder import SegFolder
from peftbench.data.seg_sets import CocoStuff
from peftbench.data.segments import Segment, drawn_segment, run_lengths
from support.places import SHARED

coco = pytest.importorskip("pycocotools.mask")


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_run_lengths_are_read_as_pycocotools_reads_them(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (text, run_lengths(text)):
        drawn = drawn_segment(Segment(1, "it", 1.0, {"counts": counts}), (height, width))
        assert np.array_equal(drawn, mask)


def test_polygons_are_drawn_as_pycocotools_draws_them():
    polygons = [[1.5, 1.5, 12.2, 3.0, 8.0, 14.7], [15.0, 10.0, 25.0, 10.0, 25.0, 22.0, 15.0, 22.0]]
    drawn = drawn_segment(Segment(1, "it", 1.0, tuple(map(tuple, polygons))), (18, 20))
    theirs = coco.decode(coco.frPyObjects(polygons, 18, 20)).any(axis=2)
    assert np.array_equal(drawn, theirs)
    assert drawn[11, 16:].all(), "what reaches beyond the image is cut"


def annotated(root, *segmentations, crowd=0):
    """A folder with one training and one validation image of 20 x 10 pixels, and these objects on the first."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for number, role in enumerate(("train", "val")):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{role}.png")
        objects = [
            {"id": i + 1, "image_id": 1, "category_id": 3 + 4 * (i % 2), "bbox": [0, 0, 9, 9], "area": area}
            | {"iscrowd": crowd, "segmentation": form}
            for i, (form, area) in enumerate(segmentations if role == "train" else ())
        ]
        content = {
            "images": [{"id": 1, "file_name": f"{role}.png", "height": 10, "width": 20}],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": objects,
        }
        (root / "annotations" / f"instances_{role}.json").write_text(json.dumps(content))
    return root


LARGE, SMALL = [[0, 0, 10, 0, 10, 10, 0, 10]], {"size": [10, 20], "counts": [22, 4, 174]}


def test_small_objects_lie_on_large_ones_and_the_rest_is_background(tmp_path):
    splits = SegFolder(str(annotated(tmp_path, (LARGE, 100.0), (SMALL, 4.0))), val_fraction=0.0).load()
    assert splits.classes == ("background", "cat", "dog")
    assert [len(s) for s in (splits.train, splits.test)] == [1, 1]
    mask = splits.train.labels[0].read()
    assert mask.shape == (10, 20)
    assert (mask[:, :10] == 1).sum() == 96
    assert mask[2:6, 2].tolist() == [2] * 4
    assert not mask[:, 11:].any()
    assert not splits.test.labels[0].read().any()
    stamp = splits.train.content
    other = SegFolder(str(annotated(tmp_path / "b", (LARGE, 100.0))), val_fraction=0.0).load()
    assert other.train.content != stamp


def test_crowds_are_not_judged(tmp_path):
    splits = SegFolder(str(annotated(tmp_path, (LARGE, 100.0), crowd=1)), val_fraction=0.0).load()
    assert set(np.unique(splits.train.labels[0].read())) == {0, 255}


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (None, "annotation 1: segmentation is None; expected polygons"),
        ([[0, 0, 5, 5]], "a polygon is [0, 0, 5, 5]; expected x and y of three corners or more"),
        ([[0, 0, 5, 5, 7]], "expected x and y of three corners or more"),
        ([[0, 0, 5, "x", 7, 7]], "expected x and y of three corners or more"),
        ([[30, 0, 40, 0, 40, 10]], "lie from x 30 to 40 and y 0 to 10, outside of its image, 20 x 10"),
        ({"size": [20, 10], "counts": [200]}, "of the size [20, 10], and its image is [10, 20]"),
        ({"size": [10, 20], "counts": {}}, "counts is {}; expected run lengths"),
    ],
)
def test_segmentations_that_are_none(tmp_path, form, told):
    with pytest.raises(UserError) as raised:
        SegFolder(str(annotated(tmp_path, (form, 1.0)))).load()
    assert told in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path}/annotations/instances_train.json: ")


@pytest.mark.parametrize("counts", [[199], [22, 4, 175], [210, -10], "52"])
def test_run_lengths_of_another_number_of_pixels(tmp_path, counts):
    splits = SegFolder(str(annotated(tmp_path, ({"size": [10, 20], "counts": counts}, 1.0)))).load()
    with pytest.raises(UserError, match=r"annotation 1: its run lengths are of .* pixels, and its image has 200"):
        splits.train.labels[0].read()


def test_images_that_are_not_there_and_lists_beside_json(tmp_path):
    root = annotated(tmp_path, (LARGE, 1.0))
    (root / "images" / "val.png").rename(root / "images" / "else.png")
    with pytest.raises(UserError, match=r"instances_val\.json: 1 image of 1 is not there, such as val\.png"):
        SegFolder(str(root)).load()
    (root / "test.txt").write_text("train\n")
    with pytest.raises(UserError, match="is a list, and another split is COCO's JSON"):
        SegFolder(str(root), train="annotations/instances_train.json").load()


@pytest.mark.skipif(not (SHARED / "coco-mini").is_dir(), reason="needs ../shared/data")
def test_real_polygons_fill_their_boxes():
    splits = SegFolder(str(SHARED / "coco-mini")).load()
    assert (len(splits.classes), splits.classes[:2]) == (81, ("background", "person"))
    for mask in splits.train.labels:
        drawn = mask.read()
        assert set(np.unique(drawn)) <= {255, *range(81)}
        for segment in mask.segments:
            inside = drawn_segment(segment, mask.shape).sum()
            assert inside == pytest.approx(segment.area, rel=0.2, abs=60)


def panoptic(root, part, size=(4, 6), folder="images"):
    """One image with a panoptic PNG: a person (id 300) on grass (70,000), and a column without a segment."""
    pixels = np.random.default_rng(len(part)).integers(0, 256, (*size, 3), dtype=np.uint8)
    ids = np.full(size, 70000)
    ids[1:3, :2], ids[:, -1] = 300, 0
    place = root / "annotations" / f"panoptic_{part}"
    (root / folder).mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True)
    Image.fromarray(pixels).save(root / folder / f"{part}7.png")
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(colours).save(place / f"{part}7m.png")
    segments = [{"id": 300, "category_id": 1, "iscrowd": 1}, {"id": 70000, "category_id": 193, "iscrowd": 0}]
    content = {
        "images": [{"id": 7, "file_name": f"{part}7.png", "height": size[0], "width": size[1]}],
        "categories": [{"id": 193, "name": "grass", "isthing": 0}, {"id": 1, "name": "person", "isthing": 1}],
        "annotations": [{"image_id": 7, "file_name": f"{part}7m.png", "segments_info": segments}],
    }
    file = place.with_suffix(".json")
    file.write_text(json.dumps(content))
    return file, content, np.where(ids == 300, 0, np.where(ids == 0, 255, 1))


def test_panoptic_pngs_are_read_as_classes(tmp_path):
    _, _, expected = panoptic(tmp_path, "train")
    panoptic(tmp_path, "val")
    splits = SegFolder(str(tmp_path)).load()
    assert splits.classes == ("person", "grass")
    assert np.array_equal(splits.train.labels[0].read(), expected)
    assert (len(splits.train), len(splits.test)) == (1, 1)
    assert not splits.train.fault(0, (4, 6))
    assert "is 6 x 4 pixels" in splits.train.fault(0, (5, 6))
    for part in ("train2017", "val2017"):
        panoptic(tmp_path / "official", part, folder=f"images/{part}")
    official = CocoStuff(root=str(tmp_path / "official"), masks="panoptic").load()
    assert (official.name, official.classes) == ("cocopanoptic", splits.classes)
    assert np.array_equal(official.test.labels[0].read(), expected)
    with pytest.raises(UserError, match="annotations/train2017 is not in"):
        CocoStuff(root=str(tmp_path / "official")).load()
    with pytest.raises(UserError, match=r"data\.masks=things: expected stuffthingmaps or panoptic"):
        CocoStuff(root=str(tmp_path), masks="things").load()


def spoiled(file, content, what):
    png, annotation = file.with_suffix("") / "train7m.png", content["annotations"][0]
    if what == "id":
        Image.fromarray(np.full((4, 6, 3), 9, dtype=np.uint8)).save(png)
    elif what == "grey":
        Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(png)
    elif what == "png":
        png.unlink()
    elif what == "category":
        annotation["segments_info"][0]["category_id"] = 2
    elif what == "elsewhere":
        annotation["file_name"] = "../train7m.png"
    elif what == "image":
        annotation["image_id"] = 8
    elif what == "lacking":
        content["images"].append({"id": 9, "file_name": "nine.png"})
    elif what == "form":
        annotation["segments_info"] = "none"
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("id", "holds the segment 592137, which its annotation does not list"),
        ("grey", "is of mode L; expected a panoptic PNG in RGB"),
        ("png", "image 7 has no mask"),
        ("category", "a segment of image 7 is of the category 2; expected an id of its categories"),
        ("elsewhere", "the file name '../train7m.png' lies elsewhere"),
        ("image", "has an annotation of image 8, which is not among its images"),
        ("lacking", "nine.png has no annotation; expected one for each image"),
        ("form", "segments_info is 'none'; expected COCO's panoptic form"),
    ],
)
def test_a_panoptic_file_that_does_not_fit_gets_one_sentence(tmp_path, what, told):
    file, content, _ = panoptic(tmp_path, "train")
    panoptic(tmp_path, "val")
    spoiled(file, content, what)
    with pytest.raises(UserError) as refusal:
        SegFolder(str(tmp_path)).load().train.labels[0].read()
    assert told in str(refusal.value)
