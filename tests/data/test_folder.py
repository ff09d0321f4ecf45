"""Folders of images and tables of labels: which image is of which class and split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftbench import UserError
from peftbench.data.folder import Folder
from support.datasets import class_folders, refuses, write


def table(root: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("path", "label")) -> Path:
    """`root/labels.csv`, and an image at each path it names."""
    for path, *_ in rows:
        write(root / path)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return root


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    for role, count in (("train", 4), ("val", 2), ("test", 3)):
        class_folders(tmp_path / role, {"cat": count, "dog": count})
    splits = Folder(str(tmp_path)).load()
    assert splits.classes == ("cat", "dog")
    assert [len(s) for s in splits.roles("fit")] == [8, 4, 6]
    assert splits.train.names[0] == "train/cat/0.png"
    assert list(splits.train.labels) == [0] * 4 + [1] * 4


def test_validation_images_are_taken_from_train_where_none_are_given(tmp_path):
    class_folders(tmp_path / "train", {"cat": 10, "dog": 10})
    class_folders(tmp_path / "testing", {"cat": 3, "dog": 3})
    splits = Folder(str(tmp_path), val_fraction=0.2).load()
    assert [len(s) for s in splits.roles("fit")] == [16, 4, 6]
    assert not set(splits.train.names) & set(splits.val.names)
    assert len(Folder(str(tmp_path), val_fraction=0.0).load().train) == 20


def test_plain_class_folders_are_split_by_class(tmp_path):
    class_folders(tmp_path / "pets", {"cat": 10, "dog": 20})
    splits = Folder(str(tmp_path / "pets"), val_fraction=0.1, test_fraction=0.2).load()
    assert [len(s) for s in splits.roles("fit")] == [21, 3, 6]
    assert np.bincount(splits.test.labels).tolist() == [2, 4]
    assert splits.name == "pets-made-0.1-0.2-s0"
    other = Folder(str(tmp_path / "pets"), split_seed=1).load()
    assert list(other.test.names) != list(splits.test.names)


def test_a_class_may_be_called_test(tmp_path):
    class_folders(tmp_path, {"test": 10, "control": 10})
    assert Folder(str(tmp_path)).load().classes == ("control", "test")


def test_images_lie_at_any_depth_of_a_class_folder_and_other_files_are_left_alone(tmp_path):
    class_folders(tmp_path, {"cat": 5, "dog": 1})
    write(tmp_path / "cat" / "2024" / "May" / "x.JPG")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    splits = Folder(str(tmp_path), val_fraction=0.0, test_fraction=0.5).load()
    assert len(splits.train) + len(splits.test) == 7
    assert splits.classes == ("cat", "dog")


def test_a_csv_without_splits_is_split_by_class(tmp_path):
    table(tmp_path, [(f"{i}.png", "ab"[i % 2]) for i in range(20)])
    splits = Folder(str(tmp_path), labels="labels.csv").load()
    assert [len(s) for s in splits.roles("fit")] == [14, 2, 4]


def test_a_csv_with_splits_is_taken_at_its_word(tmp_path):
    roles = ["train", "training", "Train", "val", "valid", "validation", "test", "TESTING "]
    table(
        tmp_path, [(f"{i}.png", "ab"[i in (0, 3, 6)], role) for i, role in enumerate(roles)], ("path", "label", "split")
    )
    splits = Folder(str(tmp_path), labels=str(tmp_path / "labels.csv")).load()
    assert [len(s) for s in splits.roles("fit")] == [3, 3, 2]
    assert list(splits.test.names) == ["6.png", "7.png"]


def test_a_csv_may_begin_with_a_byte_order_mark_and_quote_its_fields(tmp_path):
    write(tmp_path / "a, b.png"), write(tmp_path / "c.png")
    (tmp_path / "labels.csv").write_bytes(b'\xef\xbb\xbfpath,label\r\n"a, b.png",x\r\nc.png,y\r\n')
    splits = Folder(str(tmp_path), labels="labels.csv").load()
    assert list(splits.train.names) == ["a, b.png", "c.png"]


def test_labels_are_ordered_as_numbers_then_as_words(tmp_path):
    labels = ["10", "dog", "2", "1", "cat"]
    table(tmp_path, [(f"{i}.png", label) for i, label in enumerate(labels)])
    splits = Folder(str(tmp_path), labels="labels.csv").load()
    assert splits.classes == ("1", "2", "10", "cat", "dog")
    assert list(splits.train.labels) == [2, 4, 1, 0, 3]


def test_labels_of_the_same_number_have_an_order_of_their_own(tmp_path):
    labels = ["1", "0001", "001", "01", "00001"]
    table(tmp_path, [(f"{i}.png", label) for i, label in enumerate(labels)])
    assert Folder(str(tmp_path), labels="labels.csv").load().classes == tuple(sorted(labels))


@pytest.mark.parametrize("role", ["val", "test"])
def test_a_class_that_is_not_trained_on_is_refused(tmp_path, role):
    class_folders(tmp_path / "train", {"cat": 4, "dog": 4})
    class_folders(tmp_path / role, {"cat": 2, "fox": 2})
    told = refuses(Folder(str(tmp_path)))
    assert f"{role}/fox/0.png is labelled 'fox'" in told
    assert "expected one of 2 classes" in told


def test_the_folder_that_holds_no_images_is_named_as_it_is_called(tmp_path):
    class_folders(tmp_path / "train", {"cat": 4})
    (tmp_path / "validation").mkdir()
    assert str(tmp_path / "validation") in refuses(Folder(str(tmp_path)))


def test_rows_that_contradict_each_other_are_refused(tmp_path):
    table(tmp_path, [("a.png", "x", "train"), ("b.png", "x", "")], ("path", "label", "split"))
    assert "all or none" in refuses(Folder(str(tmp_path), labels="labels.csv"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "found nothing"),
        ("file,class\na.png,x\n", "expected the columns path and label, found file, class"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png\n", ":2: expected a path and a label"),
        ("path,label\na.png,x\nmissing.png,x\n", ":3: there is no image"),
        ("path,label,split\na.png,x,holdout\n", ":2: split 'holdout'"),
        ("path,label,split\na.png,x,test\n", "none to train on"),
        ("path,label,label\na.png,x,y\n", "has the column 'label' twice"),
        (f"path,label\n{'a' * 5000}.png,x\n", ":2: there is no image"),
        (f"path,label\na.png,{'x' * 140_000}\n", "cannot be read as a CSV (field larger than field limit (131072))"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_with_its_line(tmp_path, content, told):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(content)
    assert told in refuses(Folder(str(tmp_path), labels="labels.csv"))


@pytest.fixture(scope="module")
def six_images(tmp_path_factory):
    """A folder of six images, which tables of any content name."""
    root = tmp_path_factory.mktemp("six")
    for at in range(6):
        write(root / f"{at}.png")
    return root


# Python's writer leaves a lone \r unquoted, and text files are read with \n for it.
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=8) | st.just(
    "9" * 5000
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(WORDS.filter(str.strip), min_size=6, max_size=6).filter(
        lambda texts: len(set(map(str.strip, texts))) > 1
    ),
    header=st.permutations(["path", "label", "note", 'a, "b"']),
    note=WORDS,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_labels_a_csv_holds_each_image_has_its_own(six_images, labels, header, note, quoting, end):
    with (six_images / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, header, quoting=quoting, lineterminator=end)
        lines.writeheader()
        lines.writerows({"path": f"{at}.png", "label": label, "note": note} for at, label in enumerate(labels))
    splits = Folder(str(six_images), "labels.csv", val_fraction=0, test_fraction=0).load()
    named = dict(zip(splits.train.names, (splits.classes[at] for at in splits.train.labels), strict=True))
    assert named == {f"{at}.png": label.strip() for at, label in enumerate(labels)}


CELLS = st.sampled_from(
    ["path", "label", "split", "0.png", "1.png", "train", "test", ",", "\n", "\r", '"', "\0", ";", "é", " "]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CELLS, max_size=12).map("".join).map(str.encode) | st.binary(max_size=20))
def test_whatever_a_csv_holds_it_is_read_or_refused_in_a_sentence(six_images, content):
    (six_images / "labels.csv").write_bytes(b"path,label,split\n" * (len(content) % 2) + content)
    for targets in ("own", "labels", "numbers"):
        try:
            splits = Folder(str(six_images), "labels.csv").load_as(targets)
        except UserError:
            continue
        assert set(splits.train.names) <= {f"{at}.png" for at in range(6)}


def test_a_csv_in_another_encoding_is_refused(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes("path,label\na.png,Bär\n".encode("latin-1"))
    told = refuses(Folder(str(tmp_path), labels="labels.csv"))
    assert "labels.csv" in told
    assert "UTF-8" in told


def test_a_split_seed_below_zero_is_refused(tmp_path):
    class_folders(tmp_path, {"cat": 4})
    assert "split_seed=-1" in refuses(Folder(str(tmp_path), split_seed=-1))
