"""`peftbench predict` of a detector: tables, COCO's JSON and pictures. A stand-in finds what is bright."""

import contextlib
import csv
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import peftbench.tuned.finished_run
import peftbench.tuned.load
import peftbench.tuned.run_folder
from peftbench.cli.main import main
from peftbench.common.errors import UserError
from peftbench.data.decoding import open_rgb


class Bright:
    """Finds the bright rectangle of an image as a `disc` and, less sure of it, the whole image as a `page, blank`."""

    classes = ("page, blank", "disc")

    def __init__(self):
        self.model = SimpleNamespace(mean=torch.zeros(3))
        self.transform = SimpleNamespace(range="auto")
        self.run = SimpleNamespace(
            config=SimpleNamespace(
                task=SimpleNamespace(name="detection", path=""), trainer=SimpleNamespace(precision="32")
            ),
            record=SimpleNamespace(id="fcos-x", stamps={"data": {}}),
            categories=(7, 3),
            frames=None,
        )

    def to(self, device):
        return self

    def precision(self):
        return contextlib.nullcontext()

    def detect(self, file):
        try:
            pixels = np.asarray(open_rgb(file).convert("L"))
        except OSError as problem:
            raise UserError(f"{file}: cannot be read as an image ({problem}).") from None
        rows, columns = np.nonzero(pixels > 128)
        if not len(rows):
            return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        whole = [0, 0, pixels.shape[1], pixels.shape[0]]
        boxes = torch.tensor(np.array([bright, whole]), dtype=torch.float32)
        return {"boxes": boxes, "scores": torch.tensor([0.9, 0.3]), "labels": torch.tensor([1, 0])}


@pytest.fixture
def told(capsys, monkeypatch):
    tuned = Bright()
    read = (Path("x"), tuned.run.record, tuned.run.config)
    monkeypatch.setattr(peftbench.tuned.run_folder, "read_finished", lambda *_: read)
    monkeypatch.setattr(peftbench.tuned.finished_run, "open_run", lambda *_: tuned.run)
    monkeypatch.setattr(peftbench.tuned.load, "load", lambda *_, **__: tuned)

    def call(*words):
        capsys.readouterr()
        status = main(["predict", "run=x", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def picture(path, box=(40, 20, 100, 50), size=(160, 120), **saved):
    """A dark image, in `box` bright."""
    pixels = np.full((size[1], size[0], 3), 20, dtype=np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **saved)
    return path


@pytest.fixture
def images(tmp_path):
    """An image in the folder, one in a folder of it, and one with nothing on it."""
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "deep" / "b.jpg", (10, 10, 30, 100), quality=95)
    picture(tmp_path / "in" / "dark.png", None)
    return tmp_path / "in"


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_row_for_each_box(told, images, tmp_path):
    out = tmp_path / "found.csv"
    status, printed, said = told(f"images={images}", f"out={out}")
    assert (status, printed) == (0, "")
    assert f"3 images: {out}" in said
    rows = list(csv.DictReader(out.open()))
    assert [os.path.basename(r["file"]) for r in rows] == ["a.png", "dark.png", "b.jpg"]
    assert [rows[0][k] for k in ("class", "score", "x1", "y1", "x2", "y2")] == [
        *("disc", "0.900000", "40.00", "20.00", "100.00", "50.00")
    ]
    assert set(rows[1].values()) == {str(images / "dark.png"), ""}  # listed, though nothing was found
    _, printed, _ = told(f"images={images / 'a.png'}", "score=0.2")
    assert [line.split(",")[-5] for line in printed.splitlines()[1:]] == ["0.900000", "0.300000"]
    assert '"page, blank"' in printed


def test_json_is_what_coco_reads(told, images, tmp_path):
    (images / "notes.txt").write_text("hello")
    out = tmp_path / "found.json"
    assert told(f"images={images}", f"out={out}", "score=0")[0] == 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out))
    names = {i["file_name"]: i["id"] for i in coco.loadImgs(coco.getImgIds())}
    assert len(names) == 3
    assert {(i["width"], i["height"]) for i in coco.loadImgs(coco.getImgIds())} == {(160, 120)}
    (disc,) = coco.loadAnns(coco.getAnnIds(imgIds=[names[str(images / "a.png")]], catIds=[3]))
    assert (disc["bbox"], disc["area"], disc["score"]) == ([40, 20, 60, 30], 1800, 0.9)
    assert not coco.getAnnIds(imgIds=[names[str(images / "dark.png")]])
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {7: "page, blank", 3: "disc"}
    content = json.loads(out.read_text())
    assert content["info"]["run"] == "fcos-x"
    assert [os.path.basename(s["file"]) for s in content["skipped"]] == ["notes.txt"]


