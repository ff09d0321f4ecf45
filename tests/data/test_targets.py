"""Several labels, or numbers, for an image: what a CSV may say of them, and what is refused with its line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.config.compose import compose
from peftbench.data.base import Split, split_hash
from peftbench.data.digits import Digits
from peftbench.data.folder import Folder
from peftbench.data.video_folder import VideoFolder
from support.datasets import write
from support.mistakes import files, refused

RUN = ["backbone=resnet_nano", "backbone.pretrained=false", "method=linear", "data.size=32", "data=folder"]


def table(root: Path, header: list[str], *rows: list[object]) -> list[str]:
    """`root/of.csv` with a new image for each row; the words that read it."""
    for at in range(len(rows)):
        write(root / f"{at}.png")
    with (root / "of.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", *header], *([f"{at}.png", *row] for at, row in enumerate(rows))])
    return [f"data.root={root}", "data.labels=of.csv"]


def read(root: Path, targets: str, *columns: str, **options):
    return Folder(str(root), "of.csv", 0.2, 0.2, label_columns=columns, **options).load_as(targets)


def by_name(splits) -> dict[str, list[float]]:
    whole = splits.train + splits.val + splits.test
    return dict(zip(whole.names, whole.labels.tolist(), strict=True))


def test_labels_are_split_at_semicolons_and_an_image_may_have_none(tmp_path):
    table(tmp_path, ["label"], ["cat; dog"], [""], ["10"], ["9;cat;cat"], [" dog ;"])
    splits = read(tmp_path, "labels")
    assert splits.classes == ("9", "10", "cat", "dog")
    assert by_name(splits) == {
        "0.png": [0, 0, 1, 1], "1.png": [0, 0, 0, 0], "2.png": [0, 1, 0, 0], "3.png": [1, 0, 1, 0],
        "4.png": [0, 0, 0, 1],
    }  # fmt: skip
    assert splits.train.labels.dtype == np.float32


def test_label_columns_of_zero_and_one_keep_their_order(tmp_path):
    table(tmp_path, ["dog", "note", "cat"], [1, "x", 0], [0, "", 0], [1, "", 1], [0, "", 1], [1, "", 0])
    splits = read(tmp_path, "labels", "dog", "cat")
    assert splits.classes == ("dog", "cat")
    assert by_name(splits)["2.png"] == [1, 1]
    assert by_name(splits)["3.png"] == [0, 1]


def test_numbers_are_in_columns_or_split_at_semicolons(tmp_path):
    table(tmp_path, ["label", "age", "height"], *([f"{i};-1e{i}", i, i / 3] for i in range(5)))
    assert read(tmp_path, "numbers").classes == ("label_1", "label_2")
    assert by_name(read(tmp_path, "numbers"))["3.png"] == [3, -1000]
    splits = read(tmp_path, "numbers", "height", "age")
    assert splits.classes == ("height", "age")
    assert by_name(splits)["2.png"] == pytest.approx([2 / 3, 2])
    assert read(tmp_path, "numbers", "age").classes == ("age",)
    assert read(tmp_path, "numbers", "age", split_seed=1).name != splits.name


def test_groups_and_given_splits_hold_for_numbers_too(tmp_path):
    table(tmp_path, ["label", "patient"], *([i, f"p{i // 2}"] for i in range(20)))
    splits = read(tmp_path, "numbers", group="patient")
    patients = [{int(name.removesuffix(".png")) // 2 for name in s.names} for s in splits.roles("fit")]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    table(tmp_path, ["label", "split"], *([i, "train" if i < 3 else "test"] for i in range(6)))
    assert [len(s) for s in (read(tmp_path, "numbers").train, read(tmp_path, "numbers").test)] == [2, 3]


def test_clips_may_have_numbers(tmp_path):
    for clip in range(4):
        for frame in range(2):
            write(tmp_path / f"clip{clip}" / f"{clip}{frame}.png")
    (tmp_path / "of.csv").write_text("path,speed\n" + "".join(f"clip{i},{i}.5\n" for i in range(4)))
    splits = VideoFolder(str(tmp_path), "of.csv", 0, 0.3, label_columns=("speed",), frames=2).load_as("numbers")
    assert splits.train.frames == 2
    assert sorted((splits.train + splits.test).labels.ravel().tolist()) == [0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize(
    ("task", "header", "rows", "more", "parts"),
    [
        ("multilabel", ["cat", "dog"], [[1, 0], [0, 1]], ["data.label_columns=[cat,dgo]"],
         ["data.label_columns", "no column 'dgo'", "did you mean 'dog'?", "path, cat, dog"]),
        ("multilabel", ["cat", "dog"], [[1, 0], [0, 2]], ["data.label_columns=[cat,dog]"],
         ["of.csv:3", "column 'dog' holds '2'", "expected 0 or 1"]),
        ("multilabel", ["cat", "dog"], [[1, ""], [0, 1]], ["data.label_columns=[cat,dog]"],
         ["of.csv:2", "column 'dog' holds nothing", "expected 0 or 1"]),
        ("multilabel", ["label"], [[""], [" ; "]], [], ["of.csv", "no row has a label"]),
        ("multilabel", ["labels"], [["a"], ["b"]], [], ["of.csv", "expected the columns path and label"]),
        ("multilabel", ["cat", "note", "dog", "split"], [[1, "x", 0, "train"], [0, 1, 1, "test"]], [],
         ["of.csv", "found path, cat, note, dog, split", "data.label_columns=[cat,dog] would take"]),
        ("regression", ["x", "name", "y"], [[1.5, "a", 2], [3, "b", 1]], [],
         ["of.csv", "found path, x, name, y", "data.label_columns=[x,y] would take"]),
        ("multilabel", ["a"], [[1], [0]], ["data.label_columns=[a,a]"], ["data.label_columns", "'a' twice"]),
        ("multilabel", ["label"], [["a"], ["b"]], ["data.labels=null"],
         ["data.root=", "class folders", "data.labels="]),
        ("regression", ["label"], [[1], ["nan"]], [], ["of.csv:3", "'label' holds 'nan'", "a finite number"]),
        ("regression", ["label"], [[1], ["-inf"]], [], ["of.csv:3", "'label' holds '-inf'", "a finite number"]),
        ("regression", ["label"], [[1], [""]], [], ["of.csv:3", "'label' holds nothing", "a finite number"]),
        ("regression", ["label"], [["tall"], [1]], [], ["of.csv:2", "'label' holds 'tall'", "a finite number"]),
        ("regression", ["x", "y"], [[1, 2], [3, "1e99"]], ["data.label_columns=[x,y]"],
         ["of.csv:3", "'y' holds '1e99'", "a finite number"]),
        ("regression", ["x", "y"], [[1, 2], [3, 2]], ["data.label_columns=[x,y]"],
         ["of.csv", "'y' is 2 in all rows", "expected numbers that differ"]),
        ("regression", ["label"], [["1;2"], ["3"]], [], ["of.csv", "2 numbers in some rows and 1 in others"]),
        ("classification", ["label"], [["a"], ["b"]], ["data.label_columns=[label]"],
         ["data.label_columns=['label']", "several labels, or numbers"]),
        ("detection", ["label"], [["a"], ["b"]], [],
         ["task=detection", "data=folder", "classification or multilabel or regression"]),
    ],
)  # fmt: skip
def test_what_a_csv_cannot_say_is_told_in_one_sentence(cli, tmp_path, task, header, rows, more, parts):
    words = table(tmp_path / "images", header, *rows)
    before = files(tmp_path)
    refused(cli(*RUN, *words, f"task={task}", *more), *parts)
    assert files(tmp_path) == before


def test_images_with_the_same_bytes_and_other_numbers_are_refused_and_equal_ones_are_not(cli, tmp_path):
    words = table(tmp_path / "images", ["label"], ["1.0"], ["2"], ["1"])
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    assert len(read(tmp_path / "images", "numbers").train) == 3
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "1.png").read_bytes())
    refused(cli(*RUN, *words, "task=regression"), "of.csv:4", "'1.0'", "line 3", "'2.0'", "expected one label")


def test_digits_serve_each_task_with_images_of_one_split():
    whole, traits, numbers = (Digits().load_as(kind) for kind in ("own", "labels", "numbers"))
    assert whole.test.names == traits.test.names == numbers.test.names
    assert traits.classes == ("even", "prime", "above 4", "loop")
    two = whole.test.labels.tolist().index(2)
    assert traits.test.labels[two].tolist() == [1, 1, 0, 0]
    assert numbers.test.labels[two, 0] == 2
    assert numbers.test.labels[two, 1] == pytest.approx(whole.test.images[two].mean() / 255, abs=1e-2)
    assert len({split_hash(s.train) for s in (whole, traits, numbers)}) == 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2), min_size=1, max_size=6))
def test_the_hash_of_a_split_tells_any_two_rows_of_numbers_apart(rows):
    def hashed(labels):
        return Split(np.zeros((len(rows), 2, 2), np.uint8), np.array(labels, np.float32), list(map(str, rows))).content

    changed = [[float(np.nextafter(np.float32(rows[0][0]), np.float32(np.inf))), rows[0][1]], *rows[1:]]
    assert hashed(rows) == hashed(rows)
    assert hashed(rows) != hashed(changed)


def test_the_columns_that_a_message_names_are_read(cli, tmp_path):
    words = table(tmp_path / "images", ["cat", "above 4", "it's, ok"], [1, 0, 1], [0, 1, 0], [1, 1, 1])
    status, _, told = cli(*RUN, *words, "task=multilabel")
    assert status == 2
    named = told.partition("data.label_columns=")[2].partition(" would take")[0]
    assert compose(*RUN, *words, "task=multilabel", f"data.label_columns={named}").data.options["label_columns"] == [
        *("cat", "above 4", "it's, ok")
    ]
