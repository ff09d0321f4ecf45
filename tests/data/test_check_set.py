"""`peftbench data check data=…`: what is found in any data set, as lines, tables and a page."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.backbones import Backbone
from support.yolo import write_yolo

ODD = "<b>&'x'"


def scene(seed: int, side: int = 48) -> Image.Image:
    """A picture with large patches of its own, as photographs have."""
    patches = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, 24 and 2 images to train on, 3 and 0 to test on."""
    root = tmp_path / "shots"
    for role, label, seeds in (("train", ODD, range(24)), ("train", "b", (30, 31)), ("test", ODD, (40, 41, 42))):
        (root / role / label).mkdir(parents=True)
        for seed in seeds:
            scene(seed).save(root / role / label / f"{seed}.png")
    return root


def check(data, root: Path, *words: str):
    return data("check", "data=folder", f"data.root={root}", "data.val_fraction=0", *words)


def test_a_set_without_faults_is_counted_and_what_is_rare_or_missing_is_noted(data, folder):
    status, told, _ = data("check", "data=folder", f"data.root={folder}", "data.val_fraction=0")
    assert (status, told.splitlines()) == (
        0,
        [
            "shots:",
            "train: 26 images, 2 classes",
            "test: 3 images, 1 class",
            "note: 1 class without test images: b",
            f"note: to train on, {ODD} has 24 and b 2, 12 times as many",
        ],
    )


def labelled(root: Path, header: str, *rows: str) -> tuple[str, ...]:
    """A CSV of rows, each with an image of its own; the words that read it."""
    root.mkdir()
    for at in range(len(rows)):
        scene(100 + at).save(root / f"{at}.png")
    (root / "of.csv").write_text("\n".join([f"path,{header}", *(f"{at}.png,{row}" for at, row in enumerate(rows))]))
    return "data=folder", f"data.root={root}", "data.labels=of.csv", "data.val_fraction=0"


def test_several_labels_are_counted_by_their_names(data, tmp_path):
    rows = [f"{int(at < 11)},{int(at == 3)},0,train" for at in range(12)]
    words = labelled(tmp_path / "set", "cat,dog,owl,split", *rows, "1,1,0,test", "1,0,1,test")
    status, told, problem = data("check", *words, "task=multilabel", "data.label_columns=[cat,dog,owl]")
    assert (status, problem, told.splitlines()) == (
        0,
        "",
        [
            "set:",
            "train: 12 images, 2 labels: cat (11), dog (1); 1 has none",
            "test: 2 images, 3 labels: cat (2), dog (1), owl (1)",
            "note: 1 label without training images: owl",
            "note: to train on, cat has 11 and dog 1, 11 times as many",
        ],
    )


def test_of_numbers_the_least_the_most_and_the_mean_are_told_and_no_imbalance(data, tmp_path):
    rows = [f"{100 * (at == 0)},{at / 2},train" for at in range(12)]
    words = labelled(tmp_path / "set", "age,height,split", *rows, "1,-2.5,test", "2,2.5,test")
    scene(100).resize((40, 40)).save(tmp_path / "set" / "12.png")
    status, told, problem = data("check", *words, "task=regression", "data.label_columns=[age,height]")
    assert (status, problem, told.splitlines()) == (
        1,
        "",
        [
            "set:",
            "train: 12 images, 2 numbers",
            "train: age is 0 to 100, on the mean 8.33333",
            "train: height is 0 to 5.5, on the mean 2.75",
            "test: 2 images, 2 numbers",
            "test: age is 1 to 2, on the mean 1.5",
            "test: height is -2.5 to 2.5, on the mean 0",
            "wrong: 1 of the test images looks like a training image, 1 of them with other numbers, such as 12.png "
            "and 0.png",
        ],
    )


def test_labels_in_other_places_are_other_labels(data, tmp_path):
    words = labelled(tmp_path / "set", "label,split", "a;b,train", "a,train", "b,test")
    scene(101).resize((40, 40)).save(tmp_path / "set" / "2.png")
    status, told, _ = data("check", *words, "task=multilabel", f"out={tmp_path / 'out'}")
    assert status == 1
    assert "1 of them with other labels, such as 2.png and 1.png" in told
    assert "other labels" in (tmp_path / "out" / "page.html").read_text()


def test_pictures_saved_anew_and_files_that_are_none_are_found(data, folder, tmp_path):
    scene(7).resize((30, 30)).save(folder / "test" / ODD / "again.jpg", quality=70)
    scene(31).save(folder / "test" / ODD / "other.webp", quality=80)
    Image.new("RGB", (48, 48), "red").save(folder / "test" / ODD / "red.png")
    Image.new("RGB", (48, 48), "white").save(folder / "train" / "b" / "white.png")
    (folder / "train" / "b" / "broken.png").write_bytes(b"no image")
    status, told, _ = check(data, folder, f"out={tmp_path / 'checked'}")
    assert status == 1
    assert "wrong: 1 of the training images cannot be read, such as train/b/broken.png (cannot identify" in told
    assert (
        f"wrong: 2 of the test images look like training images, 1 of them with another label, such as "
        f"test/{ODD}/again.jpg and train/{ODD}/7.png"
    ) in told
    with (tmp_path / "checked" / "near_duplicates.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("test", f"test/{ODD}/again.jpg", "train", f"train/{ODD}/7.png", "1"),
        ("test", f"test/{ODD}/other.webp", "train", "train/b/31.png", "0"),
    ]
    page = (tmp_path / "checked" / "page.html").read_text()
    assert (page.count("<figure"), page.count("data:image/jpeg;base64,")) == (2, 4)
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    before = {file.name: file.read_bytes() for file in (tmp_path / "checked").iterdir()}
    status, _, problem = check(data, folder, f"out={tmp_path / 'checked'}")
    assert (status, "holds page.html already" in problem) == (2, True)
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "checked").iterdir()}
    assert check(data, folder, f"out={tmp_path / 'checked'}", "force=true")[0] == 1


