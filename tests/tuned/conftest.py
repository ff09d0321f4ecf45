"""A small finished classifier, and labelled images to evaluate it on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from support.finished_runs import finish, pictures

OPTIONS = ["data.ood=[noise:3]", "data.augment=rrc", "data.tta=flip", "data.resize=pad"]


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the run's folder, the folder of its images, which are no squares).

    It trained on random cuts, and was tested on images with noise too, with mirror images, at their own shape.
    """
    data = pictures(tmp_path_factory.mktemp("images"))
    for file in data.glob("*/*/*.png"):
        Image.open(file).crop((1, 0, 7, 8)).save(file)
    for file in sorted((data / "train").glob("*/*.png"))[::4]:
        (data / "val" / file.parent.name).mkdir(parents=True, exist_ok=True)
        turned = Image.open(file).rotate(8, fillcolor=0)
        turned.save(data / "val" / file.parent.name / file.name)
    record = finish(tmp_path_factory.mktemp("out"), data, "linear", "vit_nano", *OPTIONS)
    return Path(record.folder), data


@pytest.fixture
def run(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """(a copy of the run's folder, a copy of its test images as new ones)."""
    folder, new = tmp_path / "runs" / trained[0].name, tmp_path / "new"
    shutil.copytree(trained[0], folder)
    shutil.copytree(trained[1] / "test", new)
    return folder, new
