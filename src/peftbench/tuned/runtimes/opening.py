"""Which runtime opens which file: told by its name and its first bytes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peftbench.common.errors import Refusal, UserError
from peftbench.common.regular_files import open_binary
from peftbench.tuned.runtimes.base import Runtime, not_of

_HEAD = 512  # bytes


@dataclass(frozen=True)
class Entry:
    """How files of a format are told, and what runs them.

    Attributes:
        suffix: of the file's name.
        place: module and class, imported when such a file is opened.
        begins: whether these are the first bytes of such a file.
        found: what such a file begins with, in words.
    """

    suffix: str
    place: str
    begins: Callable[[bytes], bool]
    found: str

    def runtime(self) -> type[Runtime]:
        """Its class."""
        module, _, name = self.place.partition(":")
        kind: type[Runtime] = getattr(importlib.import_module(f"peftbench.tuned.runtimes.{module}"), name)
        return kind


RUNTIMES = {
    "onnx": Entry(".onnx", "onnx_graph:OnnxGraph", lambda head: head[:1] == b"\x08", "a protobuf's version"),
    "torch_export": Entry(".pt2", "torch_program:TorchProgram", lambda head: head[:2] == b"PK", "a zip's header"),
    "openvino": Entry(".xml", "openvino_model:OpenvinoModel", lambda head: b"<net" in head, "a <net> in XML"),
    "executorch": Entry(".pte", "executorch_program:ExecutorchProgram", lambda h: h[4:6] == b"ET", "ET's identifier"),
}
"""The formats that run here, by the names that `peftbench export` has for them."""
_ELSEWHERE = {
    ".safetensors": "is a state dict of timm's and no graph; timm loads it, or export the run with format=onnx",
    ".mlpackage": "is of Core ML, which runs on Apple's systems only",
    ".tflite": "is of LiteRT, whose interpreter runs in an environment of its own",
}


def open_exported(path: str | Path, threads: int | None = None) -> Runtime:
    """The runtime of an exported file.

        model = open_exported("outputs/RUN/model.onnx", threads=1)
        logits = model(images)  # float32 (B, 3, H, W) in [0, 1]

    Args:
        path: the file that `peftbench export` wrote.
        threads: how many the runtime computes with; None is its own choice.

    Raises:
        UserError: there is no such file, it is damaged, or the library that runs it is missing.
        Refusal: no runtime here takes such a file.
    """
    path = Path(path).expanduser()
    return RUNTIMES[format_of(path)].runtime()(path, threads)  # type: ignore[arg-type]


def format_of(path: str | Path) -> str:
    """The name of an exported file's format, by its suffix and its first bytes. Raises as `open_exported`."""
    path = Path(path).expanduser()
    known = {entry.suffix: name for name, entry in RUNTIMES.items()}
    if not path.exists():
        raise UserError(f"{path}: there is no such file; peftbench export run=… format=… writes one.")
    if why := _ELSEWHERE.get(path.suffix.lower()):
        raise Refusal(f"{path}: {why}.")
    name = known.get(path.suffix.lower())
    if name is None or path.is_dir():
        what = "a folder" if path.is_dir() else f"of another kind ({path.suffix or 'no suffix'})"
        raise Refusal(f"{path}: is {what}; what runs here are files named {', '.join(known)}.")
    with open_binary(path) as file:
        head = file.read(_HEAD)
    if not RUNTIMES[name].begins(head):
        raise not_of(path, name, f"it does not begin with {RUNTIMES[name].found}")
    return name
