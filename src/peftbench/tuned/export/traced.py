"""ONNX and exported programs, both traced by `torch.export`, with a batch of any size; images too, where a task can."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.notes import note
from peftbench.tuned.export.graph import Graph, Sample
from peftbench.tuned.export.lacking import lacks
from peftbench.tuned.export.onnx_metadata import tell
from peftbench.tuned.export.whole import WholeGraph
from peftbench.tuned.load import Tuned
from peftbench.tuned.runtimes import open_exported
from peftbench.tuned.runtimes.torch_program import ABOUT

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
"""The names of the axes whose lengths are open: how many images, or clips, come at once; the sides of an image."""
_MOST = 4096  # times the number that divides a side
LONGEST = 32768
"""Pixels of a side of an image that a file resizes itself."""
ONNX_BYTES = 2 * 10**9
"""A single ONNX file is a protobuf, which holds no more."""


def to_program(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes `torch.export`'s format, reads it again and returns the largest difference. Raises UserError."""
    program, any_size = traced(tuned, sample, "torch_export")
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    told = {**told, **sides(sample, any_size)}
    whole = io.BytesIO()  # torch writes its zip in C++, and on a full disk that ends the process on the spot
    torch.export.save(program, whole, extra_files={ABOUT: json.dumps(told)})
    with path.open("wb") as file:
        file.write(whole.getbuffer())
    del whole
    return sample.difference(answers_of(path), "format=torch_export", any_size)


def to_onnx(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes ONNX, runs it in onnxruntime on photos and returns the largest difference. Raises UserError."""
    require_onnx(tuned)
    program, any_size = traced(tuned, sample, "onnx")
    axes = {0: BATCH, 2: HEIGHT, 3: WIDTH} if any_size else {0: BATCH}
    axes = {0: BATCH, 1: HEIGHT, 2: WIDTH} if sample.decoded else axes
    with quiet():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=(axes,),  # a program keeps no names of its axes
                external_data=False,
            )
        except Exception as problem:  # whatever operator has no translation
            raise lacks("onnx", described(tuned), program, problem) from None
    assert made is not None
    made.save(str(path), external_data=False)
    tell(path, {**told, **sides(sample, any_size)})
    return sample.difference(answers_of(path), "format=onnx", any_size)


def answers_of(path: Path) -> Callable[[Tensor], Tensor]:
    """The logits that a file gives for images in [0, 1], read again and run as its users run it."""
    runtime = open_exported(path)
    return lambda images: torch.from_numpy(runtime(images))


def require_onnx(tuned: Tuned) -> None:
    """Raises UserError where a library is missing, and Refusal where the model is larger than an ONNX file."""
    try:
        for library in ("onnx", "onnxruntime", "onnxscript"):  # torch.onnx makes its graphs with the last
            importlib.import_module(library)
    except ImportError as problem:
        raise UserError(f"format=onnx: needs {problem.name}; pip install 'peftbench[onnx]'.") from None
    size = sum(t.nbytes for t in tuned.state_dict().values())
    if size > ONNX_BYTES:
        raise Refusal(
            f"format=onnx: the model has {size / 1e9:.1f} GB, and one ONNX file holds 2 GB; format=torch_export works."
        )


def traced(
    tuned: Tuned, sample: Sample, format_: str, most: int | None = None
) -> tuple[torch.export.ExportedProgram, bool]:
    """The program, and whether its images may have any size. Raises Refusal.

    Where a format bounds the batch, `most` is the largest one, and images have the run's size.
    """
    if sample.decoded:
        return _traced_whole(tuned, sample, format_), False
    graph, example = Graph(tuned), sample.images[:2].float() / 255
    axes = batch_axes(most)
    with torch.no_grad(), quiet():
        graph(example)  # what modules keep in eval mode (attention biases) is kept of real tensors, not of traced ones
        if sample.larger is not None and most is None:
            large = sample.larger[0][:2].float() / 255  # of unequal sides, and with no map of a single entry
            height, width = (torch.export.Dim(name, min=1, max=_MOST) for name in (HEIGHT, WIDTH))
            sides = {2: sample.multiple * height, 3: sample.multiple * width}
            with contextlib.suppress(Exception):  # whatever fixes a size; then the file is of the run's
                program = torch.export.export(graph, (large,), dynamic_shapes=({**axes, **sides},), strict=False)
                return program, True
        try:
            program = torch.export.export(graph, (example,), dynamic_shapes=(axes,), strict=False)
        except Exception as problem:  # whatever the model does that cannot be traced
            raise _refused(format_, tuned, problem) from None
    if sample.larger is not None and most is None:
        note(
            f"format={format_}: {tuned.run.config.backbone.name} with method={tuned.run.config.method.name} cannot be "
            f"traced for images of any size; the file takes those of {example.shape[2]} x {example.shape[3]} pixels."
        )
    return program, False


def _traced_whole(tuned: Tuned, sample: Sample, format_: str) -> torch.export.ExportedProgram:
    """The program that resizes too. Raises Refusal."""
    graph, example = WholeGraph(tuned), sample.decoded[0][0]
    axes = {0: torch.export.Dim(BATCH)} | {
        axis: torch.export.Dim(name, min=1, max=LONGEST) for axis, name in ((1, HEIGHT), (2, WIDTH))
    }
    with torch.no_grad(), quiet():
        graph(example)
        try:
            return torch.export.export(graph, (example,), dynamic_shapes=(axes,), strict=False)
        except Exception as problem:  # as in `_traced`
            raise _refused(format_, tuned, problem) from None


def batch_axes(most: int | None = None) -> dict[int, Any]:
    """The axis of the batch, which is open, up to `most` images."""
    return {0: torch.export.Dim(BATCH) if most is None else torch.export.Dim(BATCH, min=1, max=most)}


def sides(sample: Sample, any_size: bool) -> dict[str, str]:
    """What a file says of the images that it takes, where they may have any size."""
    return {"sides": f"any multiples of {sample.multiple}"} if any_size else {}


def _refused(format_: str, tuned: Tuned, problem: Exception) -> Refusal:
    return Refusal(
        f"format={format_}: {described(tuned)} cannot be traced with a batch of any "
        f"size ({type(problem).__name__}: {first_sentence(problem, 200)}); peftbench.load gives the model itself."
    )


def described(tuned: Tuned) -> str:
    """The model in words: which backbone with which method."""
    spec = tuned.run.config
    return f"{spec.backbone.name} with method={spec.method.name}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