def test_pictures_lie_as_the_images_do(told, images, tmp_path):
    status, _, said = told(f"images={images}", f"draw={tmp_path / 'drawn'}", f"out={tmp_path / 'o.csv'}")
    assert status == 0, said
    assert f"{tmp_path / 'drawn'}" in said
    assert files(tmp_path / "drawn") == ["a.png", "dark.png", "deep/b.jpg"]
    before, after = (np.asarray(Image.open(p / "a.png")).astype(int) for p in (images, tmp_path / "drawn"))
    changed = (before != after).any(2)
    assert changed[20, 40:100].all()  # the upper edge
    assert changed[20:50, 40].all()
    assert not changed[:20].any()
    assert not changed[51:].any()
    dark = [np.asarray(Image.open(p / "dark.png")) for p in (images, tmp_path / "drawn")]
    assert np.array_equal(*dark)
    told(f"images={images}/deep/*.jpg", f"draw={tmp_path / 'two'}")
    told(f"images={images}/**/*.*", f"draw={tmp_path / 'three'}")
    told(f"images={images / 'a.png'}", f"draw={tmp_path / 'four'}")
    assert [files(tmp_path / n) for n in ("two", "three", "four")] == [["b.jpg"], files(images), ["a.png"]]


def test_a_turned_image_is_drawn_upright(told, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees to the right
    picture(images / "turned.jpg", (0, 0, 160, 20), exif=exif)
    told(f"images={images / 'turned.jpg'}", f"draw={tmp_path / 'drawn'}", f"out={tmp_path / 'o.csv'}")
    (row,) = csv.DictReader((tmp_path / "o.csv").open())
    assert [float(row[k]) for k in ("x1", "y1", "x2", "y2")] == [100, 0, 120, 160]
    with Image.open(tmp_path / "drawn" / "turned.jpg") as drawn:
        assert drawn.size == (120, 160)
        assert not drawn.getexif().get(0x0112)


@pytest.mark.parametrize("name", ["a.gif", "a.pgm", "a.webp", "a.tif", "a.bmp", "a.JPG"])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_is_drawn(told, tmp_path, name, mode):
    source = Image.open(picture(tmp_path / "x.png"))
    image = source.convert("L").convert("I").point(lambda v: v * 257) if mode == "I;16" else source.convert(mode)
    try:
        (tmp_path / "in").mkdir()
        (image.convert("I;16") if mode == "I;16" else image).save(tmp_path / "in" / name)
    except (OSError, ValueError, KeyError):
        pytest.skip(f"no {name} holds {mode}")
    status, _, said = told(f"images={tmp_path / 'in'}", f"draw={tmp_path / 'drawn'}")
    assert status == 0, said
    with Image.open(tmp_path / "drawn" / name) as drawn:
        assert drawn.size == (160, 120)


def test_nothing_is_overwritten(told, images, tmp_path):
    drawn = tmp_path / "drawn"
    kept = picture(drawn / "deep" / "b.jpg", None)
    before = kept.read_bytes()
    status, printed, said = told(f"images={images}", f"draw={drawn}")
    assert (status, printed) == (2, "")
    assert said == f"peftbench: draw={drawn}: {kept} exists already; give another folder, or force=true.\n"
    assert files(drawn) == ["deep/b.jpg"]
    assert kept.read_bytes() == before
    assert told(f"images={images}", f"draw={drawn}", "force=true")[0] == 0
    assert kept.read_bytes() != before


@pytest.mark.parametrize("given", ["{in}", "{in}/a.png", "{in}/*.png"])
@pytest.mark.parametrize("draw", ["{in}", "{in}/deep/..", "{link}"])
def test_images_are_never_drawn_over(told, images, tmp_path, given, draw):
    (tmp_path / "link").symlink_to(images)
    held = {p: (images / p).read_bytes() for p in files(images)}
    words = [w.replace("{in}", str(images)).replace("{link}", str(tmp_path / "link")) for w in (given, draw)]
    status, _, said = told(f"images={words[0]}", f"draw={words[1]}", "force=true")
    assert status == 2
    assert "lies among the images" in said
    assert {p: (images / p).read_bytes() for p in files(images)} == held


def test_pictures_do_not_become_images(told, images):
    status, _, said = told(f"images={images}", f"draw={images / 'drawn'}")
    assert status == 2
    assert "lies among the images" in said
    assert not (images / "drawn").exists()


def test_a_broken_image_is_skipped(told, images, tmp_path):
    (images / "broken.png").write_bytes(b"\x89PNG but no")
    status, _, said = told(f"images={images}", f"draw={tmp_path / 'drawn'}", f"out={tmp_path / 'o.csv'}")
    assert status == 0
    assert f"skipped {images / 'broken.png'}: cannot be read as an image" in said
    assert "3 images, 1 file skipped" in said
    shutil.rmtree(tmp_path / "drawn")
    status, _, said = told(f"images={images / 'broken.png'}", f"draw={tmp_path / 'drawn'}", f"out={tmp_path / 'p.csv'}")
    assert status == 2
    assert "no image is left; 1 file was skipped" in said
    assert not (tmp_path / "drawn").exists()
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("score=2", "score=2: expected 0 to 1."),
        ("score=nan", "score=nan: expected 0 to 1."),
        ("score=much", "score=much: expected a number."),
        ("top_k=3", "top_k=3: is not for a run of task=detection; leave it out."),
        ("batch_size=3", "batch_size=3: is not for a run of task=detection; leave it out."),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(told, images, word, parts):
    status, printed, said = told(f"images={images}", word)
    assert (status, printed, said) == (2, "", f"peftbench: {parts}\n")
