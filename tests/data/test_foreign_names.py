"""Names as other systems write them: bytes that are no UTF-8, backslashes, accents apart from their letters, no end."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from peftbench.cli.main import main
from peftbench.common.errors import UserError
from peftbench.common.readable_names import readable, show_names_on
from peftbench.data.coco import CocoFolder
from peftbench.data.folder import Folder
from support.coco import changed, good, load, write

E_ACUTE = "é"
FOREIGN = os.fsdecode(b"caf\xe9")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps names as they are given")


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (32, 32), (len(list(folder.iterdir())), len(name), len(folder.parts))).save(folder / name)
    return folder


def test_bytes_that_are_no_utf8_train_and_predict_and_are_shown(cli, tiny, tmp_path, capsys):
    for label, colour in ((FOREIGN, 10), ("dog", 200)):
        for i in range(8):
            folder = tmp_path / "set" / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (colour + i, 20 * i, colour)).save(folder / f"{FOREIGN}{i}.png")
    words = [word for word in tiny if word != "data=digits"]
    status, _, err = cli(*words, "method=linear", "data=folder", f"data.root={tmp_path / 'set'}", "data.batch_size=4")
    assert status == 0, err
    (run,) = tmp_path.glob("linear-*")
    for suffix in ("csv", "json"):
        out = tmp_path / f"out.{suffix}"
        assert main(["predict", f"run={run}", f"images={tmp_path / 'set' / 'dog'}", f"out={out}", "top_k=2"]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    assert {Path(row["image"]).name for row in rows} == {rf"caf\xe9{i}.png" for i in range(8)}
    assert {row["class_1"] for row in rows} <= {r"caf\xe9", "dog"}
    images = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["images"]
    assert {Path(image["image"]).name for image in images} == {rf"caf\xe9{i}.png" for i in range(8)}
    assert main(["evaluate", f"run={run}", f"images={tmp_path / 'set'}"]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path), "format=csv"]) == 0


@pytest.mark.parametrize("key", ["data.root", "output_dir"])
def test_a_folder_that_no_config_can_hold_is_one_sentence(capsys, tmp_path, key):
    folder = pictures(tmp_path / FOREIGN / "a").parent
    assert main(["method=linear", "backbone=vit_nano", "data=folder", f"data.root={tmp_path}", f"{key}={folder}"]) == 2
    assert capsys.readouterr().err == (
        f"peftbench: {key}={tmp_path}/caf\\xe9: is no text in UTF-8, which a config has to be; give the folder or file "
        f"another name, or a link to it.\n"
    )


def test_a_terminal_shows_every_name_and_what_its_encoding_lacks():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    show_names_on(stream, None)
    print(FOREIGN, "–", E_ACUTE, file=stream, flush=True)
    assert raw.getvalue() == b"caf\\xe9 \\u2013 \xe9\n"
    assert readable("é–") == "é–"


def csv_set(tmp_path: Path, path: str, rest: str = "") -> Folder:
    (tmp_path / "labels.csv").write_text(f"path,label\n{path},cat\nb.png,dog\n{rest}", encoding="utf-8")
    return Folder(root=str(tmp_path), labels="labels.csv")


@pytest.mark.parametrize(
    "given", [r"in\a.png", f"in/{E_ACUTE}.png", f"in\\{unicodedata.normalize('NFD', E_ACUTE)}.png"]
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_path_of_windows_or_of_a_mac_is_found(tmp_path, given, form):
    disk = unicodedata.normalize(form, E_ACUTE)
    pictures(tmp_path, "b.png", "c.png", "d.png")
    pictures(tmp_path / "in", "a.png", f"{disk}.png")
    splits = csv_set(tmp_path, given, "c.png,cat\nd.png,dog\n").load()
    of_train = [p for s in (splits.train, splits.val, splits.test) if s is not None for p in s.images]
    assert tmp_path / "in" / ("a.png" if "a.png" in given else f"{disk}.png") in of_train
    images = [{"id": i, "file_name": f"{i}.png"} for i in (7, 9)] + [{"id": 5, "file_name": given}]
    pictures(write(tmp_path / "coco", good()) / "images" / "in", "a.png", f"{disk}.png")
    found = load(write(tmp_path / "coco", changed(images=images)))
    assert [Path(p).parent.name for p in found.train.images] == ["images", "images", "in"]


def test_one_class_whose_accent_is_written_in_two_ways_is_one(tmp_path):
    for role, form in (("train", "NFC"), ("test", "NFD")):
        pictures(tmp_path / role / unicodedata.normalize(form, E_ACUTE), "a.png", f"{role}.png")
        pictures(tmp_path / role / "dog", "b.png", f"{role}2.png")
    assert Folder(root=str(tmp_path), val_fraction=0).load().classes == ("dog", E_ACUTE)


@pytest.mark.parametrize(
    ("path", "rest", "told"),
    [
        ("x" * 5000, "", "labels.csv:2: there is no image "),
        ('"a.png', "", "a quote that is opened is not closed"),
        ('"a"b.png', "", "cannot be read as a CSV ("),
        ("a.png", f"{'x' * 140_000},dog\n", "field larger than field limit"),
    ],
)
def test_a_table_that_would_swallow_rows_is_one_short_sentence(tmp_path, path, rest, told):
    pictures(tmp_path, "a.png", "b.png")
    with pytest.raises(UserError) as problem:
        csv_set(tmp_path, path, rest).load()
    assert told in str(problem.value)
    assert len(str(problem.value)) < 900


def test_a_name_that_is_nowhere_is_shown(tmp_path):
    root = write(tmp_path, changed(images=[{"id": i, "file_name": rf"in\{i}.png"} for i in (5, 7, 9)]))
    with pytest.raises(UserError, match=r"3 of 3 images are not there, such as in\\5.png"):
        CocoFolder(root=str(root), val=None).load()
