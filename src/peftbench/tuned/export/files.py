"""`export`: from a run's folder to a file, written whole or not at all, and only when it computes the same."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError

from peftbench import pruning
from peftbench.common.atomic_files import give_usual_mode, why_not_written
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.common.leftovers import ASIDE, part_folder
from peftbench.common.notes import note
from peftbench.deltas import peft_adapter
from peftbench.results.model_card import CardFile
from peftbench.runs.build import in_one_pass, unstreamed
from peftbench.tasks.base import task_class
from peftbench.tuned.card_file import card_of, refuse_card, write_card
from peftbench.tuned.export.detector import to_detector
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.peft_adapter import to_adapter
from peftbench.tuned.export.timm_state_dict import to_state_dict
from peftbench.tuned.export.traced import to_onnx, to_program
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.load import Tuned, load
from peftbench.tuned.run_folder import PLACES, export_place, refuse_merge

INSIDE = "inside: float32 images in [0, 1]"
OUTSIDE = "outside: (image / 255 - mean) / std of transform"
Result = TypeVar("Result")
_Writer = Callable[[Tuned, Sample, Path, Mapping[str, str]], float]
_WRITERS: dict[str, tuple[str, _Writer]] = {
    "safetensors": (OUTSIDE, to_state_dict),
    "onnx": (INSIDE, to_onnx),
    "torch_export": (INSIDE, to_program),
}
FORMATS = tuple(PLACES)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that computes the same.

    Attributes:
        difference: the largest one between its logits and the model's, as a share of the largest logit; of a detector
            between the scores of their boxes.
    """

    path: Path
    difference: float | None


