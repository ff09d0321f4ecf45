"""`peftbench evaluate`: a finished run on new labelled images, with a record beside the run's."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from peftbench.common.commit import code_commit
from peftbench.common.errors import Refusal
from peftbench.common.regular_files import open_binary
from peftbench.data.corruptions import corrupt
from peftbench.data.images import Batch, Images
from peftbench.data.labelled import Known
from peftbench.data.ood import average_over_shifts
from peftbench.results.evaluation_file import Evaluation, place_of, read_evaluation, write_evaluation, write_tables
from peftbench.results.task_results import results_of_record
from peftbench.tasks.evaluator import Evaluator, Judged
from peftbench.tuned.evaluated_set import Asked, Source, held_out, read_source
from peftbench.tuned.evaluation_words import copies_of_training, evaluator_of, notes_of, unreadable
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.load import Tuned, choose_device, load
from peftbench.tuned.looked_at import Change, LookedAt, look_at

Watch = Callable[[int, int], None]


def evaluate(
    run: str | Path | FinishedRun,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    *,
    data: str | Sequence[str] = (),
    ood: str | Sequence[str] = (),
    temperature: bool = False,
    unknown: str = "refuse",
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = None,
    config_dir: str | Path | None = None,
    watch: Watch = lambda done, of: None,
) -> Evaluation:
    """Judges a finished run on new labelled images and writes `evaluation-<name>-<hash8>.json` into its folder.

    Where this evaluation has been made before, its record is read, and nothing is computed.

        evaluation = peftbench.evaluate("outputs/RUN", "labelled")
        print(evaluation.figures["accuracy"])
        peftbench.evaluate("outputs/RUN", data="photos", ood=["noise:3", "blur"])

    Args:
        run: the folder of a complete run, or what `open_run` gave for it.
        images: a folder of class folders, or what the paths in `labels` are relative to.
        labels: a CSV with the columns path and label, or for a detector COCO's JSON.
        data: in the place of images a data set, whose test images are taken: its name, or words such as
            ["data=folder", "data.root=shots"].
        ood: corruptions of the images to look at too, such as "noise:3".
        temperature: fit a temperature on the run's validation images, for a classifier.
        unknown: `skip` leaves out what has a label that the run does not know; `refuse` does not go on.
        seed: of the bootstrap.
        device: where it predicts.
        weights: where the backbone's weights lie, if they have moved since the run.
        config_dir: a folder with YAML of your own, of a method or a data set.
        watch: called with the images done and of how many.

    Raises:
        UserError: no such run, no image, labels that the run does not know, a data set of another task, or a file in
            the way.
        Refusal: the run's task cannot be evaluated so.
    """
    asked = Asked(images, labels, _several(data), _several(ood), temperature, unknown, seed, config_dir)
    run = run if isinstance(run, FinishedRun) else open_run(run, config_dir)

    def loaded() -> Tuned:
        return load(run, merge=False, weights=weights).to(choose_device(device))

    return evaluated(run, asked, loaded, watch=watch)


def evaluate_model(
    tuned: Tuned,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    *,
    data: str | Sequence[str] = (),
    ood: str | Sequence[str] = (),
    temperature: bool = False,
    unknown: str = "refuse",
    seed: int = 0,
    config_dir: str | Path | None = None,
    watch: Watch = lambda done, of: None,
) -> Evaluation:
    """As `evaluate`, of a tuned model in memory."""
    asked = Asked(images, labels, _several(data), _several(ood), temperature, unknown, seed, config_dir)
    training = tuned.training
    try:
        return evaluated(tuned.run, asked, tuned.eval, _otherwise(tuned), watch)
    finally:
        tuned.train(training)


def evaluated(
    run: FinishedRun,
    asked: Asked,
    model: Callable[[], Tuned],
    otherwise: Sequence[str] = (),
    watch: Watch = lambda done, of: None,
) -> Evaluation:
    """As `evaluate`.

    Args:
        run: the run.
        asked: what it is evaluated on, and how.
        model: gives the tuned model, on its device; called where it is needed alone.
        otherwise: in what the model is another than the one that the run tested, and rounds differently.
        watch: called with the images done and of how many.
    """
    asked.check()
    evaluator = evaluator_of(run)
    _refuse(run, evaluator, asked)
    source = read_source(run, evaluator, asked)
    known = evaluator.known(source.labelled, run.classes, run.categories, asked.unknown)
    validation = held_out(run, known.split) if asked.temperature else None
    identity = _identity(run, asked, source, known, None if validation is None else validation[0].content, otherwise)
    path = place_of(run.folder, source.labelled.name, identity)
    if there := read_evaluation(path, identity):
        write_tables(path, evaluator.tables(there.figures), missing=True)
        return there
    tuned = model()
    corruptions = asked.corruptions()
    changes: dict[str, Change] = {
        name: functools.partial(_corrupted, *corruption) for name, corruption in corruptions.items()
    }
    seen = look_at(tuned, known.split, watch=watch, changes=changes)
    judged = Judged(seen.predictions, seen.split, tuned.classes, tuned.model.task, asked.seed)
    if validation is not None:
        theirs = look_at(tuned, validation[0], watch=watch)
        judged = dataclasses.replace(
            judged, held_out=dataclasses.replace(judged, predictions=theirs.predictions, split=theirs.split)
        )
    figures = evaluator.figures(judged) | _shifted(run, evaluator, judged, seen)
    copies, unchecked = copies_of_training(run, seen.split)
    tables = evaluator.tables(figures)
    written = write_tables(path, tables)
    content = {
        "identity": identity,
        "run": run.record.id,
        "name": source.labelled.name,
        "data": {
            **source.told,
            "images": len(seen.split),
            "hash": seen.split.content,
            "unreadable": unreadable(known.split, seen),
            "copies_of_training": copies,
            "transform": dataclasses.asdict(tuned.transform),
        },
        "figures": figures,
        "tables": {name: file.name for name, file in written.items()},
        "notes": [
            *source.labelled.notes,
            *notes_of(known, seen, copies, validation),
            *evaluator.notes(judged, figures),
            *([unchecked] if unchecked else []),
        ],
        "code": {"peftbench": _version(), "torch": torch.__version__, "commit": code_commit()},
        "device": str(tuned.device),
    }
    return write_evaluation(path, content)


def _otherwise(tuned: Tuned) -> list[str]:
    """In what a model in memory is another than the one that its run tested."""
    dtype = str(tuned.model.mean.dtype).removeprefix("torch.")
    ways = {
        "merged": tuned.merged,
        "dequantized": tuned.dequantized,
        dtype: dtype != "float32",
    }
    return [way for way, differs in ways.items() if differs]


def _several(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


def _refuse(run: FinishedRun, evaluator: Evaluator, asked: Asked) -> None:
    """Raises Refusal where the run cannot be evaluated as it is asked for."""
    task = run.config.task.name
    if run.frames is not None:
        raise Refusal(f"{run.folder}: is of clips; only runs on images can be evaluated on new ones yet.")
    if asked.temperature and not evaluator.calibrates:
        raise Refusal(f"temperature=true: is of classifiers, and {run.folder} is of task={task}; leave it out.")


def _identity(
    run: FinishedRun, asked: Asked, source: Source, known: Known, validation: str | None, otherwise: Sequence[str]
) -> dict[str, Any]:
    """All that can change the figures, in plain values."""
    identity = {
        "run": run.record.id,
        "delta": _sha256(run.source),
        "images": known.split.content,
        "left_out": known.left_out,
        "transform": run.record.stamps["data"].get("transform"),
        "seed": asked.seed,
        "peftbench": _version(),
        **({"set": source.options} if source.options else {}),
        **({"ood": sorted(asked.corruptions())} if asked.ood else {}),
        **({"temperature": validation} if validation else {}),
        **({"otherwise": list(otherwise)} if otherwise else {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _corrupted(name: str, severity: int, images: Images, batch: Batch, places: Sequence[int]) -> torch.Tensor:
    return corrupt(batch.images, name, severity, places, images.sizes_on_canvas(batch.targets))


def _shifted(run: FinishedRun, evaluator: Evaluator, judged: Judged, seen: LookedAt) -> dict[str, Any]:
    """`shifted`: the headline of each shift, and its means, by the names that a run's own have; or nothing."""
    if not seen.changed:
        return {}
    rows: dict[str, dict[str, float]] = {}
    for name, predictions in seen.changed.items():
        values = evaluator.headline(dataclasses.replace(judged, predictions=predictions))
        rows[name] = {figure: value for figure, value in values.items() if not math.isnan(value)}
    return {"shifted": average_over_shifts(rows, results_of_record(run.record).metric)}


def _sha256(file: Path) -> str:
    with open_binary(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _version() -> str:
    try:
        return version("peftbench")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
