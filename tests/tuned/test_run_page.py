"""The page of a run: `peftbench report run=FOLDER`, and `page=true`."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.cli.main import main
from peftbench.config import identity
from peftbench.data.boxes import Objects, box_split
from peftbench.results import Record, read_record
from peftbench.results.per_image import read_right, stamped
from peftbench.results.run_tables import what_it_reached
from peftbench.tasks.detection.run_page import BoxPage
from peftbench.tasks.run_pages import Seen
from peftbench.tuned.run_page import write_asked_pages
from support.finished_runs import QUIET, finish, pictures
from support.pages import look
from support.reports import record

MARKUP = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    """(the run's folder, the folder of its images): made with `page=true`, a class and an image called as markup is."""
    root = pictures(tmp_path_factory.mktemp("images"), train=8, test=12)
    for role in ("train", "test"):
        (root / role / "two").rename(root / role / f"{MARKUP} two")
    first = min((root / "test" / "one").iterdir())
    first.rename(first.with_name(f"{MARKUP} one.png"))
    out = tmp_path_factory.mktemp("out")
    words = ["method=linear", "backbone=vit_nano", "data=folder", f"data.root={root}", "data.val_fraction=0.25"]
    words += ["data.size=32", "data.batch_size=16", "trainer.epochs=2", f"output_dir={out}", *QUIET]
    assert main([*words, "page=true"]) == 0
    (folder,) = (path.parent for path in out.glob("*/result.json"))
    return folder, root


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run[0] / "page.html").read_text()


def images_in(part: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in re.findall(r"base64,([^\"]+)", part)]


def test_a_run_that_trained_on_cuts_has_a_page_of_whole_images(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / trained[0].name)
    assert main(["report", f"run={folder}"]) == 0
    told = re.sub(r"\s+", " ", (folder / "page.html").read_text())
    assert "from here on are of all 24 test images" in told
    assert "is now right and was wrong" not in told, "it predicts as in the run's own test"


def section(page: str, title: str) -> str:
    return re.search(rf"<h2>{title}</h2>(.*?)</section>", page, re.S)[1]


def test_a_run_with_page_has_the_id_of_one_without(run):
    record = read_record(run[0])
    assert record.config["page"] is True
    config = peftbench.compose("method=linear", "data=digits")
    assert identity(config) == identity(peftbench.compose("method=linear", "data=digits", "page=true"))
    assert "page" not in json.dumps(identity(config))


