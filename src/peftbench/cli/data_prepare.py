"""`peftbench data prepare`: the tasks of VTAB-1k, made from their sources or adopted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.cli.data_folders import DIR, TASK_WORDS, data_folder, find_task, folder_of_tasks
from peftbench.common import terminal
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing
from peftbench.common.vtab_tasks import TASKS, canonical

if TYPE_CHECKING:
    from peftbench.data.vtab.provenance import Provenance

_NEEDLESS = {"folder": ("archives", "mirror", "split"), "original": ("path",)}
_ROLES = ("train", "val", "test")


def prepare_tasks(words: Words) -> int:
    """Makes what is not there yet, a line each; returns 1 where a task could not be prepared. Raises UserError."""
    doing("looking at what is there")

    from peftbench.common.progress import watching

    tasks = list(dict.fromkeys(task for word in words["tasks"] for task in _tasks_named(word)))
    _refuse_needless(words)
    sizes = _sizes(words)
    console = terminal.console(
        soft_wrap=True, highlight=False, markup=False
    )  # which prints beside its bar, a line a task
    root = folder_of_tasks(words["dir"])
    failed: list[str] = []
    with watching(console) as watch:
        for task in tasks:
            if there := find_task(root, task):
                console.print(
                    f"there  {task}: {there} is kept as it is; peftbench data check vtab/{task} looks into it"
                )
                continue
            try:
                console.print(_prepare_task(task, root / task, words, sizes, watch))
            except UserError as problem:
                if len(tasks) == 1:
                    raise
                failed.append(task)
                console.print(f"failed {task}: {str(problem).removeprefix(f'{task}: ')}")
    if failed:
        console.print(f"{len(failed)} of {plural(len(tasks), 'task')} could not be prepared: {', '.join(failed)}")
    return 1 if failed else 0


def _tasks_named(word: str) -> tuple[str, ...]:
    """The tasks that `vtab` or `vtab/<task>` names. Raises UserError."""
    return tuple(TASKS) if word == "vtab" else (canonical(word),)


def _refuse_needless(words: Words) -> None:
    source = words["source"]
    if source == "folder" and not words["path"]:
        raise UserError("source=folder: give path=<the folder of the tasks, or of one>.")
    for key in _NEEDLESS[source]:
        if words[key] is not None:
            raise UserError(f"{key}={words[key]}: has no meaning with source={source}; leave it out.")


def _sizes(words: Words) -> tuple[int, int, int] | None:
    """Images of train, val and test for a smaller set, or None. Raises UserError."""
    train, val, test = (words[role] for role in _ROLES)
    if train is None and val is None and test is None:
        return None
    if not (train and val and test) or min(train, val, test) < 1:
        written = " ".join(f"{role}={words[role]}" for role in _ROLES if role in words.written)
        raise UserError(f"{written}: a smaller set needs all three of train=N val=N test=N, numbers above 0.")
    return train, val, test


def _prepare_task(task: str, target: Path, words: Words, sizes: tuple[int, int, int] | None, watch: Any) -> str:
    """Makes one task and returns the line about it. Raises UserError."""
    from peftbench.data.prepare.adopt import adopt_task
    from peftbench.data.prepare.original import Wanted, prepare_task

    notes: list[str] = []
    if words["source"] == "folder":
        made, notes = adopt_task(task, Path(words["path"]).expanduser(), target, sizes, watch)
    else:
        archives = Path(words["archives"] or data_folder() / "sources").expanduser()
        made = prepare_task(task, target, Wanted(archives, words["split"], sizes, words["mirror"]), watch)
    return "; ".join([_made(task, target, made), *(f"note: {note}" for note in notes)])


def _made(task: str, folder: Path, made: Provenance) -> str:
    sizes = " + ".join(f"{n:,}" for n in made.sizes)
    return f"made   {task}: {folder}, {sizes} images (train, val, test), split {made.split}, hash {made.hash}"


COMMAND = Command(
    "data prepare",
    "makes the tasks of VTAB-1k on disk, from their sources or a copy",
    prepare_tasks,
    (
        Argument(
            "tasks",
            "all tasks, or some",
            suggestions=TASK_WORDS,
            placeholder="vtab|vtab/<task>",
            place=True,
            several=True,
            needed=True,
        ),
        Argument(
            "source",
            "the original files, or a folder that others made",
            default="original",
            choices=("original", "folder"),
        ),
        Argument("path", "with source=folder: the folder of the tasks, or of one", kind="folder"),
        DIR,
        Argument("archives", "where the original files lie or go; by default sources beside vtab", kind="folder"),
        Argument("mirror", "another place to fetch them from", placeholder="URL"),
        Argument(
            "split", "which split; by default the first that the source allows", choices=("tfds-order", "peftbench-v1")
        ),
        *(Argument(role, f"{role} images of a smaller set; needs all three", kind="whole number") for role in _ROLES),
    ),
    expected="vtab or vtab/<task>",
    examples=(
        "peftbench data prepare vtab/svhn",
        "peftbench data prepare vtab source=folder path=DIR",
    ),
)
