"""`peftbench evaluate`: a finished run on new labelled images, with a record beside the run's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from peftbench.common.amounts import agreeing, plural
from peftbench.common.commit import code_commit
from peftbench.common.errors import Refusal, UserError
from peftbench.data.base import Split
from peftbench.data.copies import first_copies
from peftbench.data.labelled import Labelled, as_known, read_labelled
from peftbench.results.evaluation_file import Evaluation, place_of, read_evaluation, write_evaluation
from peftbench.runs.data_sets import load_splits
from peftbench.tasks.base import task_class
from peftbench.tasks.evaluator import Evaluator
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.load import choose_device, load
from peftbench.tuned.looked_at import predicted

Watch = Callable[[int, int], None]


def evaluate(
    run: str | Path | FinishedRun,
    images: str | Path,
    labels: str | Path | None = None,
    *,
    unknown: str = "refuse",
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = None,
    config_dir: str | Path | None = None,
    watch: Watch = lambda done, of: None,
) -> Evaluation:
    """Judges a finished run on new labelled images and writes `evaluation-<name>-<hash8>.json` into its folder.

    Where this evaluation has been made before, its record is read, and nothing is computed.

        evaluation = peftbench.evaluate("outputs/RUN", "new_photos")
        print(evaluation.figures["accuracy"])

    Args:
        run: the folder of a complete run, or what `open_run` gave for it.
        images: a folder of class folders, or what the paths in `labels` are relative to.
        labels: a CSV with the columns path and label.
        unknown: `skip` leaves images out whose label the run does not know; `refuse` does not go on.
        seed: of the bootstrap.
        device: where it predicts.
        weights: where the backbone's weights lie, if they have moved since the run.
        config_dir: a folder with the YAML of a method of your own.
        watch: called with the images done and of how many.

    Raises:
        UserError: no such run, no image, labels that the run does not know, or a file in the way.
        Refusal: the run's task cannot be evaluated so.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed={seed}: expected a whole number of 0 or more.")
    run = run if isinstance(run, FinishedRun) else open_run(run, config_dir)
    evaluator = _evaluator(run)
    if run.frames is not None:
        raise Refusal(f"{run.folder}: is of clips; only runs on images can be evaluated on new ones yet.")
    labelled = read_labelled(images, labels)
    split, left_out = as_known(labelled, run.classes, unknown)
    identity = {
        "run": run.record.id,
        "delta": _sha256(run.source),
        "images": split.content,
        "left_out": left_out,
        "transform": run.record.stamps["data"].get("transform"),
        "seed": seed,
        "peftbench": _version(),
    }
    identity = json.loads(json.dumps(identity))
    path = place_of(run.folder, labelled.name, identity)
    if there := read_evaluation(path, identity):
        return there
    tuned = load(run, merge=False, weights=weights).to(choose_device(device))
    seen, predictions, damaged = predicted(tuned, split, float("inf"), watch)
    figures = evaluator.figures(predictions, seen.labels, tuned.classes, seed)
    unreadable = sorted({*split.names} - {*seen.names})
    copies, unchecked = _copies_of_training(run, seen)
    empty = [name for i, name in enumerate(tuned.classes) if not (seen.labels == i).any()]
    notes = [*labelled.notes, *_notes(labelled, left_out, damaged, unreadable, copies, len(seen), empty)]
    content = {
        "identity": identity,
        "run": run.record.id,
        "name": labelled.name,
        "data": {
            "place": str(images),
            **({"labels": str(labels)} if labels is not None else {}),
            "images": len(seen),
            "hash": seen.content,
            "unreadable": unreadable,
            "copies_of_training": copies,
            "transform": dataclasses.asdict(tuned.transform),
        },
        "figures": figures,
        "notes": [*notes, *([unchecked] if unchecked else [])],
        "code": {"peftbench": _version(), "torch": torch.__version__, "commit": code_commit()},
        "device": str(tuned.device),
    }
    return write_evaluation(path, content)


def lines_of(run: FinishedRun, evaluation: Evaluation) -> list[str]:
    """The evaluation in words, for the terminal."""
    images = plural(evaluation.content["data"]["images"], "image")
    heading = f"{evaluation.content['run']} on {evaluation.content['name']}, {images}"
    figures = _evaluator(run).lines(evaluation.figures)
    return [heading, *figures, *(f"note: {note}" for note in evaluation.content["notes"])]


def _evaluator(run: FinishedRun) -> Evaluator:
    """How the run's task is judged. Raises Refusal where it says nothing of that."""
    evaluator = task_class(run.config.task).evaluator
    if evaluator is None:
        task = run.config.task.name
        raise Refusal(f"{run.folder}: is of task={task}, which cannot be evaluated on new images yet.")
    return evaluator()


def _notes(
    labelled: Labelled,
    left_out: dict[str, int],
    damaged: int,
    unreadable: list[str],
    copies: list[str] | None,
    images: int,
    empty: list[str],
) -> list[str]:
    """What a reader of the figures should know, a sentence each."""
    notes = []
    if left_out:
        labels = ", ".join(f"'{name}'" for name in list(left_out)[:5]) + (", …" if len(left_out) > 5 else "")
        number = sum(left_out.values())
        notes.append(
            f"{plural(number, 'image')} with labels that the run does not know {agreeing(number)} left out: {labels}"
        )
    if damaged:
        notes.append(
            f"{plural(damaged, 'image')} cannot be read and {agreeing(damaged)} left out, such as {unreadable[0]}"
        )
    if empty:
        names = ", ".join(f"'{name}'" for name in empty[:5]) + (", …" if len(empty) > 5 else "")
        notes.append(
            f"{plural(len(empty), 'class')} without an image here: {names}; means over classes are over those with one"
        )
    if copies:
        notes.append(
            f"{len(copies):,} of {plural(images, 'image')} {agreeing(len(copies), 'is a copy', 'are copies')} of "
            f"training images, such as {copies[0]}; the figures flatter the run"
        )
    return notes


def _copies_of_training(run: FinishedRun, split: Split) -> tuple[list[str] | None, str]:
    """(the names of images with the bytes of one that the run trained on, None where nobody knows; why not)."""
    unchecked = "whether images are copies of training images is not known"
    try:
        train = load_splits(run.config).roles(run.config.data.stage)[0]
        paths = [path for path in train.images if isinstance(path, Path)]
        if len(paths) < len(train):
            return None, f"{unchecked}: the run's training images are not files"
        first = first_copies([*paths, *(path for path in split.images if isinstance(path, Path))])
    except UserError as problem:
        return None, f"{unchecked}: {problem}"
    return [name for name, at in zip(split.names, first[len(paths) :].tolist(), strict=True) if at < len(paths)], ""


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _version() -> str:
    try:
        return version("peftbench")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
