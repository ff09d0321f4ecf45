"""`peftbench evaluate`: finished runs on new labelled images."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common import terminal
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing, doing_import
from peftbench.common.terminal import visible

if TYPE_CHECKING:
    from peftbench.tuned.evaluated_set import Asked


def write_evaluation(words: Words) -> int:
    """Evaluates the runs, prints the figures and says where the records are.

    Returns 1 where some of several runs could not be evaluated, which are told.

    Raises:
        UserError: the one run cannot be evaluated, or none of several.
    """
    from peftbench.tuned.run_folder import read_finished

    folders = _folders(words["run"])
    if len(folders) == 1:
        read_finished(folders[0], words["config_dir"])
    doing_import("torch")
    from peftbench.tuned.evaluated_set import Asked

    asked = Asked(
        words["images"],
        words["labels"],
        tuple(words.overrides),
        _listed(words["ood"]),
        words["temperature"],
        words["unknown"],
        words["seed"],
        words["config_dir"],
    )
    asked.check()
    if len(folders) == 1:
        _evaluate(folders[0], asked, words)
        return 0
    rows: list[_Judged] = []
    failed: list[tuple[Path, UserError]] = []
    for folder in folders:
        try:
            rows.append(_evaluate(folder, asked, words))
            print()
        except UserError as problem:
            failed.append((folder, problem))
            print(visible(f"{folder.name}: {problem}"), file=sys.stderr)
    if not rows:
        raise UserError(f"run={words['run']}: none of the {len(folders)} runs can be evaluated, as told above.")
    _print_table(rows)
    return 1 if failed else 0


def _folders(word: str) -> list[Path]:
    """The folders of the runs: one, several after commas, or all complete ones in a folder of runs.

    Raises:
        UserError: there is no complete run in a folder.
    """
    whole = Path(word).expanduser()
    parts = [whole] if whole.exists() else [Path(part).expanduser() for part in word.split(",") if part]
    folders = [folder for part in parts for folder in _runs_in(part)]
    return list(dict.fromkeys(folders))


def _runs_in(folder: Path) -> list[Path]:
    from peftbench.results import read_record
    from peftbench.results.record import FILE

    if (folder / FILE).exists() or not folder.is_dir():
        return [folder]
    inside = sorted(path.parent for path in folder.glob(f"*/{FILE}") if not path.parent.name.startswith("."))
    complete = []
    for run in inside:
        try:
            record = read_record(run)
        except UserError as problem:
            print(visible(f"{run.name}: {problem}"), file=sys.stderr)
            continue
        if record is not None and record.status == "complete":
            complete.append(run)
    if inside and not complete:
        raise UserError(f"run={folder}: none of its {len(inside)} runs is complete.")
    return complete or [folder]


def _listed(word: str) -> tuple[str, ...]:
    """The entries of a list, written with brackets or without."""
    return tuple(entry for part in word.strip("[]").split(",") if (entry := part.strip(" '\"")))


class _Judged(NamedTuple):
    """A run, its task, and the name, value and words of its main figure."""

    run: str
    task: str
    figure: str
    value: float | None
    words: str


def _evaluate(folder: Path, asked: Asked, words: Words) -> _Judged:
    """Prints an evaluation; returns its main figure. Raises UserError."""

    from peftbench.common.progress import counted
    from peftbench.tuned.evaluating import evaluated
    from peftbench.tuned.evaluation_words import lines_of, main_figure
    from peftbench.tuned.finished_run import open_run
    from peftbench.tuned.load import Tuned, choose_device, load

    doing(f"evaluating {folder.name}")
    run = open_run(folder, words["config_dir"])

    def loaded() -> Tuned:
        return load(run, merge=False, weights=words["weights"]).to(choose_device(words["device"]))

    with counted(terminal.console(stderr=True), "evaluating", True) as watch:
        evaluation = evaluated(run, asked, loaded, watch=watch)
    lines = lines_of(run, evaluation)
    for line in lines:
        print(visible(line))
    was_there = "this evaluation is there already: " if evaluation.was_there else ""
    print(f"{was_there}{evaluation.path}")
    name, value, interval = main_figure(run, evaluation)
    between = "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    shown = "–" if value is None else f"{100 * value:.1f} %{between}"
    return _Judged(folder.name, run.config.task.name, name, value, shown)


def _print_table(rows: Sequence[_Judged]) -> None:
    """The runs with their main figures, the best first; runs of one task and figure stand together, under its name."""
    width = max(len(row.run) for row in rows)
    groups = list(dict.fromkeys((row.task, row.figure) for row in rows))
    for task, figure in groups:
        if len(groups) > 1:
            print(f"task={task}, by {figure}:")
        here = [row for row in rows if (row.task, row.figure) == (task, figure)]
        for row in sorted(here, key=lambda row: -math.inf if row.value is None else row.value, reverse=True):
            print(visible(f"{row.run:{width}}  {row.figure} {row.words}"))


COMMAND = Command(
    "evaluate",
    "finished runs on new labelled images",
    write_evaluation,
    (
        Argument("run", "a finished run, several after commas, or a folder of runs", kind="run", needed=True),
        Argument("images", "class folders, or where the images of labels lie", kind="folder", shown=True),
        Argument(
            "labels", "a CSV of path and label, or COCO's JSON", kind="file", placeholder="FILE.csv|.json", shown=True
        ),
        Argument("ood", "corruptions to look at too, as in data.ood", default="", placeholder="noise:3,blur"),
        Argument("temperature", "fit one on the run's validation images", kind="flag", default=False),
        Argument("unknown", "labels that the run does not know", default="refuse", choices=("refuse", "skip")),
        Argument("seed", "of the bootstrap intervals", kind="whole number", default=0),
        Argument("device", "cpu, cuda, cuda:1, mps", default="auto", suggestions=("auto", "cpu", "cuda", "mps")),
        Argument("weights", "the backbone's weights, if they have moved", kind="file"),
        CONFIG_DIR,
    ),
    takes_overrides=True,
    described_overrides=("[data=…]",),
    overrides_help="and the keys of the data set, such as data.root=…",
    description="What its task is judged by, figures of each class and intervals, in a record beside the run's. The\n"
    "images are a folder's, or with data=… the test images of a data set. Classes are matched by name.",
    examples=(
        "peftbench evaluate run=outputs/RUN images=labelled",
        "peftbench evaluate run=outputs/RUN images=labelled unknown=skip",
        "peftbench evaluate run=outputs/RUN data=digits ood=noise:3,blur",
        "peftbench evaluate run=outputs/DETECTOR images=scenes labels=scenes.json",
    ),
)
