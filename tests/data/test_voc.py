"""`peftbench data convert voc`: Pascal VOC's folders as JSON that data=coco_folder reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from peftbench.cli.main import main
from peftbench.data.coco import CocoFolder


def element(name: str, box: tuple[Any, ...], difficult: int | str = 0, more: str = "") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{more}<bndbox>{corners}</bndbox></object>"


def annotation(stem: str, *objects: str, size: str = "<width>30</width><height>20</height>") -> str:
    return (
        f"<annotation><filename>{stem}.jpg</filename><size>{size}<depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def voc(root: Path, lists: bool = True, **content: str) -> Path:
    """Three different images of 20 x 30; `content` replaces annotations by name."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    files = {
        "a1": annotation("a1", element("dog", (1, 1, 30, 20), more=part), element("cat", (3, 4, 12, 8), 1)),
        "a2": annotation("a2", size=""),
        "a3": annotation("a3", element("cat", ("5.5", 2, 10, 6)), element("dog", (9, 9, 3, 12))),
    }
    for number, (stem, text) in enumerate((files | content).items()):
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / "JPEGImages").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        Image.new("RGB", (30, 20), (60 * number, 0, 0)).save(root / "JPEGImages" / f"{stem}.jpg")  # no copies
    if lists:
        main = root / "ImageSets" / "Main"
        main.mkdir(parents=True, exist_ok=True)
        (main / "train.txt").write_text("a1\na2\n")
        (main / "val.txt").write_text("a3  1\n")
        (main / "trainval.txt").write_text("a1\na2\na3\n")
        (main / "dog_train.txt").write_text("a1 1\n")
    return root


@pytest.fixture
def convert(capsys):
    """`convert(*words)` is (status, stdout, stderr) of the command."""

    def call(*words: str) -> tuple[int, str, str]:
        status = main(["data", "convert", *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def test_lists_become_files_that_are_read_back(convert, tmp_path):
    root, out = voc(tmp_path / "voc"), tmp_path / "json"
    status, told, _ = convert("voc", str(root), "--out", str(out), "dropped=0.5")
    assert status == 0
    assert sorted(p.name for p in out.iterdir()) == [f"instances_{r}.json" for r in ("train", "trainval", "val")]
    assert "2 images, 2 objects" in told
    assert "note: val: 1 of 2 boxes is empty, such as one of a3.xml (dog); it is left out" in told
    given = dict(w.removeprefix("data.").split("=", 1) for w in told.splitlines()[-1].split()[3:])
    splits = CocoFolder(**given, empty=True).load()
    assert splits.classes == ("cat", "dog")
    dog, cat = splits.train.labels[0].boxes.tolist()
    assert dog == [0, 0, 30, 20], "pixels count from 1 there, both corners within the box"
    assert cat == [2, 3, 12, 8]
    assert splits.train.labels[0].crowd.tolist() == [False, True], "a difficult object is neither trained on nor missed"
    assert [o.size for o in splits.train.labels] == [(20, 30), (20, 30)]
    assert splits.test is not None
    assert splits.test.labels[0].boxes.tolist() == [[4.5, 1, 10, 6]]
    assert splits.notes == ()


def test_without_lists_there_is_one_file_and_pixels_may_count_from_zero(convert, tmp_path):
    root, out = voc(tmp_path / "voc", lists=False), tmp_path / "json"
    status, told, _ = convert("voc", str(root), f"out={out}", "--zero-based", "--classes", "dog", "dropped=0.5")
    assert status == 0
    content = json.loads((out / "instances_all.json").read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[1, 1, 29, 19]]
    assert content["categories"] == [{"id": 1, "name": "dog"}]
    assert content["images"][0] == {"id": 1, "file_name": "JPEGImages/a1.jpg", "width": 30, "height": 20}
    assert "note: 2 objects are of other classes and left out: cat (2)" in told


@pytest.mark.parametrize("zero_based", [True, False])
def test_boxes_in_shares_become_pixels(convert, tmp_path, zero_based):
    share = {"a1": annotation("a1", element("dog", (0.5, 0.25, 1, 0.75))), "a3": annotation("a3")}
    root, out = voc(tmp_path / "voc", lists=False, **share), tmp_path / "json"
    status, told, _ = convert("voc", str(root), f"out={out}", f"zero_based={str(zero_based).lower()}")
    assert status == 0
    assert "note: boxes are in shares of the image, 0 to 1, instead of pixels; they are scaled to its size" in told
    content = json.loads((out / "instances_all.json").read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[15, 5, 15, 10]]
    assert content["info"] == {"description": "converted from Pascal VOC's XML; shares of the image there"}


@pytest.mark.parametrize("form", ["jpg", "png", "tif", "webp"])
def test_sizes_that_annotations_do_not_say_are_those_of_the_upright_image(convert, tmp_path, form):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    root, out = voc(tmp_path / "voc", lists=False, a1=annotation("a1", element("dog", (1, 1, 9, 9)), size="")), tmp_path
    Image.new("RGB", (30, 20)).save(root / "JPEGImages" / f"a1.{form}", exif=sideways)
    if form != "jpg":
        (root / "JPEGImages" / "a1.jpg").unlink()
    assert convert("voc", str(root), f"out={out}", "dropped=0.5")[0] == 0
    (image,) = (i for i in json.loads((out / "instances_all.json").read_text())["images"] if "a1" in i["file_name"])
    assert (image["width"], image["height"]) == (20, 30)


def test_classes_are_numbered_in_the_order_given(convert, tmp_path):
    root, out = voc(tmp_path / "voc"), tmp_path / "json"
    assert convert("voc", str(root), f"out={out}", "classes=dog,cat", "dropped=0.5")[0] == 0
    content = json.loads((out / "instances_train.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["dog", "cat"]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (BOMB, "a1.xml: declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "a1.xml: declares a document type"),
        ("<annotation>", "a1.xml: cannot be read as XML (no element found"),
        ("", "a1.xml: cannot be read as XML"),
        ("<html/>", "a1.xml: is <html>; expected VOC's <annotation>"),
        (annotation("a1", element("", (1, 1, 2, 2))), "a1.xml: object 1 has no name"),
        (annotation("a1", element("dog", ("one", 1, 2, 2))), "a1.xml: object 1 (dog) has the box xmin='one'"),
        (annotation("a1", element("dog", ("nan", 1, 2, 2))), "expected four numbers"),
        (annotation("a1", "<object><name>dog</name></object>"), "has the box xmin=None"),
        (annotation("a1", element("dog", (1, 1, 2, 2), "maybe")), "has difficult='maybe'; expected 0 or 1"),
    ],
)
def test_wrong_annotations_are_named_and_nothing_is_written(convert, tmp_path, content, sentence):
    root, out = voc(tmp_path / "voc", a1=content), tmp_path / "json"
    status, _, told = convert("voc", str(root), f"out={out}")
    assert status == 2
    assert sentence in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_what_is_there_is_not_overwritten(convert, tmp_path):
    root, out = voc(tmp_path / "voc"), tmp_path / "json"
    out.mkdir()
    (out / "instances_val.json").write_text("mine")
    status, _, told = convert("voc", str(root), f"out={out}")
    assert status == 2
    assert "instances_val.json: is there already" in told
    assert [p.read_text() for p in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected voc and one folder"),
        (["coco", "{root}", "out={out}"], "expected voc and one folder"),
        (["voc", "{root}"], "data convert: needs out=DIR; see peftbench data convert --help."),
        (["voc", "{root}/Annotations", "out={out}"], "has no folder Annotations"),
        (["voc", "{root}/..", "out={out}"], "has no folder Annotations; give the folder that holds Annotations/ and"),
        (["voc", "{root}", "out={out}", "classes=dog,cta"], "no object is called 'cta' (did you mean 'cat'?)"),
        (["voc", "{root}", "out={out}", "classes=dog,dog"], "names a class twice"),
        (["voc", "{root}", "out={out}", "zero_based=yes"], "expected true or false"),
        (["voc", "{root}", "out={out}"], "val: 1 of 2 boxes is empty, such as one of a3.xml (dog); expected boxes"),
        (["voc", "{root}", "out={out}", "dropped=2"], "dropped=2: expected a share from 0 to 1"),
        (["voc", "{root}", "out={out}", "--force"], "data convert --force: there is no such option"),
    ],
)
def test_words_that_mean_nothing(convert, tmp_path, words, sentence):
    root, out = voc(tmp_path / "voc"), tmp_path / "json"
    status, _, told = convert(*(w.format(root=root, out=out) for w in words))
    assert status == 2
    assert sentence in told
    assert not out.exists()


