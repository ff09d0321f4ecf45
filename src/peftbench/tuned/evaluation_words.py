"""An evaluation in words: for the terminal, and the notes of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import Refusal, UserError
from peftbench.data.base import Split
from peftbench.data.labelled import Known
from peftbench.results.evaluation_file import Evaluation
from peftbench.results.task_results import results_of_record
from peftbench.tasks.base import task_class
from peftbench.tasks.evaluator import Evaluator, percent
from peftbench.tuned.evaluated_set import copies_in, training_images
from peftbench.tuned.finished_run import FinishedRun
from peftbench.tuned.looked_at import LookedAt


def evaluator_of(run: FinishedRun) -> Evaluator:
    """How the run's task is judged. Raises Refusal where it says nothing of that."""
    evaluator = task_class(run.config.task).evaluator
    if evaluator is None:
        task = run.config.task.name
        raise Refusal(f"{run.folder}: is of task={task}, which cannot be evaluated on new images yet.")
    return evaluator(run.config.task)


def lines_of(run: FinishedRun, evaluation: Evaluation) -> list[str]:
    """The evaluation in words, for the terminal."""
    images = plural(evaluation.content["data"]["images"], "image")
    heading = f"{evaluation.content['run']} on {evaluation.content['name']}, {images}"
    figures = evaluator_of(run).lines(evaluation.figures)
    shifted = _lines_of_shifts(evaluation.figures.get("shifted", {}))
    return [heading, *figures, *shifted, *(f"note: {note}" for note in evaluation.content["notes"])]


def main_figure(run: FinishedRun, evaluation: Evaluation) -> tuple[str, float | None, Sequence[float] | None]:
    """(the name of the figure that the run's task is judged by, its value here, its interval)."""
    name = results_of_record(run.record).metric
    return name, evaluation.figures.get(name), evaluation.figures.get("intervals", {}).get(name)


def _lines_of_shifts(shifted: Mapping[str, float]) -> list[str]:
    """The means over the severities of each corruption, and over all."""
    rows = {name.removeprefix("ood/"): value for name, value in shifted.items() if ":" not in name}
    return [f"shifted, {name.replace('/', ', ')}: {percent(value)} %" for name, value in rows.items()]


def unreadable(given: Split, seen: LookedAt) -> list[str]:
    """The names of the images that could not be read."""
    return sorted({*given.names} - {*seen.split.names})


def notes_of(known: Known, seen: LookedAt, copies: list[str] | None, validation: tuple[Split, int] | None) -> list[str]:
    """What a reader of the figures should know of the images, a sentence each."""
    notes = [known.note] if known.note else []
    if seen.damaged:
        notes.append(
            f"{plural(seen.damaged, 'image')} cannot be read and {agreeing(seen.damaged)} left out, such as "
            f"{unreadable(known.split, seen)[0]}"
        )
    if copies:
        notes.append(
            f"{len(copies):,} of {plural(len(seen.split), 'image')} "
            f"{agreeing(len(copies), 'is a copy', 'are copies')} of training images, such as {copies[0]}; the figures "
            f"flatter the run"
        )
    if validation is not None and validation[1]:
        notes.append(
            f"the temperature is fitted without {plural(validation[1], 'validation image')} that "
            f"{agreeing(validation[1])} among those evaluated"
        )
    return notes


def copies_of_training(run: FinishedRun, split: Split) -> tuple[list[str] | None, str]:
    """(the names of images with the bytes of one that the run trained on, None where nobody knows; why not)."""
    unchecked = "whether images are copies of training images is not known"
    try:
        copies = copies_in(split, training_images(run))
    except UserError as problem:
        return None, f"{unchecked}: {problem}"
    if copies is None:
        return None, f"{unchecked}: of these and of the run's training images only one kind are files"
    return [name for name, is_copy in zip(split.names, copies, strict=True) if is_copy], ""
