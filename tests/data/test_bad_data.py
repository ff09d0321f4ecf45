"""Data that are missing, empty or damaged: told in one sentence before or while a run reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.common.errors import UserError
from peftbench.data.folder import Folder
from support.datasets import class_folders
from support.mistakes import files, pictures, record, refused, run_folder


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["data=folder", "data.root={}/none"], ["data.root={}/none", "there is no folder"]),
        (["data=folder", "data.root={}", "data.labels=none.csv"], ["data.labels=none.csv", "there is no such file"]),
        (["data=vtab/cifar", "data.root={}"], ["data=vtab/cifar", "train800.txt", "{} and its folder", "data.root="]),
        (["data=vtab/cifar", "data_dir={}"], ["data=vtab/", "no folder {}/vtab", "data prepare vtab", "data.root="]),
        (["data=fashion_mnist", "data_dir={}"], ["data.root={}", "train-images-idx3-ubyte", "data.download=true"]),
        (["data=folder", "data.root={}"], ["{}", "holds no class folders with images"]),
    ],
)
def test_missing_data_is_told_where_it_was_looked_for(cli, tiny, tmp_path, words, parts):
    empty = tmp_path / "empty"
    empty.mkdir()
    told = cli(*tiny, "method=linear", *(w.format(empty) for w in words))
    refused(told, *(p.format(empty) for p in parts))
    assert files(tmp_path) == []


def test_a_download_without_a_network_is_told(cli, tiny, tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    words = ["data=fashion_mnist", "data.download=true", f"data.root={tmp_path / 'data'}"]
    told = refused(cli(*tiny, "method=linear", *words), "data.download=true", str(tmp_path / "data"))
    assert "could not be" in told


@pytest.fixture
def photos(tiny: list[str], tmp_path: Path) -> tuple[list[str], Path]:
    """Forty pictures, the words of a run on them, and their folder; two of them are damaged."""
    root = pictures(tmp_path / "photos", {"cat": 20, "dog": 20})
    (root / "cat" / "3.png").write_bytes((root / "cat" / "3.png").read_bytes()[:200])
    (root / "dog" / "7.png").write_text("<html>not found</html>")
    return [*tiny, "method=linear", "data=folder", f"data.root={root}", "data.batch_size=8"], root


def test_a_truncated_image_is_refused_by_name(cli, photos, tmp_path):
    words, root = photos
    told = refused(cli(*words), "data.on_error=skip")
    assert str(root / "cat" / "3.png") in told or str(root / "dog" / "7.png") in told
    failed = record(tmp_path)
    assert failed["status"] == "failed"
    assert failed["reason"] in told
    assert files(run_folder(tmp_path)) == ["config.yaml", "result.json"]


def test_damaged_images_are_skipped_where_that_is_asked_for_and_the_record_names_them(cli, photos, tmp_path):
    words, root = photos
    status, _, err = cli(*words, "data.on_error=skip")
    assert (status, err) == (0, "")
    skipped = record(tmp_path)["stamps"]["data"]["skipped"]
    assert sorted(skipped) == [str(root / "cat" / "3.png"), str(root / "dog" / "7.png")]


def test_a_truncated_image_that_is_read_only_in_training_is_refused_by_name(cli, photos, tmp_path):
    words, root = photos
    told = refused(cli(*words, "trainer.max_batches=null", "data.memory_gb=0"), "data.on_error=skip")
    assert str(root) in told
    assert record(tmp_path)["status"] == "failed"


def test_a_truncated_image_read_by_a_worker_process_is_refused_by_name(cli, photos):
    words, root = photos
    told = cli(*words, "trainer.max_batches=null", "data.memory_gb=0", "data.workers=1")
    assert str(root) in refused(told, "data.on_error=skip")


def test_a_folder_of_nothing_but_damaged_images_is_refused(cli, photos):
    words, root = photos
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    refused(cli(*words, "data.on_error=skip"), "images can be read", str(root))


@pytest.mark.parametrize("role", ["train", "val", "test"])
def test_an_empty_folder_of_a_split_is_told(cli, tiny, tmp_path, role):
    root = tmp_path / "photos"
    for each in ("train", "val", "test"):
        pictures(root / each, {"cat": 0 if each == role else 4, "dog": 0 if each == role else 4})
    refused(cli(*tiny, "method=linear", "data=folder", f"data.root={root}"), str(root / role))
    assert list(tmp_path.glob("linear*")) == []


def test_a_csv_without_rows_or_without_training_rows_is_told(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 2})
    for content, part in (
        ("path,label\n", "has no rows"),
        ("path,label,split\ncat/0.png,x,test\n", "none to train on"),
        ("path,label,split\ncat/0.png,x,train\ncat/1.png,y,test\n", "labelled 'y'"),
    ):
        (root / "l.csv").write_text(content)
        words = ["data=folder", f"data.root={root}", "data.labels=l.csv"]
        refused(cli(*tiny, "method=linear", *words), part)
    assert list(tmp_path.glob("linear*")) == []


@pytest.mark.parametrize("stage", ["tune", "fit", "final"])
def test_a_stage_without_its_images_is_told(cli, tiny, tmp_path, stage):
    root = pictures(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["data=folder", f"data.root={root}", f"data.stage={stage}", "data.val_fraction=0", "data.test_fraction=0"]
    refused(cli(*tiny, "method=linear", *words), f"data.stage={stage}")
    assert list(tmp_path.glob("linear*")) == []


@pytest.mark.parametrize(
    ("counts", "words", "parts"),
    [
        ({"a": 1, "b": 1}, [], ["data.root={}: 2 images are too few to be split", "from 3 images on", "largest has 1"]),
        ({"a": 2, "b": 2}, [], ["data.test_fraction=0.2 a class gives test images from 3", "test/<class>/<image>"]),
        (
            {"a": 4, "b": 4},
            ["data.stage=tune"],
            ["data.val_fraction=0.1 a class gives validation images from 6"],
        ),
        (
            {"a": 1, "b": 5},
            ["data.test_fraction=0"],
            ["has no test images; give data.test_fraction", "=tune"],
        ),
        ({"train/a": 1, "train/b": 1}, [], ["data.root={}: has images to train on and none to test; expected test/"]),
        ({"a": 1}, [], ["{}/a is the one folder of a class that holds images; expected two or more"]),
        ({".": 1}, [], ["{}: holds no class folders with images", "found 1 file in none"]),
    ],
)
def test_too_few_images_to_be_split_are_counted_in_the_answer(cli, tiny, tmp_path, counts, words, parts):
    root = class_folders(tmp_path / "photos", counts)
    told = refused(cli(*tiny, "method=linear", "data=folder", f"data.root={root}", *words))
    for part in parts:
        assert part.format(root) in told
    assert not list(tmp_path.glob("*/result.json"))


def test_a_table_of_too_few_rows_is_named(tmp_path):
    root = class_folders(tmp_path / "photos", {"a": 1, "b": 1})
    (tmp_path / "labels.csv").write_text("path,label\na/0.png,x\nb/0.png,y\n")
    splits = Folder(str(root), labels=f"{tmp_path}/labels.csv").load()
    with pytest.raises(UserError, match=r"labels.csv: 2 images are too few to be split: .* or rows of split test\.$"):
        splits.roles("fit")


def test_one_image_is_told_in_the_singular(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"a": 1, "b": 1})
    (first,), (second,) = ([*(root / name).iterdir()] for name in "ab")
    second.write_bytes(first.read_bytes())
    status, _, told = cli(*tiny, "method=linear", "data=folder", f"data.root={root}")
    assert status == 2
    assert "1 image is too few to be split" in told
