"""The tensors of a backbone as a file that graphs of ONNX share, and graphs that read them from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.tuned.bundle.manifest import BaseFile

SMALLEST = 256
"""Bytes from which on a tensor is shared: what is smaller costs less than to say where it lies."""
_PAGE, _LINE = 4096, 64
_OPEN = {"height": 224, "width": 224}
"""Sides of an image of noise, where a graph takes any; of other open axes two."""


@torch.no_grad()
def known_tensors(backbone: Backbone) -> frozenset[str]:
    """sha256 of the bytes of each tensor of a backbone as it is before any method; of matrices also turned over."""
    return frozenset(_digest(form) for tensor in _tensors(backbone.net) for form in _forms(tensor))


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    yield from net.parameters()
    yield from net.buffers()
    for module in net.modules():  # of what is pruned to zeros: the weights that it computes with
        if parametrize.is_parametrized(module):
            yield from (getattr(module, name) for name in module.parametrizations)  # type: ignore[union-attr]


def _forms(tensor: Tensor) -> Iterator[bytes]:
    """Its bytes, as an exporter writes them."""
    if tensor.numel() * tensor.element_size() < SMALLEST or tensor.dtype == torch.bfloat16:
        return
    plain = tensor.detach().cpu()
    yield plain.contiguous().numpy().tobytes()
    if plain.ndim == 2:
        yield plain.T.contiguous().numpy().tobytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Shared:
    """Where the backbone's tensors lie; what lies nowhere yet goes into one new file.

    Args:
        known: `known_tensors`.
        files: those that are there, by name.
        new: the name of the new one.
    """

    def __init__(self, known: frozenset[str], files: Mapping[str, BaseFile], new: str) -> None:
        self.known, self.new = known, new
        self.places = {digest: (name, *place) for name, file in files.items() for digest, place in file.tensors.items()}
        self.added: dict[str, tuple[int, int]] = {}
        self.data = bytearray()

    def place(self, data: bytes) -> tuple[str, int, int] | None:
        """(file, offset, length) of a tensor's bytes; None where they are not of the backbone."""
        if len(data) < SMALLEST or (digest := _digest(data)) not in self.known:
            return None
        if digest not in self.places:
            step = _PAGE if len(data) >= 16 * _PAGE else _LINE
            self.data.extend(bytes(-len(self.data) % step))
            self.added[digest] = len(self.data), len(data)
            self.places[digest] = self.new, len(self.data), len(data)
            self.data.extend(data)
        return self.places[digest]


def share_tensors(whole: Path, path: Path, shared: Shared) -> tuple[list[str], int]:
    """Writes a graph that reads the backbone's tensors from elsewhere; returns the files that it reads, and the bytes.

    What the exporter noted of each operator (lines of source, as they lie on this machine) is left out.

    Args:
        whole: a graph with all of its tensors.
        path: where the other one goes.
        shared: gives places, and takes tensors that are in no file yet.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(whole))
    read: dict[str, int] = {}
    for node in model.graph.node:
        node.ClearField("metadata_props")
    for tensor in model.graph.initializer:
        values = np.ascontiguousarray(numpy_helper.to_array(tensor))
        place = shared.place(values.tobytes())
        if place is None:
            continue
        name, offset, length = place
        _point(onnx, tensor, {"location": name, "offset": str(offset), "length": str(length)})
        read[name] = read.get(name, 0) + length
    onnx.save(model, str(path))
    return sorted(read), sum(read.values())


def _point(onnx: Any, tensor: Any, where: Mapping[str, str]) -> None:
    """Has a tensor of a graph lie in another file."""
    for values in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(values)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in where.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def transform_in(whole: Path) -> dict[str, object]:
    """How the images of a graph are prepared, as it says itself."""
    import onnx

    told = {entry.key: entry.value for entry in onnx.load(str(whole)).metadata_props}
    transform: dict[str, object] = json.loads(told["transform"])
    return transform


def refuse_other_answers(whole: Path, graph: Path) -> None:
    """Runs both in onnxruntime on images of noise. Raises UserError where they do not answer alike."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises all the same
    answers = []
    for path in (whole, graph):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (asked,) = session.get_inputs()
        sides = [side if isinstance(side, int) else _OPEN.get(side, 2) for side in asked.shape]
        noise = np.random.default_rng(0).random(sides, dtype=np.float32)
        answers.append(session.run(None, {asked.name: noise}))
    if not all(np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(*answers, strict=True)):
        raise UserError(f"{graph}: answers otherwise than the graph that it was made of, so nothing is written.")
