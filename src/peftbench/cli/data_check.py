"""`peftbench data check`: whether tasks on disk are whole, and what they should be; or any data set, with `data=`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.cli.data_check_set import check_set
from peftbench.cli.data_folders import DIR, TASK_WORDS, find_task, folder_of_tasks
from peftbench.common import terminal
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError, nearest
from peftbench.common.other_words import OPTIONS
from peftbench.common.status_line import doing
from peftbench.common.vtab_tasks import ALIASES, TASKS, canonical

if TYPE_CHECKING:
    from peftbench.data.vtab.verify import Report

_Target = tuple[str, Path | None, str | None]  # its name, its folder if it is there, its task if it is known


def check_tasks(words: Words) -> int:
    """Prints a line for each task, or what is found in a data set; 1 where something is wrong. Raises UserError."""
    targets, overrides = words["targets"], words.overrides
    if overrides:
        if targets:
            raise COMMAND.refusal(targets[0], "is a task or a folder, and data=… names a data set; give one of the two")
        if not any(word.partition("=")[0] == "data" for word in overrides):
            hint = nearest(overrides[0].partition("=")[0], [argument.name for argument in COMMAND.arguments], OPTIONS)
            raise COMMAND.refusal(overrides[0], f"there is no such option{hint}, and no data=… that it may belong to")
        return check_set(words, overrides, COMMAND)
    doing("looking at what is there")

    from peftbench.common.progress import watching
    from peftbench.data.vtab.dataset import find_task_folder
    from peftbench.data.vtab.verify import compare_labels, verify_task_folder

    console = terminal.console(
        soft_wrap=True, highlight=False, markup=False
    )  # which prints beside its bar, a line a task
    like = Path(words["like"]).expanduser() if words["like"] else None
    root = folder_of_tasks(words["dir"])
    good = True
    with watching(console) as watch:
        for name, folder, task in _targets(targets, root):
            if folder is None:
                console.print(f"wrong  {name}: is not in {root}; peftbench data prepare vtab/{name} makes it")
                good = False
                continue
            report = verify_task_folder(folder, task, watch)
            if like:
                compare_labels(report, find_task_folder(like, task or "") or like)
            console.print(_described(name, report, words["stage"]))
            good = good and not report.wrong
    return 0 if good else 1


def _targets(words: list[str], root: Path) -> list[_Target]:
    """What is to be checked; a task that is not there has no folder. Raises UserError."""
    targets: list[_Target] = []
    for word in words or [""]:
        if word in ("", "vtab"):
            every: list[_Target] = [(task, find_task(root, task), task) for task in TASKS]
            there = [target for target in every if target[1]]
            if not there:
                raise UserError(
                    f"{root}: holds no task of VTAB-1k; peftbench data prepare makes them, dir=… is elsewhere."
                )
            targets += every if word else there
        elif word.removeprefix("vtab/") in (*TASKS, *ALIASES) and not _is_path(word):
            targets.append((canonical(word), find_task(root, canonical(word)), canonical(word)))
        elif Path(word).expanduser().is_dir():
            targets += _inside(Path(word).expanduser())
        elif _is_path(word):
            raise UserError(f"{word}: there is no such folder.")
        else:
            canonical(word)
    return targets


def _is_path(word: str) -> bool:
    return word.startswith((".", "/", "~")) or (os.sep in word and not word.startswith("vtab/"))


def _inside(folder: Path) -> list[_Target]:
    if any((folder / name).is_file() for name in ("train800.txt", "train800val200.txt", "test.txt")):
        task = _called(folder.resolve().name)
        return [(task or folder.name or str(folder), folder, task)]
    there = [(task, find_task(folder, task), task) for task in TASKS]
    inside: list[_Target] = [t for t in there if t[1]]
    if not inside:
        raise UserError(f"{folder}: holds neither a task's lists (train800.txt, …) nor folders of tasks.")
    return inside


def _called(name: str) -> str | None:
    """The task that a folder's name begins with: `caltech101-mine` is one of caltech101."""
    for word in sorted((*TASKS, *ALIASES), key=len, reverse=True):
        rest = name.removeprefix(word)
        if name.startswith(word) and not rest[:1].isalnum() and rest[:1] != "_":
            return canonical(word)
    return None


def _described(name: str, report: Report, stage: str) -> str:
    facts = []
    for role, count in report.sizes.items():
        classes = report.classes.get(role, 0)
        facts.append(f"{role} {count:,} ({plural(classes, 'class')})")
    facts.append(f"split {report.split}" if report.split else "split as found")
    if report.hashes:
        facts.append(f"hash {report.hashes[stage]}")
    word = "wrong" if report.wrong else "ok   "
    task = f" as {report.task}" if report.task and name != report.task else ""
    parts = [f"{word}  {name}{task}: {', '.join(facts)}"]
    parts += [p.rstrip(".") for p in report.wrong]
    parts += [f"note: {n}" for n in report.notes]
    return "; ".join(parts)


COMMAND = Command(
    "data check",
    "counts, classes, damage, overlap of train and test, hashes",
    check_tasks,
    (
        Argument(
            "targets",
            "tasks, or folders of tasks; all that are there if none is given",
            kind="folder",
            suggestions=TASK_WORDS,
            placeholder="vtab|vtab/<task>|FOLDER",
            place=True,
            several=True,
        ),
        DIR,
        Argument("stage", "the stage whose hash is shown", default="final", choices=("fit", "tune", "final")),
        Argument("like", "a folder to compare with", kind="folder"),
        Argument("out", "a folder for a page and tables of what is found with data=…", kind="folder"),
        Argument("force", "replace what is there", kind="flag", default=False),
    ),
    takes_overrides=True,
    described_overrides=("data=…", "backbone=…"),
    overrides_help="and the keys of the data set, such as data.root=…, and of the backbone",
    description="With data=… the images and labels of any data set: near-duplicates across splits, classes that are\n"
    "missing, files that cannot be read, imbalance; with backbone=… too, the labels that a probe doubts most.",
    examples=(
        "peftbench data check vtab",
        "peftbench data check vtab/cifar like=DIR",
        "peftbench data check data=photos",
        "peftbench data check data=folder data.root=~/photos out=checked",
    ),
)