def test_a_page_is_written_from_python_too_and_for_a_run_that_was_there(finished, tiny, tmp_path, capsys, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (folder,) = (path.parent for path in tmp_path.glob("*/result.json"))
    words = [*tiny, "method=linear", f"output_dir={tmp_path}", "page=true"]
    monkeypatch.setenv("SLURM_PROCID", "0")  # as in a job of one process
    for carry_out in (lambda: peftbench.run(peftbench.compose(*words)), lambda: main(words)):
        carry_out()
        assert f"page: {folder / 'page.html'}" in capsys.readouterr().out
        assert "test images: trainer.max_batches=2 cut it." in (folder / "page.html").read_text()
        before = (folder / "page.html").stat()
        write_asked_pages([peftbench.compose(*words)], [replace(read_record(folder), was_there=True)], print)
        assert f"page: {folder / 'page.html'}\n" == capsys.readouterr().out, "it is told where the page is"
        assert (folder / "page.html").stat() == before
        (folder / "page.html").unlink()
    peftbench.run(peftbench.compose(*words[:-1]))
    assert not (folder / "page.html").exists()


def test_several_processes_say_once_that_they_write_no_page(capsys, monkeypatch):
    config = peftbench.compose("trainer=ddp", "trainer.devices=2", "page=true", "method=linear", "data=digits")
    record = peftbench.Record("an-id", "complete", config.to_dict(), folder="outputs/an-id")
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for process in ("0", "1"):
        monkeypatch.setenv("RANK", process)
        write_asked_pages([config], [record], print)
    assert (
        capsys.readouterr().out
        == "page=true: several processes write no page; give peftbench report run=outputs/an-id.\n"
    )


def test_the_pictures_are_the_mistakes_and_the_least_sure(run, page):
    record = read_record(run[0])
    right = read_right(str(run[0]), stamped(record.stamps))
    wrong = int((~right).sum())
    assert wrong > 0
    assert f"Of {wrong} mistakes, the surest first." in page or f"Of {wrong} mistake, the surest" in page
    assert len(images_in(section(page, "The surest mistakes"))) == min(wrong, 20)
    assert len(images_in(section(page, "The least sure"))) == 20
    sure = [int(n) for n in re.findall(r"said [^<]*(?:<wbr>[^<]*)*, (\d+)\xa0%", section(page, "The surest mistakes"))]
    assert sure == sorted(sure, reverse=True)
    assert all(max(image.size) <= 112 for image in images_in(page))
    assert f"Figures and pictures from here on are of all {len(right)} test images." in page
    assert f"{100 * record.metrics['test/accuracy']:.1f} % of {len(right)} test images" in page


def test_the_matrix_counts_every_image_once(run, page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    (matrix,) = (chart["content"] for chart in data["charts"] if chart["kind"] == "matrix")
    right = read_right(str(run[0]), stamped(read_record(run[0]).stamps))
    assert sum(count for _, _, count in matrix["cells"]) == sum(matrix["sums"]) == len(right)
    assert sum(count for row, column, count in matrix["cells"] if row == column) == right.sum()
    (reliability,) = (chart["content"] for chart in data["charts"] if chart["kind"] == "reliability")
    assert sum(count for *_, count in reliability["bins"]) == len(right)
    assert sum(share * count for _, share, count in reliability["bins"]) == pytest.approx(right.sum())


def test_no_foreign_text_is_markup(page):
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=" in page
    assert len(re.findall("<script", page)) == 2
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_the_command_repeats_the_run(run, page):
    command = re.search(r'<pre class="command">(.*?)</pre>', page, re.S)[1]
    words = shlex.split(re.sub(r"<[^>]+>", "", command).replace("&#x27;", "'").replace("&quot;", '"'))
    assert words[0] == "peftbench"
    again = peftbench.compose(*words[1:])
    assert identity(again) == identity(peftbench.load(run[0]).run.config)
    assert again.output_dir == str(run[0].parent)
    assert main(words[1:]) == 0
    assert [path.name for path in run[0].parent.glob("*/result.json")] == ["result.json"], "it is the same run"


@pytest.mark.parametrize(
    "words",
    [
        ("method=lora", "backbone=timm", "backbone.name=resnet18", "data=photos", "trainer=cpu", "optimizer=sgd"),
        ("method=spt_lora", "backbone=vit_nano", "data=digits", "logger=wandb", "logger.tags=[a,'b, c']", "seed=3"),
        ("method=losa", "backbone=vit_s", "data=folder", "data.root='it s, [here]'", "trainer.precision=bf16"),
        ("method=ftp", "backbone=resnet_nano", "data=digits_det", "data.size=[64,96]", "backbone.drop_path=0.1"),
    ],
    ids=lambda words: words[0],
)
def test_commands_compose_to_what_they_repeat(words):
    from peftbench.config.repeating import repeating_words

    config = peftbench.compose(*words)
    again = repeating_words(config)
    assert again
    composed = peftbench.compose(*shlex.split(" ".join(again))[1:])
    assert identity(composed) == identity(config)
    assert composed.logger == config.logger
    assert composed.data.options == config.data.options


def test_the_page_in_a_browser(run, tmp_path):
    path = run[0] / "page.html"
    seen = look(tmp_path, {"wide": (path, 1200), "phone": (path, 390)}, {})
    for view in seen.values():
        assert {chart["chart"] for chart in view["charts"]} == {"curve", "matrix", "bars", "reliability"}
        assert view["overflow"] == 0
        assert all(shown > 0 and whole > 0 for shown, whole in view["pictures"]), "pictures are shown"
        assert len(view["pictures"]) >= 20
        assert MARKUP in view["text"], "a name that is markup is text"
        for chart in view["charts"]:
            for x0, y0, x1, y1 in chart["texts"]:
                assert -1 <= x0 < x1 <= chart["width"] / chart["scale"] + 2, (chart["title"], x0, x1)
                assert -1 <= y0 < y1
    assert seen["phone"]["widest"] <= 390
    assert seen["phone"]["smallest"] > 10


def test_without_its_images_the_page_shows_the_record(run, tmp_path, capsys):
    folder, root = run
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    away = root.with_name("away")
    root.rename(away)
    try:
        assert main(["report", f"run={copy}"]) == 0
    finally:
        away.rename(root)
    page = (copy / "page.html").read_text()
    assert "This page shows what the record holds, and no predictions: " in page
    assert str(root) in page
    assert "data:image" not in page
    assert f"{100 * read_record(folder).metrics['test/accuracy']:.1f} %" in page


def test_a_mean_over_shifted_sets_says_of_how_many_images_in_all():
    metrics = {"ood/accuracy": 0.5, "test/accuracy": 0.9}
    images = {"test": 600, "ood/noise:3": 600, "ood/blur:1": 601, "train": 10}
    made = record("lora", metrics=metrics, stamps__data__images=images)
    rows = dict(what_it_reached(Record(**{k: v for k, v in made.items() if k != "schema"})).rows)
    assert rows["ood/accuracy"] == "50.0 %, a mean over 2 shifted sets of 1,201 images in all"
    assert rows["test/accuracy"] == "90.0 % of 600 test images"


def test_other_images_than_the_run_was_tested_on_are_noticed(run, tmp_path):
    folder, root = run
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    removed = min((root / "test" / "three").iterdir())
    kept = removed.read_bytes()
    removed.unlink()
    try:
        assert main(["report", f"run={copy}", "all=true"]) == 0
    finally:
        removed.write_bytes(kept)
    assert "The run was measured on 48 test images: the data have changed since." in (copy / "page.html").read_text()


def test_nothing_else_is_replaced(run, tmp_path, capsys):
    folder = tmp_path / run[0].name
    folder.mkdir()
    shutil.copy(run[0] / "result.json", folder)
    (folder / "page.html").write_text("mine")
    assert main(["report", f"run={folder}"]) == 2
    assert "page.html: is there and is no page of a run" in capsys.readouterr().err
    assert (folder / "page.html").read_text() == "mine"
    shutil.copy(run[0] / "page.html", tmp_path / "page.html")
    assert main(["report", str(run[0]), "--format=html", f"output={tmp_path / 'page.html'}"]) == 2
    assert "is no html report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=nowhere"], "run=nowhere: there is no result.json; give the folder of a run."),
        (["run=x", "format=csv"], "format=csv: is for a report of many runs; run=x writes the page of one."),
        (["x", "all=true"], "all=true: is for the page of one run; give run=FOLDER too."),
    ],
)
def test_words_that_do_not_go_together(words, told, capsys):
    assert main(["report", *words]) == 2
    assert told in capsys.readouterr().err


