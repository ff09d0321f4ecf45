"""What results call a data set: a folder of the user's by its own name, all others as they were chosen."""

from __future__ import annotations

import pytest

from peftbench.results.labels import data_name
from support.reports import columns, record, tell, write


def of_folder(root: str, method: str = "lora", choice: str = "folder", **more) -> dict:
    """A record of images in a folder of the user's."""
    options = {"root": root, "labels": None}
    made = record(method, choice, config__data__options=options, stamps__data__split=f"{root}-made", **more)
    made["id"] += root.replace("/", "_")
    return made


@pytest.mark.parametrize(
    ("root", "choice", "name"),
    [
        ("/home/me/photos", "folder", "photos"),
        ("~/my photos/", "folder", "my photos"),
        ("C:\\Users\\me\\flowers", "folder", "flowers"),
        ("clips", "video_folder", "clips"),
        ("/data/boxes", "coco_folder", "boxes"),
        (".", "folder", "folder"),
        ("~", "folder", "folder"),
        ("/", "folder", "folder"),
        ("/data/vtab", "vtab/cifar", "vtab/cifar"),
        ("package:photos", "photos", "photos"),
        ("/x/y", "my_flowers", "my_flowers"),
    ],
)
def test_a_folder_is_called_by_its_own_name(root, choice, name):
    assert data_name(of_folder(root, choice=choice)["config"]) == name


def test_a_record_without_a_section_of_data_has_the_choice():
    assert data_name({"choices": {"data": "folder"}, "given": []}) == "folder"
    assert data_name({}) == "?"


def test_tables_and_reports_say_photos_and_the_record_keeps_folder(capsys, tmp_path):
    made = of_folder("/home/me/photos")
    write(tmp_path, made)
    _, rows = columns(capsys, made, of_folder("/home/me/photos", seed=1))
    assert all(" photos " in row and "folder" not in row for row in rows)
    report = tell("report", tmp_path, "format=markdown")
    assert "photos" in report
    assert "| folder" not in report
    assert made["config"]["choices"]["data"] == "folder"


def test_two_folders_of_one_name_and_other_splits_stay_apart(capsys, tmp_path):
    first, second = of_folder("/a/photos"), of_folder("/b/photos", method="linear", stamps__data__hash="another")
    write(tmp_path, first, second)
    report = tell("report", tmp_path, "format=markdown")
    assert "lora" in report
    assert "linear" in report
    assert "better" not in report
    _, rows = columns(capsys, first, of_folder("/b/photos", stamps__data__hash="another"))
    assert "root=/a/photos" in rows[0]
    assert "root=/b/photos" in rows[1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["method=lora", "optimizer.lr=abc", "trainer.epochs=100"], "optimizer.lr=abc"),
        (["method.rank=x", "optimizer.lr=1e-3"], "method.rank=x"),
        (["optimizer.lr=0.001", "data=digits"], ""),
    ],
)
def test_a_refused_job_is_told_with_its_words_that_no_other_job_has(capsys, given, told):
    refused = record("lora", config={"choices": record("lora")["config"]["choices"], "seed": "0", "given": given})
    refused |= {"id": "", "status": "refused", "reason": "no", "metrics": {}, "costs": {}, "history": []}
    out = "\n".join(columns(capsys, record("lora"), record("lora", seed=1), refused)[1])
    assert f"refused method=lora backbone=vit_b data=digits seed=0{' ' * bool(told)}{told}: no" in out
