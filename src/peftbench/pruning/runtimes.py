"""Modules as a runtime computes them, one image at a time in one thread, and how long that takes."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence

Call = Callable[[], object]
_OPSET = 17
_WARM, _TURN = 3, 0.004  # calls before any counts; seconds of one turn of one module
LIBRARIES = {"onnx": ("onnx", "onnxruntime"), "torch": ("torch",)}
"""Runtime -> the libraries that it needs; the last computes."""


def refuse_missing_runtime(runtime: str) -> None:
    """Raises UserError where a library of the runtime is not installed."""
    for library in LIBRARIES[runtime]:
        try:
            importlib.import_module(library)
        except ImportError:
            raise UserError(
                f"pruning.runtime={runtime}: needs {library}; pip install 'peftbench[onnx]', or give "
                f"pruning.runtime=torch."
            ) from None


def runtime_in_words(runtime: str) -> str:
    """The library that computes, with its version."""
    library = LIBRARIES[runtime][-1]
    return f"{library} {version(library)}"


def call_of(module: nn.Module, image: Tensor, runtime: str) -> Call:
    """What computes the module's answer for `image`, its input with a batch of one, in one thread.

    Raises:
        Refusal: the module cannot be traced.
    """
    module.eval()  # which gives nothing back where timm has its own `train`
    if runtime == "torch":
        return _in_torch(module, image)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(_traced(module, image), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # an operator that the exporter, or the runtime, lacks
        raise Refusal(
            f"pruning.runtime=onnx: {type(module).__name__} cannot be traced ({first_sentence(problem)}); "
            f"pruning.runtime=torch works."
        ) from None
    given = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, given)


def _in_torch(module: nn.Module, image: Tensor) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return module(image)

    return call


def _traced(module: nn.Module, image: Tensor) -> bytes:
    said = io.StringIO()
    file: Any = io.BytesIO()  # taken too, though torch's signature does not say so
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    fused: list[Any] = [m for m in module.modules() if getattr(m, "fused_attn", False)]
    try:
        for attention in fused:  # the exporter that traces cannot take the fused form of timm's
            attention.fused_attn = False
        with (
            torch.no_grad(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            module(image)  # what modules keep in eval mode is kept of real tensors
            torch.onnx.export(module, (image,), file, dynamo=False, opset_version=_OPSET)
    finally:
        logging.disable(before)
        for attention in fused:
            attention.fused_attn = True
    return file.getvalue()


def times_of(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each of so many rounds, in which they take turns.

    A turn is several calls of one module, and counts as the quickest of them: what else the machine does only adds.
    """
    with _one_thread():
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            for _ in range(_WARM):
                call()
        for _ in range(rounds):
            for name, call in calls.items():
                taken[name].append(_turn(call))
    return taken


def share_of_time(small: Call, whole: Call, rounds: int) -> tuple[float, float, float]:
    """(seconds of `small`, seconds of `whole`, their ratio): the least over rounds in which they take turns."""
    taken = quickest(times_of({"small": small, "whole": whole}, rounds))
    return taken["small"], taken["whole"], taken["small"] / taken["whole"]


def quickest(taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The least time of each call."""
    return {name: min(times) for name, times in taken.items()}


def _turn(call: Call) -> float:
    least, began = float("inf"), time.perf_counter()
    while True:
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        least = min(least, after - before)
        if after - began > _TURN:
            return least


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
