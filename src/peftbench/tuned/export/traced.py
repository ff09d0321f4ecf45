"""ONNX and exported programs, both traced by `torch.export`, with a batch of any size."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.tuned.export.graph import Graph, Sample
from peftbench.tuned.load import Tuned

BATCH = "batch"
"""The name of the one axis whose length is open: how many images, or clips, come at once."""
ONNX_BYTES = 2 * 10**9
"""A single ONNX file is a protobuf, which holds no more."""


def to_program(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes `torch.export`'s format, reads it again and returns the largest difference. Raises UserError."""
    program = _traced(tuned, sample, "torch_export")
    whole = io.BytesIO()  # torch writes its zip in C++, and on a full disk that ends the process on the spot
    torch.export.save(program, whole, extra_files={"peftbench.json": json.dumps(dict(told))})
    with path.open("wb") as file:
        file.write(whole.getbuffer())
    del whole
    return sample.difference(torch.export.load(path).module(), "format=torch_export")


def to_onnx(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes ONNX, runs it in onnxruntime on photos and returns the largest difference. Raises UserError."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch.onnx makes its graphs with
    except ImportError as problem:
        raise UserError(f"format=onnx: needs {problem.name}; pip install 'peftbench[onnx]'.") from None
    size = sum(t.nbytes for t in tuned.state_dict().values())
    if size > ONNX_BYTES:
        raise Refusal(
            f"format=onnx: the model has {size / 1e9:.1f} GB, and one ONNX file holds 2 GB; format=torch_export works."
        )
    program = _traced(tuned, sample, "onnx")
    with _quiet():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: BATCH},),  # a program keeps no names of its axes
                external_data=False,
            )
        except Exception as problem:  # whatever operator has no translation
            raise _refused("onnx", tuned, problem) from None
    assert made is not None
    made.save(str(path), external_data=False)
    model = onnx.load(str(path))
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])

    return sample.difference(answer, "format=onnx")


def _traced(tuned: Tuned, sample: Sample, format_: str) -> torch.export.ExportedProgram:
    graph, example = Graph(tuned), sample.images[:2].float() / 255
    with torch.no_grad(), _quiet():
        graph(example)  # what modules keep in eval mode (attention biases) is kept of real tensors, not of traced ones
        try:
            program = torch.export.export(
                graph, (example,), dynamic_shapes=({0: torch.export.Dim(BATCH)},), strict=False
            )
        except Exception as problem:  # whatever the model does that cannot be traced
            raise _refused(format_, tuned, problem) from None
    return program


def _refused(format_: str, tuned: Tuned, problem: Exception) -> Refusal:
    spec = tuned.run.config
    return Refusal(
        f"format={format_}: {spec.backbone.name} with method={spec.method.name} cannot be traced with a batch of any "
        f"size ({type(problem).__name__}: {first_sentence(problem, 200)}); peftbench.load gives the model itself."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch and onnxscript, which tell of their passes on three channels; what fails raises all the same."""
    said: Any = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
