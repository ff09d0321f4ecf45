"""Prepared tasks of VTAB-1k, copies as others made them, and what can be wrong with one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from peftbench.common.vtab_tasks import TASKS
from peftbench.data.prepare.sources import SOURCES
from support.standins import SIZES, noise, picture

Cli = Callable[..., tuple[int, str, str]]


def rows(folder: Path, file: str) -> list[tuple[Path, int]]:
    lines = (line.rsplit(" ", 1) for line in (folder / file).read_text().splitlines())
    return [(folder / name, int(label)) for name, label in lines]


def everything(folder: Path) -> list[tuple[Path, int]]:
    return rows(folder, "train800val200.txt") + rows(folder, "test.txt")


def one_line(told: tuple[int, str, str], *parts: str, status: int = 2) -> None:
    """The command failed with one sentence on stderr that has these parts."""
    assert told[0] == status, told
    assert told[2].count("\n") == 1
    assert told[2].startswith("peftbench: ")
    for part in parts:
        assert part in told[2]


def found(archives: Path, source: str, task: str) -> tuple[dict, object]:
    """The entries that a reader finds, by split, and the reader."""
    import importlib

    from peftbench.data.prepare.source_files import SourceFiles

    module = importlib.import_module(f"peftbench.data.prepare.readers.{SOURCES[source].reader}")
    reader = module.Reader(SourceFiles(source, SOURCES[source], archives), task)
    return reader.splits(), reader


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noah(root: Path, name: str, sizes: tuple[int, int, int] = SIZES, task: str = "eurosat") -> Path:
    """A task in NOAH's layout: jpg files numbered from 0 in each split."""
    folder = root / name
    contents: dict[str, list[tuple[bytes, int]]] = {}
    classes = TASKS[task].classes
    for split, size in zip(("train800", "val200", "test"), sizes, strict=True):
        contents[split] = [(picture(pixels=noise(8, 8)), i % classes) for i in range(size)]
    contents["train800val200"] = contents["train800"] + contents["val200"]
    for split, images in contents.items():
        (folder / "images" / split).mkdir(parents=True)
        for i, (content, _) in enumerate(images):
            (folder / f"images/{split}/{i:06d}.jpg").write_bytes(content)
        lines = "".join(f"images/{split}/{i:06d}.jpg {label}\n" for i, (_, label) in enumerate(images))
        (folder / f"{split}.txt").write_text(lines)
    return folder


def no_label(folder: Path) -> None:
    path = folder / "train800.txt"
    path.write_text(re.sub(r"000003.jpg \d+", "000003.jpg", path.read_text()))


def one_line_less(folder: Path) -> None:
    path = folder / "train800val200.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def beyond(folder: Path) -> None:
    path = folder / "test.txt"
    path.write_text(re.sub(r"000003.jpg \d+", "000003.jpg 10", path.read_text()))


DAMAGE = {
    "a line without a label": (no_label, ["train800.txt:4", "<path> <label>"]),
    "a line less": (one_line_less, ["train800val200.txt", "19 images, expected 20"]),
    "a label beyond the classes": (beyond, ["test.txt:4", "label 10", "0 to 9"]),
    "a missing image": (lambda f: (f / "images/test/000002.jpg").unlink(), ["images/test/000002.jpg is missing"]),
    "an empty image": (lambda f: (f / "images/test/000002.jpg").write_bytes(b""), ["images/test/000002.jpg is empty"]),
    "a truncated image": (lambda f: truncated(f / "images/test/000002.jpg"), ["test/000002.jpg is no whole image"]),
    "a text": (lambda f: (f / "images/test/000002.jpg").write_text("x"), ["test/000002.jpg is no whole image"]),
    "a missing list": (lambda f: (f / "val200.txt").unlink(), ["val200.txt", "is missing"]),
    "an image of train in test": (
        lambda f: shutil.copy(f / "images/train800/000001.jpg", f / "images/test/000002.jpg"),
        ["1 picture of train is in test too", "images/train800/000001.jpg = images/test/000002.jpg"],
    ),
    "an image of val in train": (
        lambda f: shutil.copy(f / "images/val200/000001.jpg", f / "images/train800/000002.jpg"),
        ["1 picture of train is in val too"],
    ),
    "another union": (
        lambda f: shutil.copy(f / "images/test/000001.jpg", f / "images/train800val200/000002.jpg"),
        ["train800val200.txt is not train800.txt and val200.txt together"],
    ),
    "an image listed twice": (
        lambda f: (f / "test.txt").write_text((f / "test.txt").read_text().replace("000001", "000002")),
        ["1 image listed more than once"],
    ),
    "a list that is no text": (lambda f: (f / "test.txt").write_bytes(b"\xff\xfe\x80"), ["test.txt", "no text"]),
}
