"""`peftbench predict`: a table of what a tuned model says of images, and pictures of what a detector finds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Kind, Words
from peftbench.common.errors import UserError
from peftbench.common.task_lookup import shipped_tasks


def write_predictions(words: Words) -> int:
    """Writes a row for each image, or box, to `out`, or to the standard output, and pictures with boxes into `draw`.

    Raises:
        UserError: no image can be read, or a file is in the way.
    """
    out = None if words["out"] is None else Path(words["out"]).expanduser()
    _check_values(words, out)

    from rich.console import Console

    from peftbench.cli.prediction_files import Prediction, no_image, picture_places, summary, write_table
    from peftbench.tuned.load import load, open_run, place
    from peftbench.tuned.predict import find

    console = Console(stderr=True)
    run = open_run(words["run"], words["config_dir"])
    options = _options_of_task(words, run.config.task)
    prediction = Prediction(words["images"], out, options.get("draw"), options, run.frames is not None)

    def skip(path: Path, why: str) -> None:
        prediction.skipped.append((path, why))
        console.print(f"skipped {path}: {why}", highlight=False, markup=False, soft_wrap=True)

    device = place(words["device"])
    items = find(prediction.images, prediction.of_clips, skip)
    if not items:
        raise no_image(prediction)
    pictures = picture_places(prediction, items, words["force"])
    # Unmerged, in the run's own precision: what the record's accuracy is of.
    tuned = load(run, merge=False, weights=words["weights"], adapter=words["adapter"]).to(device)
    write_table(prediction, run, tuned, items, pictures, skip, console)
    if out is not None or pictures or prediction.skipped:
        console.print(summary(prediction), highlight=False, markup=False, soft_wrap=True)
    return 0


def _check_values(words: Words, out: Path | None) -> None:
    """Refuses what the words alone show to be wrong. Raises UserError."""
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"out={out}: expected a name that ends in .csv or .json.")
    if out is not None and out.exists() and not words["force"]:
        raise UserError(f"out={out}: exists already; give another name, or force=true.")
    for key in ("top_k", "batch_size"):
        if words[key] < 1:
            raise UserError(f"{key}={words[key]}: expected at least 1.")
    if not 0 <= words["score"] <= 1:
        raise UserError(f"score={words['score']:g}: expected 0 to 1.")


def _options_of_task(words: Words, task: Any) -> dict[str, Any]:
    """The options that are of the run's task alone. Raises UserError for one of another task."""
    from peftbench.config import task_schema

    defaults = task_schema({"name": task.name, "path": task.path}).predicts
    for argument in _task_arguments():
        if argument.name in words.written and argument.name not in defaults:
            raise UserError(f"{words.written[argument.name]}: is not for a run of task={task.name}; leave it out.")
    return {name: words[name] if name in words.written else default for name, default in defaults.items()}


_HELP = {
    "top_k": "classes of each image, the most probable first",
    "batch_size": "images at a time",
    "score": "the least score of a box",
    "draw": "a folder for pictures with the boxes",
}
_KINDS: dict[type, Kind] = {bool: "flag", int: "whole number", float: "number", str: "text"}


@cache
def _task_arguments() -> tuple[Argument, ...]:
    """The options that are a task's alone, of every task that is shipped."""
    from peftbench.config import task_schema

    defaults: dict[str, Any] = {}
    tasks: dict[str, list[str]] = {}
    for task in shipped_tasks():
        for name, default in task_schema({"name": task}).predicts.items():
            defaults.setdefault(name, default)
            tasks.setdefault(name, []).append(task)
    return tuple(
        Argument(
            name,
            f"{_HELP.get(name, 'an option')}, for task={'|'.join(tasks[name])}",
            kind=_KINDS.get(type(default), "folder"),
            default=default,
        )
        for name, default in defaults.items()
    )


COMMAND = Command(
    "predict",
    "a table of what a tuned model says of images",
    write_predictions,
    (
        Argument("run", "the folder of a finished run", kind="run", needed=True),
        Argument("images", "what to predict", kind="file", placeholder="FILE|FOLDER|GLOB", needed=True),
        Argument("out", "the file of the table", kind="file", placeholder="FILE.csv|.json", shown=True),
        Argument("device", "cpu, cuda, cuda:1, mps", default="auto", suggestions=("auto", "cpu", "cuda", "mps")),
        Argument("weights", "the backbone's weights, if they have moved", kind="file"),
        Argument("adapter", "a folder of HF PEFT, in the place of the delta", kind="folder"),
        Argument("force", "replace what is there", kind="flag", default=False),
        CONFIG_DIR,
    ),
    description="A row for each image; for a detector a row for each box. The table goes to the standard output if out "
    "is not given.",
    late_arguments=_task_arguments,
    examples=(
        "peftbench predict run=outputs/<run id> images=~/photos out=labels.csv",
        "peftbench predict run=outputs/<run id> images='shots/*.jpg' --top-k=1",
    ),
)
