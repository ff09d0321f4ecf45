"""OpenVINO's files by its own converter from a traced program; int8 by NNCF."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.lacking import lacks
from peftbench.tuned.export.traced import answers_of, described, quiet, sides, traced
from peftbench.tuned.load import Tuned
from peftbench.tuned.runtimes.base import library
from peftbench.tuned.runtimes.openvino_model import ABOUT


def to_openvino(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes the XML and its weights, runs them on photos and returns the largest difference.

    Raises:
        UserError: openvino is missing, or the file computes something else.
        Refusal: the model cannot be traced, or holds an operator that OpenVINO has not.
    """
    model, any_size = converted(tuned, sample)
    save(model, path, {**told, **sides(sample, any_size)})
    return sample.difference(answers_of(path), "format=openvino", any_size)


def converted(tuned: Tuned, sample: Sample) -> tuple[Any, bool]:
    """(OpenVINO's model with an open batch, whether its images may have any size). Raises as `to_openvino`."""
    openvino = library("openvino", "openvino")
    program, any_size = traced(tuned, sample, "openvino")
    with quiet():
        try:
            model = openvino.convert_model(program)
        except Exception as problem:  # OpConversionFailure and what its frontend raises besides
            raise lacks("openvino", described(tuned), program, problem) from None
    shape = [-1, *sample.images.shape[1:]]
    if any_size:
        shape[2:] = [-1, -1]
    if sample.decoded:
        shape = [-1, -1, -1, 3]
    with contextlib.suppress(RuntimeError):  # a graph that needs another shape keeps its own, all open
        model.reshape({0: openvino.PartialShape(shape)})
    model.inputs[0].get_tensor().set_names({"images"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model, any_size


def save(model: Any, path: Path, told: Mapping[str, str], half: bool = False) -> None:
    """Writes a model with what it says of itself; `half` keeps the weights in fp16."""
    openvino = library("openvino", "openvino")
    for key, value in told.items():
        model.set_rt_info(value, [ABOUT, key])
    openvino.save_model(model, str(path), compress_to_fp16=half)


def quantized(model: Any, images: Any) -> Any:
    """The model in int8, per channel, calibrated by NNCF on float32 images in [0, 1], (N, 3, H, W)."""
    nncf = library("nncf", "openvino")
    attends = any(op.get_type_name() in ("Softmax", "ScaledDotProductAttention") for op in model.get_ops())
    kind = nncf.ModelType.TRANSFORMER if attends else None
    with quiet():
        return nncf.quantize(
            model, nncf.Dataset([one[None] for one in images]), subset_size=len(images), model_type=kind
        )
