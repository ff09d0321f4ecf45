"""`peftbench data check`: whether a task's folder holds what it should. Needs no torch."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.common.progress import Stages, unwatched
from peftbench.common.regular_files import content_of
from peftbench.common.vtab_tasks import TASKS, Task
from peftbench.data.base import hash_of_contents, hash_of_lines, image_line, stamp_of_bytes
from peftbench.data.decoding import UNNAMED, open_rgb
from peftbench.data.media import DAMAGED
from peftbench.data.vtab import list_files, provenance

# The roles whose hash a record has, by data.stage: see Splits.roles.
STAGES = {
    "fit": ("train", "val", "test"),
    "tune": ("train", "val", None),
    "final": ("trainval", None, "test"),
}
_TWINS = 0.02  # of the training images: how many may be in the test set too, where the source holds pictures twice


class Seen(NamedTuple):
    """An image file that was read: the hash of its bytes and that of its pixels, or why it cannot be read."""

    stamp: str
    pixels: str
    problem: str


@dataclass
class Report:
    """What verifying a task's folder gave.

    Attributes:
        task: the task's name, or None where the folder is of no known task.
        folder: the folder that was looked at.
        sizes: images by role.
        classes: classes with images, by role.
        split: the name of the split, where `split.json` says it.
        hashes: the hash of the split, by stage; empty where something cannot be read.
        problems: what is wrong, a sentence each.
        overlaps: pictures that are in two of train, val and test: wrong too, but the source may be so.
        notes: what is not wrong, but worth knowing.
    """

    task: str | None
    folder: Path
    sizes: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    split: str | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """All sentences about what is wrong."""
        return self.problems + self.overlaps


def verify_task_folder(
    folder: Path, task: str | None, watch: Stages = unwatched, sizes: tuple[int, int, int] | None = None
) -> Report:
    """Reads the lists and every image of a task's folder, and compares them with what the task should have.

    `sizes` are images of train, val and test, for a set that is smaller than VTAB-1k's.
    """
    report = Report(task, folder)
    table = TASKS.get(task or "")
    listed = _lists(report, table)
    try:
        made = provenance.read_provenance(folder)
    except UserError as problem:
        made = None
        report.problems.append(str(problem))
    report.split = made.split if made else None
    if made and task and made.task != task:
        report.problems.append(f"{provenance.FILE} says that this is {made.task}")
    report.sizes = {role: len(of.names) for role, of in listed.items()}
    smaller = sizes or (made.sizes if made and made.reduced else None)
    _sizes(report, table, smaller)
    _classes(report, listed, table, smaller)
    seen = _look(folder, listed, watch, f"checking {task or folder.name}")
    _damage(report, listed, seen)
    _same(report, listed, seen, table)
    if set(listed) == set(list_files.FILES) and not any(of.problems for of in listed.values()):
        _hash(report, listed, seen, made)
    return report


def _lists(report: Report, table: Task | None) -> dict[str, list_files.Listed]:
    listed = {}
    for role, file in list_files.FILES.items():
        try:
            listed[role] = list_files.read_list(report.folder, file, table.classes if table else None)
        except UserError as problem:
            report.problems.append(str(problem))
            continue
        wrong = listed[role].problems
        report.problems += wrong[:1]
        if len(wrong) > 1:
            report.problems.append(f"{file}: {len(wrong) - 1} more lines like that")
        again = [name for name, count in Counter(listed[role].names).items() if count > 1]
        if again:
            report.problems.append(f"{file}: {plural(len(again), 'image')} listed more than once, such as {again[0]}")
    return listed


def _sizes(report: Report, table: Task | None, smaller: tuple[int, int, int] | None) -> None:
    wanted: dict[str, tuple[int, ...]] = {"train": (800,), "val": (200,), "trainval": (1000,)}
    wanted |= {"test": table.test} if table else {}
    if smaller:
        train, val, test = smaller
        wanted = {"train": (train,), "val": (val,), "trainval": (train + val,), "test": (test,)}
        report.notes.append("a smaller set than VTAB-1k's")
    for role, sizes in wanted.items():
        if role in report.sizes and report.sizes[role] not in sizes:
            expected = " or ".join(f"{n:,}" for n in sizes)
            report.problems.append(
                f"{list_files.FILES[role]}: {plural(report.sizes[role], 'image')}, expected {expected}"
            )


def _classes(
    report: Report, listed: dict[str, list_files.Listed], table: Task | None, smaller: tuple[int, int, int] | None
) -> None:
    counts = {role: Counter(of.labels) for role, of in listed.items()}
    report.classes = {role: len(count) for role, count in counts.items()}
    if table is None or smaller:
        return
    whole = report.sizes.get("test") in table.test
    for role, count in counts.items():
        lacking = table.classes - len(count)
        if not lacking:
            continue
        have = agreeing(lacking, "has", "have")
        text = f"{list_files.FILES[role]}: {lacking} of the {table.classes} classes {have} no image"
        (report.problems if role == "test" and whole else report.notes).append(text)
    uneven = [c for c, n in counts.get("test", Counter()).items() if table.each and n != table.each]
    if whole and uneven:
        n = counts["test"][uneven[0]]
        report.problems.append(f"test.txt: class {uneven[0]} has {plural(n, 'image')}, expected {table.each} of each")


def _look(folder: Path, listed: dict[str, list_files.Listed], watch: Stages, title: str) -> dict[str, Seen]:
    """Every listed file, read and decoded once."""
    names = list(dict.fromkeys(name for of in listed.values() for name in of.names))
    seen: dict[str, Seen] = {}
    watch(title, 0, len(names))
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 1)) as pool:
        for name, image in zip(names, pool.map(lambda n: _read(folder / n), names), strict=True):
            seen[name] = image
            watch(title, len(seen), len(names))
    return seen


def _read(path: Path) -> Seen:
    try:
        content = content_of(path)
    except FileNotFoundError:
        return Seen("", "", "is missing")
    except OSError as problem:
        return Seen("", "", f"cannot be read ({problem.strerror})")
    if not content:
        return Seen("", "", "is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            plain = open_rgb(image)
            pixels = hashlib.blake2b(repr(plain.size).encode() + plain.tobytes(), digest_size=16).hexdigest()
    except UserError as problem:
        return Seen("", "", str(problem).removeprefix(f"{UNNAMED}: ").partition(";")[0])
    except DAMAGED as problem:
        text = str(problem).replace(str(path), "").split(" <_io")[0]
        return Seen("", "", f"is no whole image ({text})")
    return Seen(stamp_of_bytes(content), pixels, "")


def _damage(report: Report, listed: dict[str, list_files.Listed], seen: dict[str, Seen]) -> None:
    for role, of in listed.items():
        by_problem: dict[str, list[str]] = {}
        for name in dict.fromkeys(of.names):
            if problem := seen[name].problem:
                by_problem.setdefault(problem.partition(" (")[0], []).append(name)
        for names in by_problem.values():
            others = len(names) - 1
            rest = f"{plural(others, 'other')} of {list_files.FILES[role]}"
            more = f", and so {agreeing(others)} {rest}" if others else ""
            report.problems.append(f"{names[0]} {seen[names[0]].problem}{more}")


def _same(report: Report, listed: dict[str, list_files.Listed], seen: dict[str, Seen], table: Task | None) -> None:
    """Pictures that are in more than one of train, val and test, or twice in one; and whether trainval is both."""
    pictures: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for role, of in listed.items():
        for name, label in zip(of.names, of.labels, strict=True):
            if pixels := seen[name].pixels:
                pictures.setdefault(role, {}).setdefault(pixels, []).append((name, label))
    allowed = int(_TWINS * report.sizes.get("trainval", 0)) if table and table.twins else 0
    for role, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(pictures.get(role, {}).keys() & pictures.get(other, {}).keys())
        if not shared:
            continue
        first, second = pictures[role][shared[0]][0][0], pictures[other][shared[0]][0][0]
        pictures_are = f"{plural(len(shared), 'picture')} of {role} {agreeing(len(shared))}"
        text = f"{pictures_are} in {other} too, such as {first} = {second}"
        if len(shared) > allowed:
            report.overlaps.append(text)
        else:
            report.notes.append(f"{text} ({table.twins if table else ''})")
    for role in ("train", "val", "test"):
        twice = [names for names in pictures.get(role, {}).values() if len({n for n, _ in names}) > 1]
        if twice:
            torn = sum(len({label for _, label in names}) > 1 for names in twice)
            labels = f", {torn} of them under different labels" if torn else ""
            pair = " = ".join(name for name, _ in twice[0][:2])
            report.notes.append(f"{plural(len(twice), 'picture')} of {role} more than once{labels}, such as {pair}")
    if {"train", "val", "trainval"} <= set(listed):
        parts = _bag(pictures, "train") + _bag(pictures, "val")
        both = _bag(pictures, "trainval")
        lost, extra = sum((parts - both).values()), sum((both - parts).values())
        if lost or extra:
            train, val, union = (list_files.FILES[role] for role in ("train", "val", "trainval"))
            report.problems.append(
                f"{union} is not {train} and {val} together: "
                f"it lacks {plural(lost, 'image')} of theirs and has {extra} others"
            )


def _bag(pictures: dict[str, dict[str, list[tuple[str, int]]]], role: str) -> Counter[tuple[str, int]]:
    """How often each picture has each label."""
    return Counter((pixels, label) for pixels, names in pictures.get(role, {}).items() for _, label in names)


def _hash(
    report: Report,
    listed: dict[str, list_files.Listed],
    seen: dict[str, Seen],
    made: provenance.Provenance | None,
) -> None:
    if any(image.problem for image in seen.values()):
        return
    stamps = {name: image.stamp for name, image in seen.items()}
    contents = {role: hash_of_rows(of.names, of.labels, stamps) for role, of in listed.items()}
    report.hashes = {stage: stage_hash(contents, stage) for stage in STAGES}
    if made and made.hash != report.hashes["final"]:
        report.problems.append(f"lists or images are not as they were when the task was prepared ({provenance.FILE})")


def compare_labels(report: Report, other: Path) -> None:
    """Adds to the report whether another copy's lists have the same labels equally often, as equal images would have.

    Raises:
        UserError: the other copy has no such lists.
    """
    for file in list_files.FILES.values():
        ours, theirs = (Counter(list_files.read_list(folder, file, None).labels) for folder in (report.folder, other))
        if ours != theirs:
            apart = sum(((ours - theirs) + (theirs - ours)).values())
            report.problems.append(
                f"{file}: its labels are not those of {other} ({apart:,} apart), so it is another split"
            )
    if not any("so it is another split" in p for p in report.problems):
        report.notes.append(f"the labels of each list are those of {other}")


def hash_of_rows(names: Sequence[str], labels: Iterable[int], stamps: dict[str, str]) -> str:
    """`Split.content` of a list of images, from the hashes of their bytes."""
    return hash_of_lines([image_line(name, label, stamps[name]) for name, label in zip(names, labels, strict=True)])


def stage_hash(contents: dict[str, str], stage: str) -> str:
    """The hash that records of runs with this data.stage have, from `Split.content` of each role."""
    return hash_of_contents(role and contents[role] for role in STAGES[stage])
