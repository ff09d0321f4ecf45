"""`peftbench predict`: a table of what a tuned model says of images, and what else its task writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Kind, Words
from peftbench.common import terminal
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing, doing_import
from peftbench.common.task_lookup import shipped_tasks
from peftbench.common.terminal import Visible


def write_predictions(words: Words) -> int:
    """Writes what a tuned model says of each image to `out`, or to the standard output.

    Raises:
        UserError: no image can be read, a file is in the way, or there is no finished run.
    """
    into = _folder(words["out"])
    out = None if into else _table_file(words["out"], words["force"])
    _check_task_options(words)

    from peftbench.tuned.items import find_items
    from peftbench.tuned.run_folder import read_finished

    folder, record, config = read_finished(words["run"], words["config_dir"])
    options = _options_of_task(words, config.task)
    if into:
        _refuse_folder(into, config.task)
    of_clips = record.stamps["data"].get("frames") is not None
    skipped = Skipped()
    doing("looking for images")
    items = find_items(words["images"], of_clips, skipped.add)
    if not items:
        raise _nothing_to_predict(words["images"], skipped, of_clips)
    doing_import("torch")
    from peftbench.tasks.base import task_class
    from peftbench.tuned.finished_run import open_run
    from peftbench.tuned.load import choose_device, load

    doing(f"opening {folder.name}")
    run = open_run(words["run"], words["config_dir"])
    if (run.frames is not None) != of_clips:
        raise UserError(f"{folder}: its record and its delta do not agree on whether it is of clips.")
    device = choose_device(words["device"])
    predictor = task_class(run.config.task).predictor(options, words["images"], items, words["force"])
    if into:
        predictor.take_folder(into, words["images"], words["force"])
    doing("building the model")
    # Unmerged, in the run's own precision: what the record's accuracy is of.
    tuned = load(run, merge=False, weights=words["weights"], adapter=words["adapter"]).to(device)
    if into:
        count = _write_files(tuned, predictor, skipped, words["images"])
    else:
        count = _write_table(tuned, predictor, out, skipped, words["images"])
    written = [str(path) for path in (out, *predictor.written) if path]
    if written or skipped.files:
        what = plural(count, "clip" if run.frames else "image")
        skips = f", {skipped.counted} skipped" if skipped.files else ""
        places = f": {', '.join(written)}" if written else ""
        skipped.tell(f"{what}{skips}{places}")
    return 0


class Skipped:
    """The files that are left out, each told as it comes."""

    def __init__(self) -> None:

        self.console = terminal.console(stderr=True)
        self.files: list[tuple[Path, str]] = []

    def add(self, path: Path, why: str) -> None:
        """Notes a file, and tells of it."""
        self.files.append((path, why))
        self.tell(f"skipped {path}: {why}")

    def tell(self, text: str) -> None:
        """Prints a line beside the table."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def counted(self) -> str:
        """How many there are, in words."""
        return f"{len(self.files)} file{'' if len(self.files) == 1 else 's'}"


def _write_files(tuned: Any, predictor: Any, skipped: Skipped, images: str) -> int:
    """Has a file written for each image; returns the number of images. Raises UserError where there are none."""
    from peftbench.common.progress import counted

    with counted(skipped.console, "predicting", True) as watch:
        count = sum(1 for _ in predictor.predictions(tuned, skipped.add, watch))
    if not count:
        raise _nothing_to_predict(images, skipped, tuned.run.frames is not None)
    return count


def _write_table(tuned: Any, predictor: Any, out: Path | None, skipped: Skipped, images: str) -> int:
    """Writes the table; returns the number of its images. Raises UserError where there are none."""
    from peftbench.common.progress import counted

    count = 0

    def counting(predictions: Iterable[Any]) -> Iterator[Any]:
        nonlocal count
        for prediction in predictions:
            count += 1
            yield prediction
        if not count:
            raise _nothing_to_predict(images, skipped, tuned.run.frames is not None)

    shows_bar = out is not None or not sys.stdout.isatty()  # else the rows themselves are what moves
    with counted(skipped.console, "predicting", shows_bar) as watch, _opened(out) as file:
        predictions = counting(predictor.predictions(tuned, skipped.add, watch))
        if out is not None and out.suffix.lower() == ".json":
            predictor.write_json(file, tuned, predictions, skipped.files)
        else:
            predictor.write_csv(file, tuned, predictions)
    return count


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str]]:
    """The file of the table, which appears when it is whole, or the standard output."""
    if out is None:
        yield Visible(sys.stdout)  # type: ignore[misc]
        return
    from peftbench.common.atomic_files import replacing
    from peftbench.common.readable_names import HANDLER

    with replacing(out) as part, part.open("w", encoding="utf-8", newline="", errors=HANDLER) as file:
        yield file


