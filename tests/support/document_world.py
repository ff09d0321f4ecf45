"""The stand-ins among which the documents' commands are carried out: a home with photos, sets on disk, finished runs.

`make` builds them once; every command gets a working folder of its own from `settle`, so that none sees what another
left. Names in capitals (RUN, DIR) are the names of folders that are there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftbench.cli.main import main
from peftbench.common.vtab_tasks import TASKS
from support import standins
from support.datasets import write
from support.documents import EXAMPLES, write_files
from support.finished_runs import pictures
from support.forks import python
from support.places import CALTECH, ROOT
from support.vtab import noah

_RUN = ["backbone=resnet_nano", "data=digits", "data.size=32", "trainer.epochs=1", "trainer.max_batches=2"]
_COSTS = ["costs.price=2.5", "costs.watts=40"]
_QUIET = ["data.batch_size=16", "trainer.progress=false", "trainer.accelerator=cpu"]
RUNS = {
    "outputs/RUN": [*_RUN, "method=spt_lora", "method.batches=2", "method.budget=0.02", *_COSTS],
    "outputs/ANOTHER": [*_RUN, "method=spt_lora", "method.batches=2", "method.budget=0.02", "seed=1", *_COSTS],
    "outputs/PRUNED": [*_RUN, "method=petah"],
    "outputs/PROBE": ["data=vtab/cifar", *_RUN[:1], *_RUN[2:], "method=linear", "taps=off"],
    "outputs/DETECTOR": [
        *["method=linear", "backbone=resnet_nano", "data=digits_det", "data.images=[8,2,2]", "data.canvas=64"],
        *["data.batch_size=4", "trainer.epochs=1", "trainer.max_batches=2", "taps=off"],
    ],
    "more/outputs/RUN": [*_RUN, "method=bitfit"],
}
"""Folder -> the words of the run in it."""


def make(root: Path) -> Path:
    """The stand-ins below `root`: `home` and `work`, the folder that every working folder is a copy of."""
    make_sets(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTBENCH_DATA", str(root))
        for folder, words in RUNS.items():
            _finish(root / "work" / folder, words)
    _program(root / "programs" / "peftbench")
    return root


def make_sets(root: Path) -> Path:
    """The data of these alone, without finished runs."""
    work = root / "work"
    pictures(root / "home" / "photos", train=6, test=3)
    for number, word in enumerate(("zero", "one", "two", "three")):  # as data=digits calls them
        shutil.copytree(root / "home" / "photos" / "test" / word, work / "labelled" / str(number))
    for place in ("cat.jpg", "street.jpg", *(f"shots/{word}_{i}.jpg" for word in ("cat", "dog") for i in range(8))):
        write(work / place)
    _boxes(work / "DIR")
    for number in range(20):  # twenty of ImageNet-R's classes
        for i in range(6):
            write(root / "imagenet-r" / f"n{number:02}" / f"{i}.jpg")
    for domain, role in (("photo", "train"), ("sketch", "test")):
        shutil.copytree(root / "home" / "photos" / role, work / "domains" / domain)
    _coco_file(work / "scenes.json", work / "scenes", range(4), ["0", "1"])  # as data=digits_det calls them
    _voc(work / "VOCdevkit" / "VOC2007")
    for task in TASKS:
        noah(work / "DIR", task, task=task)
    for page in (ROOT / "CONTRIBUTING.md", *EXAMPLES):
        write_files(page, work)
    np.savez(work / "scans.npz", **arrays())
    standins.make_all(root / "sources")
    _coco(root / "coco")
    copy = ["source=folder", f"path={work / 'DIR'}", f"dir={root / 'vtab'}", *standins.WORDS]
    assert main(["data", "prepare", "vtab", *copy]) == 0
    return root


def settle(root: Path, folder: Path, *, tasks: bool) -> Path:
    """A working folder in `folder`, a copy; `tasks` says whether VTAB's tasks are there, prepared."""
    here = folder / "work"
    shutil.copytree(root / "work", here)
    (here / "data").mkdir()
    (here / "data" / "sources").symlink_to(root / "sources")
    (here / "data" / "coco").symlink_to(root / "coco")
    (here / "data" / "imagenet-r").symlink_to(root / "imagenet-r")
    if tasks:
        (here / "data" / "vtab").symlink_to(root / "vtab")
    if CALTECH.is_dir():
        (folder / "shared" / "data").mkdir(parents=True)
        (folder / "shared" / "data" / CALTECH.name).symlink_to(CALTECH)
    return here


