"""COCO files that cannot be used: any value in any field is read or refused in a sentence."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.common.errors import UserError
from peftbench.data.coco import CocoFolder
from support.coco import changed, good, load, refusal, write


def entry(part: str, key: str, value: Any, at: int = 0) -> dict[str, Any]:
    content = good()
    content[part][at][key] = value
    return content


def without(part: str, key: str | None = None) -> dict[str, Any]:
    content = good()
    del (content if key is None else content[part][0])[key or part]
    return content


BAD = {
    "no JSON": ("{", "cannot be read as JSON (Expecting property name"),
    "deep": ("[" * 200_000, "cannot be read as JSON"),
    "results": ([{"image_id": 5}], "expected COCO's object with images, annotations and categories"),
    "no images": (without("images"), "has no 'images'"),
    "no annotations": (without("annotations"), "has no 'annotations'"),
    "no categories": (without("categories"), "has no 'categories'"),
    "images an object": (changed(images={}), "images is an empty object; expected a list"),
    "an image a number": (changed(images=[3]), "images[0] is 3; expected an object"),
    "empty": (changed(images=[], annotations=[]), "images is empty"),
    "no classes": (changed(categories=[]), "categories is empty"),
    "id a string": (entry("images", "id", "5"), 'images[0]: id is "5"; expected a whole number'),
    "id true": (entry("annotations", "id", True), "annotations[0]: id is true; expected a whole number"),
    "id twice": (entry("images", "id", 7), "images holds the id 7 twice"),
    "annotation twice": (entry("annotations", "id", 2), "annotations holds the id 2 twice"),
    "category twice": (entry("categories", "id", 3), "categories holds the id 3 twice"),
    "huge id": (entry("images", "id", 2**70), "whole number of 64 bits"),
    "no file name": (without("images", "file_name"), "images[0] (id 5) has no 'file_name'"),
    "no box": (without("annotations", "bbox"), "annotations[0] (id 1) has no 'bbox'"),
    "category absent": (entry("annotations", "category_id", 4), "category_id is 4; expected the id of one of"),
    "up": (entry("images", "file_name", "../5.png"), 'file_name is "../5.png"; expected a path inside'),
    "absolute": (entry("images", "file_name", "/etc/passwd"), "expected a path inside"),
    "Windows": (entry("images", "file_name", "..\\5.png"), "expected a path inside"),
    "drive": (entry("images", "file_name", "C:/5.png"), "expected a path inside"),
    "width": (entry("images", "width", 0), "width is 0; expected a size in pixels"),
    "height": (entry("images", "height", "20"), 'height is "20"; expected a size in pixels'),
    "three numbers": (entry("annotations", "bbox", [1, 2, 3]), "expected [x, y, width, height], four finite numbers"),
    "a text": (entry("annotations", "bbox", [1, 2, "3", 4]), 'bbox is [1, 2, "3", 4]'),
    "NaN": (entry("annotations", "bbox", [1, 2, float("nan"), 4], 1), "annotations[1] (id 2): bbox is [1, 2, NaN, 4]"),
    "infinite": (entry("annotations", "bbox", [1, 2, 3, float("inf")]), "annotations[0] (id 1): bbox is"),
    "long number": (entry("annotations", "bbox", [1, 2, 3, 10**400]), "four finite numbers"),
    "crowd": (entry("annotations", "iscrowd", 2), "iscrowd is 2; expected 0 or 1"),
    "area": (entry("annotations", "area", -1.5), "area is -1.5; expected a finite number, 0 or more"),
    "name": (entry("categories", "name", None), "name is null; expected the name of the category"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_what_is_not_coco_is_named(tmp_path, content, sentence):
    told = refusal(CocoFolder(root=str(write(tmp_path, content)), val=None))
    assert "instances_train.json" in told
    assert sentence in told


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([10**400, "a/../b"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [(part, None) for part in ("images", "annotations", "categories")] + [
    (part, key) for part in ("images", "annotations", "categories") for key in good()[part][0]
]


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from([*FIELDS, ("annotations", "iscrowd")]), value=JSON, at=st.integers(0, 1))
def test_any_value_in_any_field_is_read_or_refused_in_a_sentence(tmp_path_factory, field, value, at):
    part, key = field
    content = copy.deepcopy(good())
    if key is None:
        content[part] = value
    else:
        content[part][at][key] = value
    root = tmp_path_factory.getbasetemp() / "any"
    write(root, content)
    sentence = ""
    try:
        splits = load(root, missing=1.0)
    except UserError as told:
        sentence = str(told)
    assert "\n" not in sentence
    if sentence:
        return
    for objects in splits.train.labels:
        h, w = objects.size
        assert (objects.boxes[:, 2:] > objects.boxes[:, :2]).all()
        assert (objects.boxes >= 0).all()
        assert (objects.boxes <= [w, h, w, h]).all()
        assert set(objects.labels) <= set(range(len(splits.classes)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"root": "/nowhere"}, "data.root=/nowhere: there is no folder"),
        ({"train": "no.json"}, "data.train=no.json: there is no file"),
        ({"images": "none"}, "data.images=none: there is no folder"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0"),
        ({"val_images": 0}, "data.val_images=0"),
        ({"min_size": ()}, "data.min_size=[]"),
        ({"missing": 1.5}, "data.missing=1.5"),
        ({"dropped": -0.1}, "data.dropped=-0.1"),
        ({"val": "annotations/other.json"}, "category 3 is 'pear', but 'apple' in"),
        ({"val": "annotations/fewer.json"}, "category 90 is nothing, but 'zebra' in"),
        ({"val": "annotations/none.json"}, "images is empty"),
        ({"val": "annotations/instances_train.json", "test": "annotations/instances_train.json", "val_fraction": 0.5},
         "data.val_fraction=0.5"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(tmp_path, options, sentence):
    root = write(tmp_path, good())
    write(root, changed(categories=[{"id": 90, "name": "zebra"}, {"id": 3, "name": "pear"}]), "annotations/other.json")
    fewer = {"id": 3, "name": "apple"}
    write(root, changed(categories=[fewer], annotations=[]), "annotations/fewer.json")
    write(root, changed(images=[], annotations=[]), "annotations/none.json")
    assert sentence in refusal(CocoFolder(**{"root": str(root), "val": None, **options}))


def test_nothing_to_train_on_and_nothing_to_test(tmp_path):
    root = write(tmp_path, changed(annotations=[]))
    assert "none of the 3 training images has an object" in refusal(CocoFolder(root=str(root), val=None))
    with pytest.raises(UserError, match="has no test images"):
        load(root).roles("fit")


def test_reading_needs_no_torch(tmp_path):
    write(tmp_path, good())
    code = (
        "import sys; from peftbench.data.coco import CocoFolder; "
        f"CocoFolder(root={str(tmp_path)!r}, val=None).load(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
