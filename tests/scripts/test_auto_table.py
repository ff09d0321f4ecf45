"""The table of `peftbench auto` against others, of rows that lie there, and the tasks that are made for it."""

import argparse
import csv
import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from support.places import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("auto_table")
    for name in ("auto_table", "make_clips"):
        sys.modules.pop(name, None)


def row(script, **given):
    empty = dict.fromkeys(script.COLUMNS, "")
    return empty | {"val_images": "100", "test_images": "200", "tried": "10", "seconds": "600"} | given


def test_the_sweep_is_judged_by_validation_and_auto_by_all_of_its_seeds(script):
    rows = [
        *(
            row(script, task="digits", arm="auto", minutes="5", seed=str(s), val="0.95", test=t)
            for s, t in enumerate(("0.93", "0.94", "0.95"))
        ),
        row(script, task="digits", arm="sweep", method="lora", val="0.96", test="0.92"),
        row(script, task="digits", arm="sweep", method="full", val="0.94", test="0.99"),
        row(script, task="digits", arm="linear", val="0.9", test="0.9"),
    ]
    heads, _, line, _, mean, holds = script.table(rows).splitlines()
    assert "auto, 5 min" in heads
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:8] == ["digits", "", "94.0 (3)", "", "92.0", "20 min", "", "90.0"]
    assert "+2.0 points on average over 1 tasks" in mean
    assert "holds zero on 1 of 1" in holds


def test_a_choice_among_many_makes_the_interval_wider_on_its_side_alone(script):
    one = row(script, val="0.95", test="0.85", tried="1")
    many = row(script, val="0.95", test="0.85", tried="50")
    (low, high), (lower, same) = script._difference(one), script._difference(many)
    assert lower < low < 0.1 < high
    assert same == high


def test_rows_are_appended_and_found_again(script, tmp_path):
    file = tmp_path / "rows.csv"
    script._append(file, row(script, task="photos", arm="auto", minutes="5", seed="1"))
    script._append(file, row(script, task="photos", arm="linear"))
    with file.open() as lines:
        assert [entry["arm"] for entry in csv.DictReader(lines)] == ["auto", "linear"]
    assert script._is_there(file, {"task": "photos", "arm": "auto", "minutes": "5", "seed": "1"})
    assert not script._is_there(file, {"task": "photos", "arm": "auto", "minutes": "5", "seed": "2"})


def test_cells_are_cut_out_of_their_images(script, tmp_path):
    source = tmp_path / "coco"
    (source / "images").mkdir(parents=True)
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(20, 50, 3)).save(source / "images" / "a.png")
    boxes = [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 5, 8, 6]},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 2, 2]},
    ]
    content = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "categories": [{"id": 2, "name": "RBC"}],
        "annotations": boxes,
    }
    (source / "train.json").write_text(json.dumps(content))
    given = argparse.Namespace(output=tmp_path / "out", caltech=None, cells=source)
    (given.output / "data" / "noise").mkdir(parents=True)  # made before
    tasks = script._tasks(given)
    assert list(tasks) == ["digits", "photos", "noise", "windows", "cells"]
    (cut,) = (given.output / "data" / "cells").rglob("*.png")
    assert cut.parent.name == "RBC"
    assert Image.open(cut).size == (8, 6)
    assert len(list((given.output / "data" / "windows").iterdir())) == 25
