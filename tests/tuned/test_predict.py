"""`peftbench predict`: tables of predictions, and what is no image."""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.cli.main import main
from peftbench.data import heif
from support.finished_runs import QUIET, finish, pictures

GONE = ("toaster", "tpu", "meta", "xla", "cuda:99")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=40, test=30)


@pytest.fixture(scope="module")
def lora(data, tmp_path_factory):
    words = ["optimizer.lr=3e-3", "trainer.epochs=2"]
    return finish(tmp_path_factory.mktemp("lora"), data, "lora", "vit_nano", *words)


@pytest.fixture
def told(capsys):
    def call(*words):
        capsys.readouterr()
        status = main(["predict", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_accuracy_through_predict_is_the_records(lora, data, tmp_path, told):
    out = tmp_path / "p.csv"
    status, printed, said = told(f"run={lora.folder}", f"images={data / 'test'}", f"out={out}", "batch_size=50")
    assert (status, printed) == (0, "")
    assert "120 images" in said
    rows = list(csv.DictReader(out.open()))
    right = sum(Path(r["image"]).parent.name == r["class_1"] for r in rows)
    assert 0.4 < right / 120 < 1
    assert right / 120 == pytest.approx(lora.metrics["test/accuracy"], abs=1e-6)
    for row in rows:
        p = [float(row[f"probability_{i}"]) for i in range(1, 5)]
        assert p == sorted(p, reverse=True)
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert {row[f"class_{i}"] for i in range(1, 5)} == {"zero", "one", "two", "three"}


def test_a_file_a_folder_and_a_glob_give_the_same_rows(lora, data, tmp_path, told):
    data = Path(shutil.copytree(data, tmp_path / "copy"))
    folder = data / "test" / "two"
    by_folder = told(f"run={lora.folder}", f"images={folder}", "top_k=1")[1].splitlines()
    by_glob = told(f"run={lora.folder}", f"images={data}/test/tw*/*.png", "top_k=1")[1].splitlines()
    assert by_folder == by_glob
    assert by_folder[0] == "image,class_1,probability_1"
    assert len(by_folder) == 31
    os.symlink(folder.parent, folder / "loop")  # which a glob follows, as far as the system does
    every = told(f"run={lora.folder}", f"images={folder.parent}/**/*.png", "top_k=1")[1].splitlines()
    (folder / "loop").unlink()
    assert every == told(f"run={lora.folder}", f"images={folder.parent}", "top_k=1")[1].splitlines()
    assert len(every) > len(by_folder)
    shutil.copytree(folder, named := tmp_path / "set [x]")
    assert len(told(f"run={lora.folder}", f"images={named}/*.png", "top_k=1")[1].splitlines()) == 31
    one = sorted(folder.iterdir())[0]
    (row,) = told(f"run={lora.folder}", f"images={one}", "top_k=1")[1].splitlines()[1:]
    assert row.split(",")[:2] == by_folder[1].split(",")[:2]


def test_what_is_no_image_is_named_skipped_and_counted(lora, data, tmp_path, told):
    folder = tmp_path / "mixed"
    shutil.copytree(data / "test" / "one", folder / "inner")
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.png").write_bytes(b"\x89PNG but no")
    (folder / ".hidden").write_text("")
    os.symlink(folder, folder / "loop")
    out = tmp_path / "p.json"
    status, _, said = told(f"run={lora.folder}", f"images={folder}", f"out={out}", "top_k=2")
    assert status == 0
    assert f"skipped {folder / 'notes.txt'}: is no image (.txt)" in said
    assert f"skipped {folder / 'broken.png'}: cannot be read as an image" in said
    assert "30 images, 2 files skipped" in said
    found = json.loads(out.read_text())
    assert found["run"] == lora.id
    assert len(found["images"]) == 30
    assert all(len(i["predictions"]) == 2 for i in found["images"])
    assert [Path(s["file"]).name for s in found["skipped"]] == ["notes.txt", "broken.png"]


def test_linked_folders_are_followed_once_and_heic_names_what_reads_it(lora, data, tmp_path, told, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(Image.OPEN, "HEIF", (heif._open, heif._accept))  # as it is before the first such image
    folder, far = tmp_path / "mine", tmp_path / "far"
    shutil.copytree(data / "test" / "one", far / "one")
    folder.mkdir()
    for name, place in (("a", far), ("b", far / "one"), ("c", folder), ("gone.png", far / "gone.png")):
        (folder / name).symlink_to(place)
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    image = next(iter((far / "one").iterdir()))
    (folder / "saved.JFIF").write_bytes(image.read_bytes())
    status, printed, said = told(f"run={lora.folder}", f"images={folder}", "top_k=1")
    assert status == 0
    assert len(printed.splitlines()) == 1 + 30 + 1
    assert f"skipped {folder / 'phone.HEIC'}: reading HEIC needs pillow-heif" in said
    assert "pip install 'peftbench[heic]'" in said
    assert f"skipped {folder / 'gone.png'}: leads nowhere" in said
    assert "31 images, 2 files skipped" in said


@pytest.mark.parametrize("out", [None, "p.csv", "p.json"])
@pytest.mark.parametrize("what", ["notes.txt", "broken.png"])
def test_where_no_image_is_left_nothing_is_written(lora, tmp_path, told, what, out):
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / what).write_text("hello")
    words = [] if out is None else [f"out={tmp_path / out}"]
    status, printed, said = told(f"run={lora.folder}", f"images={folder}", *words)
    assert (status, printed) == (2, "")
    assert f"skipped {folder / what}: " in said
    assert f"images={folder}: no image is left; 1 file was skipped, as told above." in said
    assert [p.name for p in tmp_path.iterdir()] == ["none"]


def test_images_are_turned_as_their_exif_says(lora, data, tmp_path, told):
    source = Image.open(next((data / "test" / "two").iterdir())).resize((64, 48))
    upright, lying = tmp_path / "a.png", tmp_path / "b.png"
    source.save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    source.transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    rows = told(f"run={lora.folder}", f"images={tmp_path}/*.png")[1].splitlines()[1:]
    assert rows[0].split(",")[1:] == rows[1].split(",")[1:]


def test_an_image_in_memory_is_prepared_as_its_file(lora, data, tmp_path):
    tuned = peftbench.load(lora.folder)
    source = Image.open(next((data / "test" / "two").iterdir())).resize((40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = source.convert("P")
    clear.info["transparency"] = 3
    deep = Image.fromarray(np.asarray(source).astype(np.uint16) * 257)
    for name, image, more in (("turned.png", source, {"exif": exif}), ("clear.png", clear, {}), ("deep.png", deep, {})):
        image.save(tmp_path / name, **more)
        expected = tuned.transform(tmp_path / name)
        assert torch.equal(tuned.transform(Image.open(tmp_path / name)), expected), name
        assert torch.equal(tuned.transform(str(tmp_path / name)), expected), name
    assert torch.equal(tuned.transform(source), tuned.transform(np.asarray(source)))
    for wrong, found in (
        (b"GIF", "in a bytes"),
        (torch.zeros(3, 8, 8), "in a Tensor"),
        (np.zeros((3, 8, 8)), "float64"),
    ):
        with pytest.raises(peftbench.UserError, match=f"{found}: expected"):
            tuned.transform(wrong)


def test_a_file_that_is_there_is_kept(lora, data, tmp_path, told):
    out = tmp_path / "p.csv"
    out.write_text("mine")
    words = [f"run={lora.folder}", f"images={data / 'test' / 'one'}", f"out={out}"]
    status, _, said = told(*words)
    assert status == 2
    assert "exists already" in said
    assert out.read_text() == "mine"
    assert told(*words, "force=true")[0] == 0
    assert out.read_text().startswith("image,")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["images=."], ["needs run="]),
        (["run=."], ["needs images="]),
        (["run=.", "image=."], ["image=.", "did you mean 'images'"]),
        (["run=/nowhere", "images=."], ["run=/nowhere: holds no result.json"]),
        (["run=.", "images=.", "top_k=x"], ["top_k=x: expected a whole number"]),
        (["run=.", "images=.", "out=x.txt"], ["x.txt", ".csv or .json"]),
        (["run=RUN", "images=/nowhere/*.png"], ["images=/nowhere/*.png: there is no such file"]),
        (["run=RUN", "images=IMAGES", "top_k=0"], ["top_k=0: expected at least 1"]),
        (["run=RUN", "images=IMAGES", "batch_size=0"], ["batch_size=0: expected at least 1"]),
        *((["run=RUN", "images=IMAGES", f"device={d}"], [f"device={d}: torch", "here; expected cpu"]) for d in GONE),
        (["run=RUN", "images=EMPTY"], ["empty: holds no image; expected files of the types .avif", ".webp."]),
        (["run=RUN", "images=IMAGES", "draw=x"], ["draw=x: is not for a run of task=classification"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_mistake_is_answered_in_one_sentence(lora, data, tmp_path, told, words, parts):
    (tmp_path / "empty").mkdir()
    places = {"RUN": lora.folder, "IMAGES": str(data / "test"), "EMPTY": str(tmp_path / "empty")}
    filled = [re.sub("RUN|IMAGES|EMPTY", lambda found: places[found[0]], w) for w in words]
    status, printed, said = told(*filled)
    assert (status, printed) == (2, "")
    assert said.count("\n") == 1, said
    assert len(said) < 400
    for part in parts:
        assert part in said


def test_clips_are_predicted_as_they_were_trained(tmp_path, told):
    rng = np.random.default_rng(0)
    for i in range(12):
        for frame in range(3):
            folder = tmp_path / "clips" / ("dark", "light")[i % 2] / f"c{i}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 60, (16, 16, 3)) + 180 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{frame}.png")
    words = ["method=linear", "backbone=resnet_nano", "data=video_folder", f"data.root={tmp_path / 'clips'}"]
    more = ["data.frames=2", "data.size=32", "trainer.epochs=20", f"output_dir={tmp_path / 'out'}", *QUIET]
    record = peftbench.run(peftbench.compose(*words, *more, "optimizer.lr=1e-1"))
    (tmp_path / "clips" / "notes.txt").write_text("hello")
    status, printed, said = told(f"run={record.folder}", f"images={tmp_path / 'clips'}", "top_k=1")
    assert status == 0
    assert "notes.txt: is no clip" in said
    rows = [r.split(",") for r in printed.splitlines()[1:]]
    assert len(rows) == 12
    assert all(Path(r[0]).parent.name == r[1] for r in rows)
