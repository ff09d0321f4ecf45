"""`peftbench predict`: a table of what a tuned model says of images, and what else its task writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from peftbench.cli.words import NEEDED, given
from peftbench.common.errors import UserError
from peftbench.common.progress import counted
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config.task_schema import TaskSchema, task_schema

USAGE = (
    "peftbench predict run=FOLDER images=FILE|FOLDER|GLOB [out=FILE.csv|.json] [top_k=5] [batch_size=64] "
    "[device=cpu|cuda] [weights=FILE] [adapter=FOLDER]; of a detector [score=0.5] [draw=FOLDER]"
)
_KNOWN = {
    "run": NEEDED,
    "images": NEEDED,
    "out": None,
    "device": "auto",
    "weights": None,
    "adapter": None,
    "force": False,
}


def run(arguments: list[str]) -> int:
    """Writes what a tuned model says of each image to `out`, or to the standard output.

    Raises:
        UserError: no image can be read, or a file is in the way.
    """
    want = given(arguments, "predict", _KNOWN | _task_options(), USAGE)
    out = _table_file(want["out"], want["force"])
    for schema in _schemas().values():
        schema.check_predicts(want)

    from peftbench.tasks.base import task_class
    from peftbench.tuned.finished_run import open_run
    from peftbench.tuned.items import find_items
    from peftbench.tuned.load import choose_device, load

    finished = open_run(want["run"], want["config_dir"])
    _refuse_options_of_other_tasks(arguments, finished.config.task)
    device = choose_device(want["device"])
    skipped = Skipped()
    items = find_items(want["images"], finished.frames is not None, skipped.add)
    if not items:
        raise _nothing_to_predict(want["images"], skipped, finished.frames is not None)
    predictor = task_class(finished.config.task).predictor(want, want["images"], items, want["force"])
    # Unmerged, in the run's own precision: what the record's accuracy is of.
    tuned = load(finished, merge=False, weights=want["weights"], adapter=want["adapter"]).to(device)
    count = _write_table(tuned, predictor, out, skipped, want["images"])
    left = [str(path) for path in (out, *predictor.written) if path]
    if left or skipped.files:
        what = "clips" if finished.frames else "images"
        skips = f", {skipped.counted} skipped" if skipped.files else ""
        skipped.tell(f"{count} {what}{skips}" + (f": {', '.join(left)}" if left else ""))
    return 0


class Skipped:
    """The files that were left out, each told as it comes."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
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


def _write_table(tuned: Any, predictor: Any, out: Path | None, skipped: Skipped, images: str) -> int:
    """Writes the table; returns the number of its images. Raises UserError where there are none."""
    shown = out is not None or not sys.stdout.isatty()  # else the rows themselves are what moves
    count = 0

    def counting(predictions: Iterable[Any]) -> Iterator[Any]:
        nonlocal count
        for prediction in predictions:
            count += 1
            yield prediction
        if not count:
            raise _nothing_to_predict(images, skipped, tuned.run.frames is not None)

    with counted(skipped.console, "predicting", shown) as watch, _writer(out) as file:
        predictions = counting(predictor.predictions(tuned, skipped.add, watch))
        if out is not None and out.suffix.lower() == ".json":
            predictor.write_json(file, tuned, predictions, skipped.files)
        else:
            predictor.write_csv(file, tuned, predictions)
    return count


def _table_file(given_path: str | None, force: bool) -> Path | None:
    """The file of the table, None for the standard output. Raises UserError."""
    if given_path is None:
        return None
    out = Path(given_path).expanduser()
    if out.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"out={out}: expected a name that ends in .csv or .json.")
    if out.exists() and not force:
        raise UserError(f"out={out}: exists already; give another name, or force=true.")
    return out


def _schemas() -> dict[str, TaskSchema]:
    """What each task that is shipped says of itself, by name."""
    return {name: task_schema({"name": name}) for name in shipped_tasks()}


def _task_options() -> dict[str, Any]:
    """The options of single tasks, with their defaults."""
    return {option: default for schema in _schemas().values() for option, default in schema.predicts.items()}


def _refuse_options_of_other_tasks(arguments: list[str], section: Any) -> None:
    own = task_schema(vars(section)).predicts
    for word in arguments:
        option = word.partition("=")[0]
        if option in _task_options() and option not in own:
            raise UserError(f"{word}: is not for a run of task={section.name}; leave it out.")


def _nothing_to_predict(images: str, skipped: Skipped, of_clips: bool) -> UserError:
    from peftbench.data.media import IMAGES, VIDEOS

    what, suffixes = ("clip", VIDEOS) if of_clips else ("image", IMAGES)
    more = ", or folders of frames" if of_clips else ""
    verb = "was" if len(skipped.files) == 1 else "were"
    found = f"none is left, {skipped.counted} {verb} skipped" if skipped.files else f"holds no {what}"
    return UserError(f"images={images}: {found}; expected whole files of the types {' '.join(sorted(suffixes))}{more}.")


@contextmanager
def _writer(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    from peftbench.common.atomic_files import replacing

    with replacing(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file
