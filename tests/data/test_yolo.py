"""Detection data in YOLO's form and in Roboflow's, found by themselves under data=coco_folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import Splits
from peftbench.data.boxes import BoxSplit
from peftbench.data.coco import CocoFolder
from peftbench.data.yolo_labels import read_label_file
from support.coco import good, refusal
from support.yolo import BOX, DATA, write_yolo


def load(root: Path, **options: Any) -> Splits:
    return CocoFolder(root=str(root), **options).load()


def test_boxes_of_yolo_are_in_pixels_and_the_second_split_is_the_test_set(tmp_path):
    root = write_yolo(tmp_path, train_c="0 0.1 0.2 0.2 0.4\n1 1 1 0.2 0.2\n", train_d="")
    splits = load(root)
    assert (splits.classes, splits.val, splits.notes) == (("apple", "zebra"), None, ())
    assert list(splits.train.names) == ["images/train/a.png", "images/train/c.png"], "d has no objects"
    assert isinstance(splits.train, BoxSplit)
    two = splits.train.labels[1]
    np.testing.assert_allclose(two.boxes, [[0, 0, 6, 8], [27, 18, 30, 20]], atol=1e-5)
    assert (two.size, two.labels.tolist()) == ((20, 30), [0, 1])
    assert splits.test is not None
    np.testing.assert_allclose(splits.test.labels[0].area, [48], rtol=1e-5)
    assert len(load(root, empty=True).train) == 3


def test_boxes_that_are_whole_images_are_still_shares(tmp_path):
    root = write_yolo(tmp_path, train_a="0 0.5 0.5 1 1", val_b="0 0.5 0.5 1 1")
    assert load(root).train.labels[0].boxes.tolist() == [[0, 0, 30, 20]]


def test_an_image_on_its_side_has_the_labels_of_how_it_stands(tmp_path):
    root = write_yolo(tmp_path, train_a="0 0.5 0.5 1 0.5")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(root / "images/train/a.png", exif=turned)
    objects = load(root).train.labels[0]
    assert (objects.size, objects.boxes.tolist()) == ((30, 20), [[0, 7.5, 20, 22.5]])


def test_outlines_become_boxes_with_their_own_area_and_repeated_lines_count_once(tmp_path):
    root = write_yolo(tmp_path, train_a=f"0 0.1 0.1 0.5 0.1 0.1 0.6\n{BOX}\n{BOX}\n")
    splits = load(root)
    objects = splits.train.labels[0]
    np.testing.assert_allclose(objects.boxes[0], [3, 2, 15, 12], rtol=1e-5)
    np.testing.assert_allclose(objects.area, [60, 48], rtol=1e-5)
    assert splits.notes == (
        "1 label of the train images is an outline; the box around each is taken",
        "1 label of the train images repeats another; each counts once",
    )


def test_images_without_a_label_file_are_background_and_label_files_without_an_image_are_told(tmp_path):
    root = write_yolo(tmp_path, train_c=None, val_d=None)
    (root / "labels/train/gone.txt").write_text(BOX)
    splits = load(root)
    assert (len(splits.train), len(splits.test or ())) == (1, 2)
    assert splits.notes == (
        f"1 train image has no label file, and counts as one without objects, such as {root}/images/train/c.png",
        f"left out, 1 label file without an image, such as {root}/labels/train/gone.txt",
        f"1 val image has no label file, and counts as one without objects, such as {root}/images/val/d.png",
    )
    for file in (root / "labels/val").iterdir():
        file.unlink()
    assert f"none of the 2 val images has a label file, such as {root}/labels/val/b.txt" in refusal(
        CocoFolder(root=str(root))
    )


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: [no, 1.0]", ("no", "1.0")),
        ("names:\n  0: cat\n  7: dog", ("cat", "dog")),
        ("nc: 2", ("class_0", "class_1")),
        ("nc: 2\nnames: ['a b', c]", ("a b", "c")),
    ],
)
def test_names_are_a_list_or_by_number_and_always_texts(tmp_path, names, classes):
    box = "0 0.5 0.5 0.2 0.2"
    root = write_yolo(tmp_path, f"train: images/train\nval: images/val\n{names}\n", train_a=box, val_b=box)
    assert load(root).classes == classes


@pytest.mark.parametrize(
    "data",
    [
        "path: ../datasets/mine\ntrain: images/train\nval: images/val\n",
        "path: .\ntrain: ../images/train\nval: ../images/val\n",
        "path: images\ntrain: train\nval: [val]\n",
        "train: train.txt\nvalid: ./images/val\n",
        "train: ROOT/images/train\nval: images\\val\n",
    ],
)
def test_paths_are_looked_for_in_the_folder_itself(tmp_path, data):
    root = write_yolo(tmp_path, f"{data.replace('ROOT', str(tmp_path))}names: [apple, zebra]\n")
    (root / "train.txt").write_text("./images/train/a.png\n\n")
    splits = load(root)
    assert list(splits.train.names) == ["images/train/a.png"]
    assert len(splits.notes) == ("datasets" in data)


def test_roboflow_s_form_of_yolo_keeps_labels_in_each_split_and_may_lack_the_test_images(tmp_path):
    for role in ("train", "valid"):
        for folder in ("images", "labels"):
            (tmp_path / role / folder).mkdir(parents=True)
        Image.new("RGB", (30, 20), "red" if role == "train" else "blue").save(tmp_path / role / "images/a.jpg")
        (tmp_path / role / "labels/a.txt").write_text(BOX)
    data = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['apple', 'zebra']\n"
    (tmp_path / "data.yaml").write_text(data)
    splits = load(tmp_path)
    assert (len(splits.train), splits.val, list(splits.test.names)) == (1, None, ["valid/images/a.jpg"])
    assert splits.notes == ("data.yaml: test names '../test/images', where there are no images; it is left out",)


def test_roboflow_s_coco_files_are_found(tmp_path):
    for role in ("train", "valid", "test"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "_annotations.coco.json").write_text(json.dumps(good()))
        for i in (5, 7, 9):
            Image.new("RGB", (30, 20), (i, len(role), 0)).save(tmp_path / role / f"{i}.png")
    splits = load(tmp_path, empty=True)
    assert [len(s) for s in (splits.train, splits.val, splits.test) if s] == [3, 3, 3]
    assert [Path(s.images[0]).parent.name for s in (splits.train, splits.val, splits.test) if s] == [
        *("train", "valid", "test")
    ]
    (tmp_path / "train" / "_annotations.coco.json").unlink()
    assert "but no train/_annotations.coco.json to train on" in refusal(CocoFolder(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("1 0.5 0.5 0.2", "a.txt:1: holds 4 numbers; expected five, class, centre x, centre y, width, height"),
        (
            f"\n{BOX} 0.9",
            "a.txt:2: holds 6 numbers; expected five, class, centre x, centre y, width, height, or a class",
        ),
        (f"{BOX} 0.9", "(a sixth number is a confidence, which predictions have and labels have not: take it out)"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "holds 8 numbers; expected five"),
        ("2 0.5 0.5 0.2 0.2", "its class is 2; expected the number of one of the 2 classes, 0 to 1."),
        ("-1 0.5 0.5 0.2 0.2", "its class is -1"),
        ("0.5 0.5 0.5 0.2 0.2", "its class is 0.5"),
        ("cat 0.5 0.5 0.2 0.2", "'cat' is no finite number"),
        ("0 nan 0.5 0.2 0.2", "'nan' is no finite number"),
        (
            "0 15 10 6 8",
            "a.txt:1: 15 is outside of 0 to 1; expected class, centre x, centre y, width, height in shares",
        ),
        ("0 0.5 -0.2 0.2 0.2", "-0.2 is outside of 0 to 1"),
        ("0 0.5 0.5 0.2 0.2\n0 0.1 0.1 0.2 0.2 0.3 1.7", "a.txt:2: 1.7 is outside of 0 to 1"),
    ],
)
def test_a_label_that_is_none_is_refused_with_its_line(tmp_path, labels, sentence):
    root = write_yolo(tmp_path, train_a=labels)
    assert sentence in refusal(CocoFolder(root=str(root)))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            DATA.replace("images/train", "../../other"),
            "train is '../../other', which is no folder in ROOT, where alone",
        ),
        (DATA.replace("images/val", "/etc"), "val is '/etc', which is no folder in ROOT"),
        (DATA + "nc: 3\n", "nc is 3, but names holds 2"),
        (DATA + "nc: many\n", "nc is 'many'; expected the number of classes"),
        (DATA.replace("[apple, zebra]", "[]"), "names is a list; expected the classes"),
        (DATA.replace("[apple, zebra]", "{a: b}"), "names holds 'a'; expected the number of a class"),
        (DATA.replace("[apple, zebra]", "[[x], y]"), "names holds a list for 0"),
        (DATA.partition("names")[0], "names is nothing"),
        ("train: {a: b}\nnames: [x]\n", "train is a mapping; expected a folder of images"),
        ("val: images/val\nnames: [apple, zebra]\n", "has no 'train'"),
        (DATA + "valid: images/val\n", "holds two keys for the val split"),
        ("[]", "holds a list; expected YOLO's keys"),
        ("a: [", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.system [ls]", "expected the classes"),
        (DATA + "kpt_shape: [17, 3]\n", "holds 5 numbers; expected 56: class"),
    ],
)
def test_a_data_yaml_that_is_wrong_is_refused(tmp_path, data, sentence):
    root = write_yolo(tmp_path, data)
    told = refusal(CocoFolder(root=str(root)))
    assert f"{root}/" in told
    assert sentence.replace("ROOT", str(root)) in told


def test_a_yaml_that_grows_without_end_is_refused_in_a_sentence(tmp_path):
    rows = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    root = write_yolo(tmp_path, "\n".join([*rows, "train: *a59", "names: *a59"]))
    assert "its aliases stand for far more values than are written" in refusal(CocoFolder(root=str(root)))


def test_other_mistakes_of_a_folder_are_one_sentence(tmp_path):
    root = write_yolo(tmp_path)
    assert "data.images=pictures: is for JSON files" in refusal(CocoFolder(root=str(root), images="pictures"))
    (root / "images/train/a.png").write_bytes(b"no image")
    assert f"{root}/images/train/a.png: cannot be read as an image" in refusal(CocoFolder(root=str(root)))
    (root / "data.yaml").rename(root / "one.yaml")
    (root / "two.yml").write_text("")
    assert "holds one.yaml, two.yml; expected one of them to be called data.yaml" in refusal(CocoFolder(root=str(root)))
    for file in root.glob("*.y*ml"):
        file.unlink()
    told = refusal(CocoFolder(root=str(root)))
    assert "holds neither <split>/_annotations.coco.json nor a data.yaml, so name yours (data.train=FILE)" in told


SHARES = st.integers(0, 10_000).map(lambda number: number / 10_000)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), SHARES, SHARES, SHARES, SHARES), max_size=8, unique=True))
def test_what_is_written_is_read(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "written.txt"
    file.write_text("\n".join(" ".join(map(repr, row)) for row in rows))
    labels, repeated = read_label_file(file, {number: number for number in range(5)})
    assert repeated == 0
    for row, (label, (x1, y1, x2, y2), area, _) in zip(rows, labels, strict=True):
        assert (label, area) == (row[0], None)
        np.testing.assert_allclose([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], row[1:], atol=1e-12)


@given(st.text(alphabet=st.sampled_from("0123456789.-+einfa_ \n\t²٣\x00"), max_size=40))
def test_any_text_is_read_or_refused_with_its_line(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_text(text, encoding="utf-8")
    labels, refused = [], f"{file}:"
    try:
        labels, _ = read_label_file(file, {0: 0, 1: 1})
    except UserError as problem:
        refused = str(problem)
    assert refused.startswith(f"{file}:")
    assert all(label.label in (0, 1) and np.isfinite(label.box).all() for label in labels)