def test_without_captum_the_page_names_the_extra(run, tmp_path, monkeypatch):
    for module in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, module, None)
    shutil.copytree(run[0], tmp_path / "run")
    assert main(["report", f"run={tmp_path / 'run'}"]) == 0
    page = (tmp_path / "run" / "page.html").read_text()
    told = r"Maps of where the model looks need captum \(.*?\): pip install &#x27;peftbench\[explain\]&#x27;\."
    assert re.search(told, page)


def test_a_map_of_a_probe_on_averaged_maps_is_the_weighted_sum_of_the_maps(tmp_path):
    """There Grad-CAM is CAM (Zhou et al., 2016): with features as means, the gradients are the head's weights."""
    pytest.importorskip("captum")
    from peftbench.tuned.heat_maps import heat_maps, why_no_maps

    root = pictures(tmp_path / "images", train=4, test=4)
    record = finish(tmp_path, root, "linear", "resnet_nano", "data.size=128")
    tuned = peftbench.load(record.folder, merge=False)
    assert why_no_maps(tuned) == ""
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    maps = heat_maps(tuned, images, [0, 3])
    with torch.no_grad():
        (last,) = tuned.model.backbone.taps(tuned.model.normalize(images))[-1:]
    weighted = torch.einsum("bchw,bc->bhw", last, tuned.model.task.head.weight[[0, 3]]).clamp(min=0)
    wide = torch.nn.functional.interpolate(weighted[:, None], size=(128, 128), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, wide / wide.amax((1, 2), keepdim=True).clamp(min=1e-12), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["losa", "cst", "lst", "lora"])
def test_maps_reach_through_every_kind_of_method(tmp_path, method):
    """Under a class token the patches of the last tap change nothing, and a side net takes gradients of its taps."""
    pytest.importorskip("captum")
    from peftbench.tuned.heat_maps import heat_maps

    record = finish(tmp_path, pictures(tmp_path / "images", train=4, test=4), method)
    tuned = peftbench.load(record.folder, merge=False)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    maps = heat_maps(tuned, images, [0, 1, 2, 3, 0, 1])
    assert maps.shape == (6, 32, 32)
    assert maps.min() >= 0
    assert maps.amax() == pytest.approx(1)
    assert not torch.equal(maps[0], maps[1])


def test_of_a_detector_missed_and_extra_boxes_are_counted(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file in files:
        Image.new("RGB", (300, 200), "gray").save(file)
    truth = np.array([[10, 10, 60, 60], [100, 100, 160, 160]], dtype=np.float32)
    alone, areas = np.zeros(2, dtype=bool), np.full(2, 2500, dtype=np.float32)
    objects = [Objects(i, (200, 300), truth, np.array([0, 1]), alone, areas) for i in range(2)]
    split = box_split(files, objects, [file.name for file in files], (1, 2))
    found = {  # a right one, one of another class, a doubled one, and one too unsure
        "boxes": torch.tensor([[10, 10, 60, 62], [100, 100, 160, 160], [12, 10, 60, 60], [200, 0, 250, 50.0]]),
        "labels": torch.tensor([0, 0, 0, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.2]),
    }
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    metrics = {"test/AP": 0.5, "test/AP/cat": 0.75, "test/AP/dog": 0.25}
    seen = Seen(split, "test", ("cat", "dog"), [nothing, found], tmp_path, metrics)
    side_by_side, by_class = BoxPage().parts(seen)
    assert [(p.name, *p.told) for p in side_by_side.pictures] == [
        ("1.png", "1 box missed, 2 found where none is"),
        ("0.png", "2 boxes missed, 0 found where none is"),
    ]
    assert by_class.tables[0].rows == [["dog", "25.0"], ["cat", "75.0"]]


def test_a_damaged_image_is_left_out(run, tmp_path):
    folder, root = run
    shutil.copytree(folder, tmp_path / "run")
    damaged = min((root / "test" / "three").iterdir())
    kept = damaged.read_bytes()
    damaged.write_bytes(kept[: len(kept) // 2])
    try:
        assert main(["report", f"run={tmp_path / 'run'}", "all=true"]) == 0
    finally:
        damaged.write_bytes(kept)
    page = (tmp_path / "run" / "page.html").read_text()
    assert "1 image cannot be read and is left out." in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    (matrix,) = (chart["content"] for chart in data["charts"] if chart["kind"] == "matrix")
    assert sum(matrix["sums"]) == 47