def _folder(word: str | None) -> str:
    """The folder that `out` names: one that is there, or a name without a suffix; empty where it names a file."""
    if word is None or (Path(word).suffix and not word.endswith("/") and not Path(word).expanduser().is_dir()):
        return ""
    return word


def _refuse_folder(word: str, task: Any) -> None:
    """Raises UserError where runs of this task write no file for each image."""
    from peftbench.config import task_schema

    if not task_schema({"name": task.name, "path": task.path}).into_folder:
        raise UserError(f"out={word}: expected a name that ends in .csv or .json.")
    if Path(word).expanduser().is_file():
        raise UserError(
            f"out={word}: is a file; expected a folder for the masks, or a name that ends in .csv or .json."
        )


def _table_file(word: str | None, force: bool) -> Path | None:
    """The file of the table, None for the standard output. Raises UserError: its kind, or that it is in the way."""
    if word is None:
        return None
    out = Path(word).expanduser()
    if out.suffix.lower() not in (".csv", ".json"):
        raise UserError(
            f"out={out}: expected a name that ends in .csv or .json, or for masks a folder, which needs no suffix "
            f"where it ends in /."
        )
    if out.exists() and not force:
        raise UserError(f"out={out}: exists already; give another name, or force=true.")
    return out


def _nothing_to_predict(images: str, skipped: Skipped, of_clips: bool) -> UserError:
    from peftbench.data.media import IMAGES, VIDEOS

    what, suffixes = ("clip", VIDEOS) if of_clips else ("image", IMAGES)
    more = ", or folders of frames" if of_clips else ""
    if skipped.files:
        verb = "was" if len(skipped.files) == 1 else "were"
        return UserError(f"images={images}: no {what} is left; {skipped.counted} {verb} skipped, as told above.")
    return UserError(
        f"images={images}: holds no {what}; expected files of the types {' '.join(sorted(suffixes))}{more}."
    )


def _check_task_options(words: Words) -> None:
    """Refuses what the words alone show to be wrong, whatever the run's task is. Raises UserError."""
    from peftbench.config import task_schema

    for task in shipped_tasks():
        schema = task_schema({"name": task})
        schema.check_predicts({name: words[name] for name in schema.predicts})


def _options_of_task(words: Words, task: Any) -> dict[str, Any]:
    """The options that are of the run's task alone. Raises UserError for one of another task."""
    from peftbench.config import task_schema

    options = task_schema({"name": task.name, "path": task.path}).predicts
    for argument in _task_arguments():
        if argument.name in words.written and argument.name not in options:
            raise UserError(f"{words.written[argument.name]}: is not for a run of task={task.name}; leave it out.")
    return {name: words[name] if name in words.written else option.default for name, option in options.items()}


_KINDS: dict[type, Kind] = {bool: "flag", int: "whole number", float: "number", str: "text"}


@cache
def _task_arguments() -> tuple[Argument, ...]:
    """The options that are a task's alone, of every task that is shipped."""
    from peftbench.config import task_schema

    arguments: dict[str, Argument] = {}
    for task in shipped_tasks():
        for name, option in task_schema({"name": task}).predicts.items():
            kind = _KINDS.get(type(option.default), "folder")
            help_text = f"{option.help}, for task={task}"
            arguments.setdefault(name, Argument(name, help_text, kind=kind, default=option.default))
    return tuple(arguments.values())


COMMAND = Command(
    "predict",
    "a table of what a tuned model says of images",
    write_predictions,
    (
        Argument("run", "the folder of a finished run", kind="run", needed=True),
        Argument("images", "what to predict", kind="file", placeholder="FILE|FOLDER|GLOB", needed=True),
        Argument(
            "out",
            "the file of the table, or a folder for masks",
            kind="file",
            placeholder="FILE.csv|.json|FOLDER",
            shown=True,
        ),
        Argument("device", "cpu, cuda, cuda:1, mps", default="auto", suggestions=("auto", "cpu", "cuda", "mps")),
        Argument("weights", "the backbone's weights, if they have moved", kind="file"),
        Argument("adapter", "a folder of HF PEFT, in the place of the delta", kind="folder"),
        Argument("force", "replace what is there", kind="flag", default=False),
        CONFIG_DIR,
    ),
    description="A row for each image; for a detector a row for each box. The table goes to the standard output if out "
    "is not given.\nMasks go into a folder, each of its image's size.",
    late_arguments=_task_arguments,
    examples=(
        "peftbench predict run=outputs/RUN images=~/photos out=labels.csv",
        "peftbench predict run=outputs/RUN images='shots/*.jpg' --top-k=1",
    ),
)
