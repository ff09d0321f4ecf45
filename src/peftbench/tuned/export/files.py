"""`export`: from a run's folder to a file, written whole or not at all, and only when it computes the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from peftbench import pruning
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.common.notes import note
from peftbench.deltas import peft_adapter
from peftbench.results.model_card import CardFile
from peftbench.runs.build import in_one_pass, unstreamed
from peftbench.tasks.base import task_class
from peftbench.tuned.card_file import card_of, refuse_card, takes_of, write_card
from peftbench.tuned.export import preprocess
from peftbench.tuned.export.coreml_package import to_coreml
from peftbench.tuned.export.detector import to_detector, to_openvino_detector
from peftbench.tuned.export.executorch_file import to_executorch
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.openvino_files import to_openvino
from peftbench.tuned.export.peft_adapter import to_adapter
from peftbench.tuned.export.placing import made_aside, placed, take_place
from peftbench.tuned.export.precisions import Measured
from peftbench.tuned.export.reduced import Reduced
from peftbench.tuned.export.timm_state_dict import to_state_dict
from peftbench.tuned.export.traced import to_onnx, to_program
from peftbench.tuned.export.whole import decoded
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.load import Tuned, load
from peftbench.tuned.run_folder import PLACES, check_precision, export_place, lossy, refuse_merge

INSIDE = "inside: float32 images in [0, 1]"
WHOLE = "inside, and resized inside: decoded uint8 images (B, h, w, 3)"
OUTSIDE = "outside: (image / 255 - mean) / std of transform"
_Writer = Callable[[Tuned, Sample, Path, Mapping[str, str]], float | None]
_WRITERS: dict[str, tuple[str, _Writer]] = {
    "safetensors": (OUTSIDE, to_state_dict),
    "onnx": (INSIDE, to_onnx),
    "torch_export": (INSIDE, to_program),
    "openvino": (INSIDE, to_openvino),
    "executorch": (INSIDE, to_executorch),
    "coreml": (INSIDE, to_coreml),
}
_OF_DETECTORS = {"onnx": to_detector, "openvino": to_openvino_detector}
FORMATS = tuple(PLACES)
_FOLDED = ("executorch",)
"""Formats whose runtime would add an update that is kept apart to its weight again for every batch, and slowly."""
RESIZING = ("onnx", "torch_export", "openvino")
"""The formats whose graph may resize too."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that computes the same.

    Attributes:
        difference: the largest one between its logits and the model's, as a share of the largest logit; of a detector
            between the scores of their boxes; None of a file that does not run here.
        measured: of a file in fp16 or int8 what it loses on images of the run.
        warning: why a file is kept apart; empty where nothing speaks against it.
    """

    path: Path
    difference: float | None
    measured: Measured | None = None
    warning: str = ""


def export(
    run: str | Path | FinishedRun,
    format: str,
    out: str | Path | None = None,
    *,
    force: bool = False,
    inside: str = "normalise",
    merge: bool | Literal["dense", "masked"] = True,
    weights: str | Path | None = None,
    config_dir: str | Path | None = None,
    precision: str = "fp32",
    calibration: int | None = None,
) -> Exported:
    """Writes the tuned model of a run's folder in one of `FORMATS`, merged where the method merges (`load` says how).

    Weights of a quantized backbone are dequantized, so that the file holds plain ones, in float32.

    It is checked against the model on photos before it takes its place, by default in the run's folder. Beside it
    stand `<its name>.preprocess.json`, which says what to do to an image, and a model card (`card_of`).

    In fp16 and int8 logits differ by more than rounding: the file is tried on images of the run instead. int8 is
    calibrated on training images. What loses more than 5 points is kept apart, as `<name>.lossy.<suffix>`.

    Args:
        run: the folder of a complete run, or what `open_run` gave for it.
        format: of `FORMATS`.
        out: the file, or for peft and coreml the folder.
        force: whether what is there is replaced.
        inside: what the graph does to an image: `normalise` it, or with `all` resize it too, of formats of `RESIZING`.
        merge: as in `load`.
        weights: where the backbone's weights lie, if they have moved since the run.
        config_dir: a folder with YAML of your own.
        precision: fp32, fp16 or int8, where the format has it.
        calibration: training images that int8 is calibrated on; by default 128.

    Raises:
        UserError: no finished run, an unknown format or precision, a file that is there already, a missing library.
        Refusal: this model cannot be exported so; says why, and what would work.
    """
    if format not in FORMATS:
        raise UserError(f"format={format}: expected one of {', '.join(FORMATS)}{nearest(format, FORMATS)}.")
    images = check_precision(format, precision, calibration)
    finished = run if isinstance(run, FinishedRun) else open_run(run, config_dir)
    made = _exported(finished, format, out, force, inside, merge, weights, precision, images)
    write_card(finished, [CardFile(made.path.name, format, made.difference, takes_of(made.path))], card_of(made.path))
    return made


def _exported(
    finished: FinishedRun,
    format: str,
    out: str | Path | None,
    force: bool,
    inside: str,
    merge: bool | Literal["dense", "masked"],
    weights: str | Path | None,
    precision: str,
    images: int,
) -> Exported:
    task = task_class(finished.config.task)
    if task.finds_boxes and (format not in _OF_DETECTORS or precision != "fp32"):
        what = f"format={format}" if format not in _OF_DETECTORS else f"precision={precision}"
        raise Refusal(
            f"{what}: {finished.folder} is a {task.kind_of_model}, whose boxes are no single tensor; "
            f"format=onnx and format=openvino hold it in fp32, and peftbench.load(run) gives it in torch."
        )
    if finished.frames is not None and precision != "fp32":
        raise Refusal(f"precision={precision}: {finished.folder} is of clips, which are exported in fp32 only.")
    if not (task.predicts_tensor or task.finds_boxes):
        raise Refusal(
            f"run={finished.folder}: is of task={finished.config.task.name}, whose predictions are no single tensor; "
            f"peftbench.load(run) gives the {task.kind_of_model} in torch, and peftbench predict applies it."
        )
    _refuse_inside(finished, format, inside, precision)
    path = export_place(finished.folder, format, out, force, precision)
    refuse_card(path, force)
    if format == "peft":
        _only_adapter(path)
        refuse_merge(format, merge)
    told = _told(finished) | {"transform": of_one_pass(finished).metadata["transform"]}
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
    finished = of_one_pass(finished)
    if task.finds_boxes:
        tested = load(finished, merge=False, weights=weights)
        tuned = load(finished, merge=merge, weights=weights, dequantize=True)
        told |= {"merged": str(tuned.merged).lower(), "normalisation": INSIDE}
        beside = preprocess.told_of(tuned, format, inside)
        return Exported(*placed(path, format, lambda part: _OF_DETECTORS[format](tuned, tested, part, told), beside))
    tested = load(finished, merge=False, weights=weights)
    sample = Sample(tested)
    if format == "peft":
        told |= {"normalisation": OUTSIDE}
        beside = preprocess.told_of(tested, format, "nothing")
        return Exported(*placed(path, format, lambda part: to_adapter(finished, sample, part, told, weights), beside))
    if inside == "all":
        sample.decoded = decoded(tested)
    if merge is True and format in _FOLDED and tested.model.backbone.merging == "unmerged" and finished.method.foldable:
        merge = "dense"  # computes the same
    tuned = load(finished, merge=merge, weights=weights, dequantize=True)
    normalisation, writer = _WRITERS[format]
    normalisation = WHOLE if inside == "all" else normalisation
    told |= {"merged": str(tuned.merged).lower(), "normalisation": normalisation}
    told |= {"inside": "all"} if inside == "all" else {}
    beside = preprocess.told_of(tuned, format, "nothing" if normalisation == OUTSIDE else inside)
    if (backbone := tuned.model.backbone).masks:
        told |= {"merge": backbone.merging, "sparsity": f"{pruning.sparsity(backbone):.6f}"}
    told |= {"precision": precision}
    if precision == "fp32" or format == "coreml":
        half = {"half": True} if precision == "fp16" else {}
        return Exported(*placed(path, format, lambda part: writer(tuned, sample, part, told, **half), beside))
    reduced = Reduced(precision, format, tuned, tested, sample, told, images)
    with made_aside(path) as folder:
        part = folder / path.name
        difference, measured, warning = reduced.write(part)
        if warning:
            path = export_place(finished.folder, format, lossy(path), force, precision)
            note(f"{path.name}: {warning}")
        preprocess.write_preprocess(part, path.name, beside)
        take_place(part, path, format, folder)
    return Exported(path, difference, measured, warning)


def _refuse_inside(run: FinishedRun, format_: str, inside: str, precision: str) -> None:
    """Raises UserError where `inside` is nothing that there is, and Refusal where this format or run has no such."""
    if inside not in preprocess.INSIDE:
        raise UserError(
            f"inside={inside}: expected one of {', '.join(preprocess.INSIDE)}{nearest(inside, preprocess.INSIDE)}."
        )
    if inside == "normalise":
        return
    if format_ not in RESIZING:
        raise Refusal(f"inside=all: format={format_} holds no resizing; {', '.join(RESIZING)} do.")
    if precision != "fp32":
        raise Refusal(
            f"inside=all: precision={precision} is for the model alone, and resizing takes whole digits; leave one out."
        )
    if task_class(run.config.task).finds_boxes:
        raise Refusal(
            f"inside=all: {run.folder} is a detector, whose boxes are in the pixels of its input; inside=normalise "
            f"takes images of any size that fits."
        )
    if run.config.data.draft:
        note(
            "inside=all: the run decoded JPEGs in about the size that is needed (data.draft=true), and the file takes "
            "whole images; its figures may differ a little from the record's."
        )


def of_one_pass(run: FinishedRun) -> FinishedRun:
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


def _only_adapter(path: Path) -> None:
    """Raises UserError where a folder to be replaced holds what is not of an adapter."""
    other = sorted(p.name for p in path.iterdir() if p.name not in peft_adapter.FILES) if path.is_dir() else []
    if other:
        raise UserError(
            f"out={path}: holds {other[0]}, which is not of an adapter and would be lost; give a new name, or the "
            f"folder of an adapter."
        )