def test_lists_and_images_that_lead_nowhere(convert, tmp_path):
    root, out = voc(tmp_path / "voc"), tmp_path / "json"
    (root / "JPEGImages" / "a3.jpg").unlink()
    status, _, told = convert("voc", str(root), f"out={out}")
    assert (status, "a3.xml: its image is not in" in told) == (2, True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a1\n../a2\n")
    status, _, told = convert("voc", str(root), f"out={out}")
    assert (status, "train.txt:2: there is no Annotations/../a2.xml" in told) == (2, True)


def test_an_image_may_have_the_name_that_its_annotation_says(convert, tmp_path):
    root, out = voc(tmp_path / "voc", lists=False), tmp_path / "json"
    (root / "JPEGImages" / "a1.jpg").rename(root / "JPEGImages" / "photo.png")
    file = root / "Annotations" / "a1.xml"
    file.write_text(file.read_text().replace("a1.jpg", "photo.png"))
    assert convert("voc", str(root), f"out={out}", "dropped=0.5")[0] == 0
    content = json.loads((out / "instances_all.json").read_text())
    assert content["images"][0]["file_name"] == "JPEGImages/photo.png"


def test_a_conversion_that_was_killed_between_its_files_is_repeated_by_the_same_command(convert, tmp_path):
    root, out = voc(tmp_path / "voc"), tmp_path / "json"
    words = ("voc", str(root), f"out={out}", "dropped=0.5")
    assert convert(*words)[0] == 0
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / min(whole)).unlink()
    assert convert(*words)[0] == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole
    status, _, told = convert(*words, "zero_based=true")
    assert status == 2
    assert "is there already" in told
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole
