"""What earlier records change of the order in which `auto` tries things, and what they never do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peftbench.answering.prior import read_prior
from peftbench.config.compose import compose
from peftbench.results.earlier_runs import Prior
from support.datasets import write

OURS = "a" * 64
NAMES = ["hybrid_nano", "vit_nano", "resnet_nano", "fastvit_t8"]


@pytest.fixture(scope="module")
def template(finished: Path) -> dict[str, Any]:
    """The record of a real run."""
    (path,) = finished.glob("*/result.json")
    return json.loads(path.read_text(encoding="utf-8"))


class Records:
    """Writes records like a real one, of other data, backbones and figures."""

    def __init__(self, folder: Path, template: dict[str, Any]) -> None:
        self.folder, self.template = folder, template

    def add(self, backbone: str, val: float, root: str, hash_: str, *, test: float = 0.0, train: int = 100) -> None:
        record = copy.deepcopy(self.template)
        record["id"] = f"{backbone}-{hash_[:6]}"
        record["config"]["choices"]["backbone"] = backbone
        record["config"]["data"] |= {"name": "folder", "path": "peftbench.data.folder.Folder"}
        record["config"]["data"]["options"] = {"root": root}
        record["stamps"]["data"] |= {"hash": hash_, "images": {"train": train, "val": 50, "test": 50}, "classes": 3}
        record["metrics"] = {"val/accuracy": val, "test/accuracy": test}
        write_record(self.folder / record["id"], record)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")


def heard(folder: Path, root: str = "/photos/mine") -> Prior:
    config = compose("data=folder", f"data.root={root}", "method=linear", "backbone=resnet_nano")
    return read_prior(config, folder, 100, 3, frozenset([OURS]), minutes=5)


def test_what_did_better_on_other_images_is_tried_first_and_the_unknown_keep_their_places(tmp_path, template):
    records = Records(tmp_path, template)
    for backbone, val, test in (("hybrid_nano", 0.6, 0.99), ("resnet_nano", 0.9, 0.1)):
        records.add(backbone, val, "/photos/birds", "b" * 64, test=test)
    prior = heard(tmp_path)
    assert prior.ordered(NAMES, "backbone") == ["resnet_nano", "vit_nano", "hybrid_nano", "fastvit_t8"]
    assert "2 earlier runs on 1 other data set" in prior.says


@pytest.mark.parametrize(
    ("root", "hash_"),
    [
        ("/photos/mine", "b" * 64),
        ("/photos", "b" * 64),
        ("/photos/mine/part", "b" * 64),
        ("/copied", OURS),
    ],
)
def test_records_that_may_share_images_are_not_heard(root, hash_, tmp_path, template):
    records = Records(tmp_path, template)
    records.add("hybrid_nano", 0.1, root, hash_)
    records.add("resnet_nano", 0.9, root, hash_)
    prior = heard(tmp_path)
    assert prior.seen == ()
    assert prior.ordered(NAMES, "backbone") == NAMES
    assert "2 not heard, since they may share images" in prior.says


def test_nearer_data_sets_count_more_and_damaged_records_end_nothing(tmp_path, template):
    records = Records(tmp_path, template)
    for backbone, near, far in (("hybrid_nano", 0.5, 0.9), ("resnet_nano", 0.7, 0.2)):
        records.add(backbone, near, "/photos/birds", "b" * 64)
        records.add(backbone, far, "/photos/stars", "c" * 64, train=1_000_000)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{", encoding="utf-8")
    prior = heard(tmp_path)
    assert prior.ordered(NAMES, "backbone")[0] == "resnet_nano"
    assert "1 could not be read" in prior.says


def test_records_of_another_task_or_without_a_validation_figure_are_not_heard(tmp_path, template):
    other = copy.deepcopy(template)
    other["config"]["task"]["name"] = "detection"
    write_record(tmp_path / "other", other)
    Records(tmp_path, template).add("resnet_nano", 0.9, "/photos/birds", "b" * 64)
    path = next(tmp_path.glob("resnet_nano-*")) / "result.json"
    untuned = json.loads(path.read_text(encoding="utf-8"))
    untuned["metrics"] = {"test/accuracy": 0.9}
    path.write_text(json.dumps(untuned), encoding="utf-8")
    assert heard(tmp_path).seen == ()


@pytest.mark.slow
@pytest.mark.parametrize("off", [False, True])
def test_auto_says_what_earlier_records_changed_unless_there_is_no_prior(off, tmp_path, template, cli):
    rng = np.random.default_rng(0)
    for name, level in {"dark": 40, "light": 200}.items():
        for number in range(8):
            pixels = level + rng.integers(-30, 30, (16, 16, 3))
            write(tmp_path / "photos" / name / f"{number}.png", pixels.astype(np.uint8))
    records = Records(tmp_path / "out", template)
    records.add("vit_nano", 0.2, "/elsewhere", "b" * 64)
    records.add("resnet_nano", 0.9, "/elsewhere", "b" * 64)
    asked = ["auto", "data=folder", f"data.root={tmp_path / 'photos'}", "data.size=32", "methods=[ridge]"]
    status, out, error = cli(
        *asked, "minutes=0.001", f"output_dir={tmp_path / 'out'}", *(["prior=none"] if off else [])
    )
    assert status == 0, error
    (folder,) = (tmp_path / "out").glob("auto-*")
    said = [
        one["says"] for one in json.loads((folder / "auto.json").read_text())["decisions"] if one["step"] == "prior"
    ]
    page = (folder / "page.html").read_text(encoding="utf-8")
    if off:
        assert said == ["none, as asked; the order is that of the list"]
        assert "prior=none" in out
    else:
        assert said[0].startswith("2 earlier runs on 1 other data set")
        assert "resnet_nano" in said[1]
        assert said[1] in page
    assert said[0] in page
