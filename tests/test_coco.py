"""Detection data in COCO's format: what is read, what is refused, which split is which."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import peftbench.data.boxes
from peftbench import compose
from peftbench.common.errors import UserError
from peftbench.data.base import Splits
from peftbench.data.boxes import BoxSet, BoxSplit
from peftbench.data.coco import Coco, CocoFolder
from peftbench.data.digits import Digits
from peftbench.data.digits_det import DigitsDet
from peftbench.data.ood import read_shifts

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> str:
    """A folder of the sample data that lies beside the repository; skips the test where it does not."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the sample data {name} is not beside the repository")
    return str(SHARED / name)


def box(id_: int, image: int, category: int = 3, bbox: Any = (1, 2, 10, 5), **more: Any) -> dict[str, Any]:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": list(bbox), **more}


def good() -> dict[str, Any]:
    """Three images of 20 x 30 (height x width), two classes with gapped ids, a crowd, an image without boxes."""
    return {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (5, 7, 9)],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "apple", "supercategory": "fruit"}],
        "annotations": [
            box(1, 5, 90, area=12.5, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]),
            box(2, 5, 3, (20, 10, 40, 40)),
            box(4, 9, 3, (0, 0, 30, 20), iscrowd=1, segmentation={"counts": [1, 2], "size": [20, 30]}),
        ],
    }


def write(root: Path, content: Any, name: str = "annotations/instances_train.json") -> Path:
    """A JSON file, and the images that it lists."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (root / "images").mkdir(exist_ok=True)
    for i in (5, 7, 9):
        if not (root / "images" / f"{i}.png").exists():
            Image.new("RGB", (30, 20), (i, 0, 0)).save(root / "images" / f"{i}.png")
    return root


def changed(**parts: Any) -> dict[str, Any]:
    return good() | parts


def load(root: Path, **options: Any) -> Splits:
    return CocoFolder(root=str(root), **{"val": None, "empty": True, **options}).load()


def refusal(dataset: BoxSet) -> str:
    with pytest.raises(UserError) as told:
        dataset.load()
    assert "\n" not in str(told.value)
    return str(told.value)


# -- what is read


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
    splits = load(write(tmp_path, changed(annotations=outside)))
    assert splits.train.labels[0].boxes.tolist() == [[0, 0, 3, 3]]
    assert splits.notes == ("instances_train.json: 5 of 6 boxes are empty or outside their image and left out",)


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
    assert "1 of 3 images are not there, such as 9.png" in told


def test_what_is_missing_is_left_out_up_to_a_share(tmp_path):
    content = good()
    content["annotations"].append(box(8, 77))
    root = write(tmp_path, content)
    (root / "images" / "7.png").unlink()
    told = refusal(CocoFolder(root=str(root), val=None, missing=0.3))
    assert "1 of 3 images are not there, such as 7.png" in told
    assert f"looked for in {root / 'annotations'}, {root / 'images'}" in told
    splits = load(root, missing=0.34)
    assert [o.id for o in splits.train.labels] == [5, 9]
    assert splits.notes == (
        "instances_train.json: 1 of 3 images are not there, such as 7.png; they are left out",
        "instances_train.json: 1 of 4 annotations are of images that are not listed, such as annotation 8 of image 77; "
        "they are left out",
    )
    Image.new("RGB", (30, 20)).save(root / "images" / "7.png")
    assert "1 of 4 annotations are of images that are not listed" in refusal(CocoFolder(root=str(root), val=None))


def test_the_small_coco_and_the_blood_cells():
    coco = CocoFolder(root=shared("coco-mini"), empty=True).load()
    assert (len(coco.classes), len(coco.train), len(coco.test or ())) == (80, 22, 11)
    assert sum(len(o.labels) for o in coco.train.labels) == 181
    assert sum(int(o.crowd.sum()) for o in coco.train.labels) == 3
    cells = CocoFolder(root=shared("bccd-coco"), test="annotations/instances_test.json").load()
    assert cells.classes == ("RBC", "WBC", "Platelets")
    splits = (cells.train, cells.val, cells.test)
    assert [len(s or ()) for s in splits] == [205, 87, 72]
    assert [sum(len(o.labels) for o in s.labels) for s in splits if s] == [2804, 1137, 945]


def test_what_is_read_is_what_pycocotools_reads():
    api = pytest.importorskip("pycocotools.coco").COCO(shared("coco-mini") + "/annotations/instances_train.json")
    train = CocoFolder(root=shared("coco-mini"), empty=True).load().train
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


def test_shifted_test_sets_are_not_offered(few):
    with pytest.raises(UserError, match="is for detection, and only classified images can be shifted"):
        read_shifts(compose("data=digits", "data.ood=[noise:1]"), few)


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


# -- what is refused


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


# -- digits on canvases


@pytest.fixture(scope="module")
def few() -> Splits:
    return DigitsDet(images=(6, 2, 3), canvas=96).load()


def test_digits_are_drawn_once_and_the_same_again(few, monkeypatch, tmp_path):
    assert [len(s or ()) for s in (few.train, few.val, few.test)] == [6, 2, 3]
    assert few.classes == tuple("0123456789")
    for objects in few.train.labels:
        assert 1 <= len(objects.labels) <= 5
        assert objects.size == (96, 96)
    before = [p.stat().st_mtime_ns for p in few.train.images]
    again = DigitsDet(images=(6, 2, 3), canvas=96).load()
    assert [p.stat().st_mtime_ns for p in again.train.images] == before
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    assert DigitsDet(images=(6, 2, 3), canvas=96).load().train.content == few.train.content
    assert DigitsDet(images=(6, 2, 3), canvas=96, drawing_seed=1).load().train.content != few.train.content


def test_a_folder_that_is_not_whole_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    made = DigitsDet(images=(2, 1, 1), canvas=64)
    whole = made.load().train
    for damage in (
        lambda: whole.images[0].unlink(),
        lambda: whole.images[1].write_bytes(b"half"),
        lambda: (whole.images[0].parents[2] / "stamp.json").unlink(),
    ):
        damage()
        assert made.load().train.content == whole.content
    assert [p.name for p in (tmp_path / "digits_det").iterdir() if p.name.startswith(".")] == []


def likeness(images: list[np.ndarray]) -> np.ndarray:
    """Grey images of any size as standardised rows of 12 x 12 pixels."""
    rows = np.stack([np.asarray(Image.fromarray(i).resize((12, 12)), dtype=np.float64).ravel() for i in images])
    return (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-9)


def test_what_is_in_a_box_is_the_digit_that_its_label_says(few):
    digits = Digits().load()
    inks = [i[np.ix_((i > 76).any(1), (i > 76).any(0))] for i in np.asarray(digits.train.images)]
    cuts, labels = [], []
    for split in (few.train, few.val, few.test):
        for path, objects in zip(split.images, split.labels, strict=True):
            grey = np.asarray(Image.open(path).convert("L"))
            cuts += [grey[y1:y2, x1:x2] for x1, y1, x2, y2 in objects.boxes.astype(int)]
            labels += objects.labels.tolist()
    like = np.abs(likeness(cuts) @ likeness(inks).T)  # ink may be darker or lighter than what is under it
    right = digits.train.labels[like.argmax(axis=1)] == labels
    assert len(labels) > 20
    assert right.mean() > 0.8, "nearest neighbours among the digits; chance is 0.1"


@pytest.mark.parametrize("options", [{"images": (0, 1, 1)}, {"canvas": 8}, {"drawing_seed": -1}])
def test_digits_that_cannot_be_drawn(options):
    assert refusal(DigitsDet(**options)).startswith(f"data.{next(iter(options))}=")
