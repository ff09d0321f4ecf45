"""Segments of objects: COCO's polygons and run lengths as its own tools read them, and what is wrong in a file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.common.errors import UserError
from peftbench.data.coco import CocoFolder
from peftbench.data.digits_det import DigitsDet
from peftbench.data.segment_forms import Segment, decoded, encoded, lengths_in, packed, read_segment
from support.coco import box, good, write
from support.yolo import write_yolo

CORNER = st.floats(-30, 60).map(lambda x: round(x, 2))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.floats(0, 1))
def test_run_lengths_in_both_forms_are_read_back(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = encoded(mask)
    lengths = lengths_in(counts.decode())
    assert lengths.sum() == mask.size
    for form in (counts.decode(), lengths.tolist()):
        segment = read_segment({"size": [height, width], "counts": form}, (height, width), "it")
        drawn = decoded([segment.run_lengths((height, width))], (height, width))
        assert np.array_equal(drawn[0], mask)


@settings(max_examples=40, deadline=None)
@given(st.lists(CORNER, min_size=6, max_size=12).filter(lambda x: len(x) % 2 == 0), st.integers(4, 30))
def test_what_of_a_polygon_lies_outside_is_cut_off_as_pycocotools_does(corners, side):
    theirs = pytest.importorskip("pycocotools.mask")
    drawn = decoded([Segment(packed([corners])).run_lengths((side, 24))], (side, 24))[0]
    assert np.array_equal(drawn, theirs.decode(theirs.frPyObjects([corners], side, 24))[:, :, 0])


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=300), max_size=20))
def test_any_text_is_lengths_or_refused(text):
    """What is no run lengths of 6 x 7 pixels never reaches the library, which trusts them."""
    form = {"size": [6, 7], "counts": text}
    lengths = lengths_in(text)
    if (lengths >= 0).all() and lengths.sum() == 42:
        assert decoded([read_segment(form, (6, 7), "it").run_lengths((6, 7))], (6, 7)).sum() == lengths[1::2].sum()
    else:
        with pytest.raises(UserError, match="it: its run lengths are of "):
            read_segment(form, (6, 7), "it")


POLYGON, WHOLE = [[1, 2, 11, 2, 11, 7, 1, 7]], [[0, 0, 30, 0, 30, 20, 0, 20]]


def with_segments(*forms: Any) -> dict[str, Any]:
    """A file with an object on the first image for each of these."""
    rows = [box(i, 5, 90, (1, 2, 10, 5), segmentation=form) for i, form in enumerate(forms, start=1)]
    return good() | {"annotations": rows}


def loaded(root: Path, content: Any, **options: Any) -> Any:
    write(root, content)
    return CocoFolder(root=str(root), val=None, empty=True, **options).load_as("masks")


def test_objects_have_their_segments_in_every_form(tmp_path):
    inside = np.zeros((20, 30), dtype=np.uint8)
    inside[2:7, 1:11] = 1
    flat = inside.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    forms = (POLYGON, {"size": [20, 30], "counts": lengths}, {"size": [20, 30], "counts": encoded(inside).decode()})
    train = loaded(tmp_path, with_segments(*forms)).train
    objects = train.labels[0]
    drawn = decoded([segment.run_lengths(objects.size) for segment in objects.segments], objects.size)
    assert (drawn == inside).all()
    assert train.labels[1].segments == (), "an image without an object"
    plain = CocoFolder(root=str(tmp_path), val=None, empty=True).load().train
    assert all(one.segments is None for one in plain.labels), "boxes alone hold no segments"
    assert plain.content != train.content
    moved = loaded(tmp_path, with_segments([[1, 2, 11, 2, 11, 7, 1, 6]], *forms[1:])).train
    assert moved.content != train.content, "the hash of the split sees masks"


def test_polygons_beyond_their_image_are_cut_off_and_said(tmp_path):
    beyond = [[20, 10, 60, 10, 60, 40, 20, 40]]
    splits = loaded(tmp_path, with_segments(POLYGON, beyond, [[0, 0, 30.9, 0, 30.9, 20, 0, 20]]))
    (note,) = [note for note in splits.notes if "polygons" in note]
    assert "polygons of 1 annotation reach beyond their image, such as those of annotation 2 of 5.png (30 x 20)" in note
    segment = splits.train.labels[0].segments[1]
    assert decoded([segment.run_lengths((20, 30))], (20, 30)).sum() == 100
    outside = [[40, 10, 60, 10, 60, 40]]
    with pytest.raises(UserError, match="1 of 1 boxes or masks is empty or outside its image"):
        loaded(tmp_path / "other", with_segments(outside))
    kept = loaded(tmp_path / "third", with_segments(outside, *[POLYGON] * 2), dropped=0.5)
    assert len(kept.train.labels[0].segments) == len(kept.train.labels[0].labels) == 2


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (..., "1 of 2 annotations has no segmentation, such as annotation 2 of 5.png; task.masks=true needs polygons"),
        ([], "1 of 2 annotations has no segmentation"),
        ([[1, 2, 3, 4]], "expected polygons [[x1, y1, …]] of three corners or more, or run lengths"),
        ([[1, 2, 3, "4", 5, 6]], "annotation 2 of 5.png: segmentation is"),
        ([[1, 2, 3, float("nan"), 5, 6]], "a polygon has a corner that is no finite number"),
        ([[1, 2, 3, 10**400, 5, 6]], "annotation 2 of 5.png: segmentation is"),
        ({"size": [20, 30], "counts": [500, 99]}, "its run lengths are of 599 pixels, and its image has 600 (30 x 20)"),
        ({"size": [20, 30], "counts": [700, -100]}, "expected run lengths, or COCO's text"),
        ({"size": [20, 30], "counts": "0"}, "its run lengths are of 0 pixels, and its image has 600"),
        ({"size": [30, 20], "counts": [600]}, "are of the size [30, 20], and its image is [20, 30]"),
        ("polygon", "annotation 2 of 5.png: segmentation is 'polygon'"),
    ],
)
def test_what_is_no_segment_is_refused_with_its_annotation(tmp_path, form, told):
    content = with_segments(POLYGON, form if form is not ... else None)
    if form is ...:
        del content["annotations"][1]["segmentation"]
    with pytest.raises(UserError) as problem:
        loaded(tmp_path, content)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_set_holds_outlines_and_no_masks(tmp_path):
    """A mask of each object here would be 1 GB together."""
    content = with_segments(*[[[0, 0, 9000, 10, 9990, 9990, 10, 9000]]] * 10)
    content["images"][0] |= {"height": 10_000, "width": 10_000}
    assert len(pickle.dumps(loaded(tmp_path, content).train)) < 10_000


def test_entries_of_one_file_keep_the_segments_of_their_objects(tmp_path):
    content = with_segments(POLYGON, WHOLE)
    content["images"] = [{"id": i, "file_name": "5.png", "height": 20, "width": 30} for i in (5, 7)]
    content["annotations"][1] |= {"image_id": 7, "bbox": [0, 0, 30, 20]}
    (objects,) = loaded(tmp_path, content).train.labels
    assert [decoded([s.run_lengths((20, 30))], (20, 30)).sum() for s in objects.segments] == [50, 600]


def test_yolo_s_outlines_are_masks_and_its_boxes_are_refused(tmp_path):
    outline = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
    root = write_yolo(tmp_path / "outlines", train_a=outline, val_b=outline)
    splits = CocoFolder(root=str(root)).load_as("masks")
    objects = splits.train.labels[0]
    drawn = decoded([segment.run_lengths(objects.size) for segment in objects.segments], objects.size)
    assert drawn.sum() == pytest.approx(0.16 * objects.size[0] * objects.size[1], rel=0.1)
    with pytest.raises(UserError, match="no segmentation"):
        CocoFolder(root=str(write_yolo(tmp_path / "boxes"))).load_as("masks")


def test_masks_of_drawn_digits_fill_their_boxes_and_leave_pictures_as_they_were():
    made = DigitsDet(images=(2, 1, 1), canvas=64)
    plain, masked = made.load().train, made.load_as("masks").train
    for path, other, objects in zip(plain.images, masked.images, masked.labels, strict=True):
        assert path.read_bytes() == other.read_bytes()
        assert np.array_equal(objects.boxes, plain.labels[list(plain.images).index(path)].boxes)
        drawn = decoded([segment.run_lengths(objects.size) for segment in objects.segments], objects.size)
        assert (drawn.sum(0) <= 1).all(), "no pixel is of two digits"
        for mask, (x1, y1, x2, y2) in zip(drawn, objects.boxes.astype(int), strict=True):
            assert mask.sum() == mask[y1:y2, x1:x2].sum() > 0