def environment(root: Path, short: str = "") -> dict[str, str]:
    """That of a command: the stand-in home, `peftbench` on PATH, and the words that make it short."""
    path = os.pathsep.join([str(root / "programs"), str(Path(sys.executable).parent), os.environ["PATH"]])
    place = {"HOME": str(root / "home"), "PATH": path, "PYTHONPATH": str(ROOT / "src"), "SHORT": short}
    left_out = ("PEFTBENCH_DATA", "HYDRA_FULL_ERROR")
    inherited = {key: value for key, value in os.environ.items() if key not in left_out}
    return {**inherited, **place, "WANDB_MODE": "offline", "COLUMNS": "200"}


def arrays() -> dict[str, np.ndarray]:
    """Images and labels as an .npz file of MedMNIST's holds them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (16 * digits.images).clip(0, 255).astype(np.uint8), digits.target.reshape(-1, 1)
    ends = {"train": slice(0, 64), "val": slice(64, 84), "test": slice(84, 116)}
    return {f"{r}_{n}": a[at] for r, at in ends.items() for n, a in (("images", images), ("labels", labels))}


def _program(file: Path) -> None:
    """`peftbench`, with the words of $SHORT behind those that are typed."""
    file.parent.mkdir()
    found = f'PYTHONPATH="{ROOT / "src"}:$PYTHONPATH"'
    file.write_text(f'#!/bin/sh\n{found} exec "{python()}" -m peftbench "$@" $SHORT\n')
    file.chmod(0o755)


def _finish(place: Path, words: list[str]) -> None:
    made = place.parent / "made"
    assert main([*words, *_QUIET, f"output_dir={made}"]) == 0
    (record,) = made.glob("*/result.json")
    record.parent.rename(place)
    shutil.rmtree(made)


def _boxes(folder: Path) -> None:
    """`train.json` and `val.json` in COCO's format, with their images."""
    for number, name in enumerate(("train", "val")):
        _coco_file(folder / f"{name}.json", folder / "images" / name, range(4 * number, 4 * number + 4), ["cat", "dog"])


def _coco(root: Path) -> None:
    """COCO 2017 with four images a split, and all of its classes."""
    classes = [f"class {i}" for i in range(80)]
    for number, name in enumerate(("train", "val")):
        numbers = range(4 * number, 4 * number + 4)
        file = root / "annotations" / f"instances_{name}2017.json"
        _coco_file(file, root / f"{name}2017", numbers, classes)


def _coco_file(file: Path, images: Path, numbers: range, classes: list[str]) -> None:
    rng = np.random.default_rng(numbers.start)
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    for number in numbers:
        name = f"{number:012d}.png"
        images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(images / name)
        content["images"].append({"id": number, "file_name": name, "height": 48, "width": 64})
        box = {"id": number, "image_id": number, "category_id": number % 2 + 1, "bbox": [4, 4, 30, 24]}
        outline = [4, 4, 34, 4, 34, 28, 4, 28]
        content["annotations"].append({**box, "area": 720, "iscrowd": 0, "segmentation": [outline]})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _voc(root: Path) -> None:
    """Two images of Pascal VOC."""
    for number, name in enumerate(("dog", "cat")):
        box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>15</ymax></bndbox>"
        write(root / "JPEGImages" / f"{number}.jpg", np.full((20, 30, 3), 99 * number, dtype=np.uint8))
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>30</width><height>20</height></size>"
            f"<object><name>{name}</name><difficult>0</difficult>{box}</object></annotation>"
        )
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("1\n")
