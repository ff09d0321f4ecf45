"""fp16 and int8: what a file is calibrated on, what it loses on images, and when it is kept apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.data.base import Split
from peftbench.data.images import Indices
from peftbench.data.moving import to_device, to_host
from peftbench.results.task_results import results_of_record
from peftbench.runs.data_sets import load_splits
from peftbench.tuned.export import executorch_file, onnx_metadata, onnx_precisions, openvino_files
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.traced import described, to_onnx
from peftbench.tuned.finished_run import FinishedRun
from peftbench.tuned.load import Tuned

SEED = 0
"""Of the images that are drawn to calibrate on and to look at."""
LOOKED_AT = 1000
"""Images that a file is tried on, at most."""
LOST = 0.05
"""How much of the run's metric a file may lose before it is kept apart."""
_BATCH = 16
Stamp = Callable[[Mapping[str, str]], None]
"""Adds to a written file what it says of itself."""


@dataclass(frozen=True)
class Calibration:
    """Images of the run's own training split.

    Attributes:
        images: float32 (N, 3, S, S) in [0, 1], as the file is given them.
        rows: their places in the split.
        of: how many images that has.
    """

    images: Tensor
    rows: tuple[int, ...]
    of: int

    def told(self) -> dict[str, str]:
        """What a file says of it."""
        about = {"split": "train", "images": len(self.rows), "of": self.of, "seed": SEED, "rows": list(self.rows)}
        return {"calibration": json.dumps(about)}


@dataclass(frozen=True)
class Measured:
    """A file and the model that it was made of, on the same images of the run.

    Attributes:
        metric: what the run is judged by.
        images: how many were looked at.
        split: which of the run's they are.
        model, file: the metric of each; 1 is the most.
        agreement: the share of answers that are the same, of classes and of pixels; None for other tasks.
    """

    metric: str
    images: int
    split: str
    model: float
    file: float
    agreement: float | None

    @property
    def lost(self) -> float:
        """How much less the file has."""
        return self.model - self.file

    def told(self) -> dict[str, str]:
        """What the file says of it."""
        return {"measured": json.dumps({k: v for k, v in vars(self).items() if v is not None})}


def calibration(run: FinishedRun, tuned: Tuned, count: int) -> Calibration:
    """Training images, drawn by `SEED` and prepared as for a test.

    Raises:
        UserError: the run's data are gone, or one of the images cannot be read.
    """
    train = load_splits(run.config).roles(run.config.data.stage)[0]
    rows = np.sort(np.random.default_rng(SEED).permutation(len(train))[:count])
    try:
        images = tuned.transform.plain().over(train.take(rows), "refuse", 1.0, lambda done, of: None)
        pixels = images.pictures(torch.arange(len(rows)))
    except UserError as problem:
        raise UserError(f"calibration={count}: {first_sentence(problem, 300)}; int8 needs training images.") from None
    return Calibration(pixels.float() / 255, tuple(int(row) for row in rows), len(train))


def write_reduced(
    precision: str, form: str, tuned: Tuned, sample: Sample, path: Path, images: Tensor | None
) -> tuple[Stamp, bool]:
    """Writes a file in fp16, or in int8 calibrated on `images`; (how it is stamped, whether images have any size)."""
    if form == "onnx":
        whole = path.with_name("whole.onnx")
        to_onnx(tuned, sample, whole, {})
        told = onnx_metadata.told_by(whole)
        if images is None:
            onnx_precisions.to_half(whole, path)
        else:
            _by_tool(form, tuned, lambda: onnx_precisions.to_int8(whole, path, images.numpy()))
        whole.unlink()
        return lambda more: onnx_metadata.tell(path, {**more, **told}), "sides" in told
    if form == "openvino":
        model, any_size = openvino_files.converted(tuned, sample)
        if images is not None:
            model = _by_tool(form, tuned, lambda: openvino_files.quantized(model, images.numpy()))
        half = images is None
        openvino_files.save(model, path, {}, half)
        sides = {"sides": f"any multiples of {sample.multiple}"} if any_size else {}
        return lambda more: openvino_files.save(model, path, {**more, **sides}, half), any_size
    assert form == "executorch"
    assert images is not None
    executorch_file.require()
    program = _by_tool(form, tuned, lambda: executorch_file.quantized(tuned, sample, images))
    most = executorch_file.write_program(tuned, program, path)
    executorch_file.tell(path, {}, most)
    return lambda more: executorch_file.tell(path, more, most), False


def _by_tool(form: str, tuned: Tuned, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError:
        raise
    except Exception as problem:  # whatever a runtime's quantizer cannot do with a graph
        raise Refusal(
            f"precision=int8: the quantizer of format={form} does not take {described(tuned)} "
            f"({type(problem).__name__}: {first_sentence(problem, 200)}); precision=fp32 works."
        ) from None


@torch.no_grad()
def measured(run: FinishedRun, tested: Tuned, answer: Callable[[Tensor], Tensor]) -> Measured:
    """A file beside the model, on at most `LOOKED_AT` of the run's test images, or validation images without any.

    Args:
        run: gives the images.
        tested: the model, as a file can hold it: one look at an image.
        answer: the file's logits for images in [0, 1].

    Raises:
        UserError: the images are gone.
    """
    _, validation, test = load_splits(run.config).roles(run.config.data.stage)
    name, split = ("test", test) if test is not None else ("val", validation)
    assert split is not None
    rows = np.sort(np.random.default_rng(SEED).permutation(len(split))[:LOOKED_AT])
    task, metric = tested.model.task, results_of_record(run.record).metric
    ours, theirs = task.metrics(), task.metrics()
    same = looked = images = 0
    for first in range(0, len(rows), _BATCH):
        batch = _batch(tested, split.take(rows[first : first + _BATCH]))
        if batch is None:
            continue
        with tested.precision():
            model = to_host(tested.model.evaluate(to_device(batch, tested.device)))
        file = task.judged(answer(batch.images.float() / 255), batch)
        targets = task.targets(batch)
        ours.update(model, targets)
        theirs.update(file, targets)
        images += len(batch.images)
        for one, other in zip(model, file, strict=True):
            alike = one == other if task.segments else one.argmax(-1) == other.argmax(-1)
            same, looked = same + int(alike.sum()), looked + alike.numel()
    if not images:
        raise UserError(f"{run.folder}: none of {len(rows)} {name} images can be read.")
    compares = task.segments or task.solved_as == "classes"
    model_has, file_has = (float(_value(metrics, metric)) for metrics in (ours, theirs))
    return Measured(metric, images, name, model_has, file_has, same / looked if compares else None)


def _batch(tuned: Tuned, part: Split) -> Any:
    """A batch of the images that can be read; None where none can."""
    try:
        images = tuned.transform.plain().over(replace(part), "skip", 1.0, lambda done, of: None)
    except Refusal:
        raise
    except UserError:
        return None
    return images.__getitems__(Indices(range(len(images)), None))


def _value(metrics: Any, name: str) -> Tensor:
    computed = metrics.compute()
    return computed[name] if isinstance(computed, dict) else computed