def test_boxes_are_counted_by_their_classes(data, tmp_path):
    root = write_yolo(tmp_path / "boxes", train_a="0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1")
    status, told, _ = data("check", "data=coco_folder", f"data.root={root}")
    assert "train: 1 image, 2 classes" in told
    assert "note: 1 class without test images: apple" in told
    assert status == 1, "the two grey pictures differ by one level"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("data=digits", "vtab"), "data check vtab: is a task or a folder, and data=… names a data set"),
        (("data=digits", "method.rank=3"), "data check method.rank=3: takes only keys of data, backbone, task, seed"),
        (("lik=there",), "data check lik=there: there is no such option (did you mean 'like'?)"),
        (("data=digts",), "digits"),
        (("data=digits", "out=/dev/null"), "out=/dev/null: is a file; expected a folder"),
    ],
)
def test_words_that_make_no_sense_are_refused(data, words, sentence):
    status, told, problem = data("check", *words)
    assert (status, told) == (2, "")
    assert sentence in problem


def test_without_cleanlab_a_sentence_says_how_to_install_it(data, folder, monkeypatch):
    for name in ("cleanlab", "cleanlab.filter"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, problem = check(data, folder, "backbone=vit_nano")
    assert status == 2
    assert "pip install 'peftbench[check]'" in problem


@pytest.mark.slow
def test_a_second_check_reads_the_taps_that_the_first_and_a_run_of_the_probe_kept(
    data, folder, cli, tmp_path, monkeypatch
):
    pytest.importorskip("cleanlab")
    (folder / "test" / "b").mkdir()
    scene(50).save(folder / "test" / "b" / "50.png")
    (folder / "train" / "b" / "broken.png").write_bytes(b"no image")
    passes, taps = [], Backbone.taps
    monkeypatch.setattr(Backbone, "taps", lambda *given: passes.append(1) or taps(*given))

    def doubts(name, *words):
        passes.clear()
        status, told, problem = check(data, folder, "backbone=vit_nano", f"out={tmp_path / name}", *words)
        assert (status, problem) == (1, ""), "of the broken image"
        return (tmp_path / name / "doubts.csv").read_text(), len(passes), told

    kept = f"taps.dir={tmp_path / 'taps'}"
    live, computed, _ = doubts("live", "taps=off")
    assert computed > 0
    first, computed, _ = doubts("first", kept)
    assert computed > 0
    assert doubts("second", kept)[:2] == (first, 0) == (live, 0)
    (folder / "train" / "b" / "broken.png").unlink()
    words = ("method=linear", "backbone=vit_nano", "data=folder", f"data.root={folder}", "data.val_fraction=0", kept)
    assert cli(*words, "trainer.epochs=1", "trainer.progress=false")[0] == 0
    (record,) = tmp_path.glob("*/result.json")
    assert json.loads(record.read_text())["costs"]["taps"]["computed"] == 0


def test_labels_that_were_exchanged_are_those_that_the_probe_doubts_most(data, tmp_path):
    pytest.importorskip("cleanlab")
    rng = np.random.default_rng(0)
    for label, colour in (("blue", (20, 40, 200)), ("red", (200, 40, 20))):
        (tmp_path / "set" / "train" / label).mkdir(parents=True, exist_ok=True)
        for at in range(12):
            pixels = np.clip(np.array(colour) + rng.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            named = {"blue": "red", "red": "blue"}[label] if at == 5 else label
            (tmp_path / "set" / "train" / named).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "set" / "train" / named / f"really_{label}_{at}.png")
    words = (f"data.root={tmp_path / 'set'}", "data.val_fraction=0", "backbone=vit_nano", f"out={tmp_path / 'out'}")
    status, told, _ = data("check", "data=folder", *words)
    with (tmp_path / "out" / "doubts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows if row["issue"] == "1"} == {
        *("train/blue/really_red_5.png", "train/red/really_blue_5.png")
    }
    assert [(row["label"], row["guess"]) for row in rows[:2]] in (
        [("blue", "red"), ("red", "blue")],
        [("red", "blue"), ("blue", "red")],
    )
    assert "confident learning takes 2 for wrong" in told
    assert "figure class=issue" in (tmp_path / "out" / "page.html").read_text()
    root = write_yolo(tmp_path / "boxes")
    status, _, problem = data("check", "data=coco_folder", f"data.root={root}", "backbone=vit_nano")
    assert (status, "doubts labels that are one class an image" in problem) == (2, True)