def export(
    run: str | Path | FinishedRun,
    format: str,
    out: str | Path | None = None,
    *,
    force: bool = False,
    merge: bool | Literal["dense", "masked"] = True,
    weights: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> Exported:
    """Writes the tuned model of a run's folder in one of `FORMATS`, merged where the method merges (`load` says how).

    Weights of a quantized backbone are dequantized, so that the file holds plain ones, in float32.

    It is checked against the model on photos before it takes its place, by default in the run's folder.

    A model card stands beside it afterwards (`card_of`).

    Raises:
        UserError: no finished run, an unknown format, a file that is there already, or a library that is missing.
        Refusal: this model cannot be exported so; says why, and what would work.
    """
    if format not in FORMATS:
        raise UserError(f"format={format}: expected one of {', '.join(FORMATS)}{nearest(format, FORMATS)}.")
    finished = run if isinstance(run, FinishedRun) else open_run(run, config_dir)
    made = _exported(finished, format, out, force, merge, weights)
    write_card(finished, [CardFile(made.path.name, format, made.difference)], card_of(made.path))
    return made


def _exported(
    finished: FinishedRun,
    format: str,
    out: str | Path | None,
    force: bool,
    merge: bool | Literal["dense", "masked"],
    weights: str | Path | None,
) -> Exported:
    task = task_class(finished.config.task)
    if task.finds_boxes and format != "onnx":
        raise Refusal(
            f"format={format}: {finished.folder} is a {task.kind_of_model}, whose boxes are no single tensor; "
            f"format=onnx holds it, and peftbench.load(run) gives it in torch."
        )
    if not (task.predicts_tensor or task.finds_boxes):
        raise Refusal(
            f"run={finished.folder}: is of task={finished.config.task.name}, whose predictions are no single tensor; "
            f"peftbench.load(run) gives the {task.kind_of_model} in torch, and peftbench predict applies it."
        )
    path = export_place(finished.folder, format, out, force)
    refuse_card(path, force)
    if format == "peft":
        _only_adapter(path)
        refuse_merge(format, merge)
    told = _told(finished) | {"transform": _of_one_pass(finished).metadata["transform"]}
    looks = task.looks_at(finished.config)
    if looks == {"tta": "flip"}:
        note(
            f"{finished.folder}: was tested with data.tta=flip; what is exported looks at an image once, so average "
            f"its predictions for an image and its mirror image to have the record's figures."
        )
    elif looks:
        note(
            f"{finished.folder}: was tested with several looks at an image ({_worded(looks)}); what is exported looks "
            f"once at one of the input's size, so average its predictions over them to have the record's figures."
        )
    finished = _of_one_pass(finished)
    if task.finds_boxes:
        tested = load(finished, merge=False, weights=weights)
        tuned = load(finished, merge=merge, weights=weights, dequantize=True)
        told |= {"merged": str(tuned.merged).lower(), "normalisation": INSIDE}
        return Exported(*_placed(path, lambda part: to_detector(tuned, tested, part, told)))
    sample = Sample(load(finished, merge=False, weights=weights))
    if format == "peft":
        told |= {"normalisation": OUTSIDE}
        return Exported(*_placed(path, lambda part: to_adapter(finished, sample, part, told, weights)))
    tuned = load(finished, merge=merge, weights=weights, dequantize=True)
    normalisation, writer = _WRITERS[format]
    told |= {"merged": str(tuned.merged).lower(), "normalisation": normalisation}
    if (backbone := tuned.model.backbone).masks:
        told |= {"merge": backbone.merging, "sparsity": f"{pruning.sparsity(backbone):.6f}"}
    return Exported(*_placed(path, lambda part: writer(tuned, sample, part, told)))


def _of_one_pass(run: FinishedRun) -> FinishedRun:
    """The run as a file has it: one look at an image, which has the size of a window where the run looks at windows."""
    config, metadata = in_one_pass(unstreamed(run.config)), run.metadata
    if config.data.size != run.config.data.size:
        transform = json.loads(metadata["transform"]) | {"size": config.data.size, "window": None}
        metadata = {**metadata, "transform": json.dumps(transform)}
    return dataclasses.replace(run, config=config, metadata=metadata)


def _told(run: FinishedRun) -> dict[str, str]:
    """What each file says of itself."""
    keys = (
        "run",
        "method",
        "options",
        "backbone",
        "weights",
        "fingerprint",
        "quantize",
        "mask",
        "classes",
        "transform",
    )
    looks = task_class(run.config.task).looks_at(run.config)
    tested = {"tested_with": _worded(looks)} if looks else {}
    told = {k: run.metadata[k] for k in keys if k in run.metadata}
    if Path(told.get("weights", "")).suffix:  # where it lies is of no use elsewhere
        told["weights"] = Path(told["weights"]).name
    return {**told, **tested, "peftbench": version("peftbench")}


def _worded(looks: Mapping[str, Any]) -> str:
    """Several looks at an image, as the keys that ask for them."""
    return " ".join(f"{'data' if key == 'tta' else 'task'}.{key}={value}" for key, value in looks.items())


def _placed(path: Path, write: Callable[[Path], Result]) -> tuple[Path, Result]:
    """`path` as `write` made it beside its place, and its answer; where that fails, what was there before is kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        begins, ends = part_folder(path.name)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=begins, suffix=ends) as folder:
            part = Path(folder) / path.name
            answer = write(part)
            if part.is_file():
                give_usual_mode(part)
            _put(part, path, Path(folder) / ASIDE)
    except (OSError, SafetensorError) as problem:
        raise UserError(f"out={path}: could not be written ({why_not_written(problem)}).") from None
    return path, answer


def _put(part: Path, path: Path, aside: Path) -> None:
    """Moves `part` to `path`. A folder cannot be replaced: the old one steps aside, and comes back where that fails."""
    if not path.is_dir():
        part.replace(path)
        return
    path.replace(aside)
    try:
        part.replace(path)
    except OSError:
        aside.replace(path)
        raise


def _only_adapter(path: Path) -> None:
    """Raises UserError where a folder to be replaced holds what is not of an adapter."""
    other = sorted(p.name for p in path.iterdir() if p.name not in peft_adapter.FILES) if path.is_dir() else []
    if other:
        raise UserError(
            f"out={path}: holds {other[0]}, which is not of an adapter and would be lost; give a new name, or the "
            f"folder of an adapter."
        )
