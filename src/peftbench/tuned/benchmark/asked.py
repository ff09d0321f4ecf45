"""What is to be measured: formats by the names that the command line has for them. Needs no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.common.errors import UserError, nearest
from peftbench.tuned.run_folder import PRECISIONS

TORCH = "torch"
"""The model itself, in eager mode."""
_LIBRARIES = {
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "torch_export": ("torch",),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
}
"""Format -> the modules that write and run it."""
_FOR_INT8 = {"openvino": ("nncf",), "executorch": ("torchao",)}
_WHERE_ASKED_FOR = ("torch_export",)  # which needs torch, as the model itself does
_EXTRAS = {"onnx": "onnx", "openvino": "openvino", "executorch": "executorch"}


@dataclass(frozen=True)
class Measured:
    """A format in a precision.

    Attributes:
        name: as it is asked for, such as `onnx-int8`.
        format: as `peftbench export` has it, or `torch`.
        precision: fp32, fp16 or int8.
    """

    name: str
    format: str
    precision: str = "fp32"

    def missing(self) -> str | None:
        """The first library that is not here, if one is not."""
        modules = (
            *_LIBRARIES.get(self.format, ()),
            *(_FOR_INT8.get(self.format, ()) if self.precision == "int8" else ()),
        )
        return next((module for module in modules if importlib.util.find_spec(module) is None), None)


def known_formats() -> dict[str, Measured]:
    """All that can be asked for, by name."""
    known = {TORCH: Measured(TORCH, TORCH)}
    for format_ in _LIBRARIES:
        for precision in PRECISIONS.get(format_, ("fp32",)):
            name = format_ if precision == "fp32" else f"{format_}-{precision}"
            known[name] = Measured(name, format_, precision)
    return known


def chosen_formats(names: Sequence[str]) -> list[Measured]:
    """The formats of these names, each once; without any all usual ones whose libraries are here.

    Raises:
        UserError: an unknown name, or a library that is missing.
    """
    known = known_formats()
    if not names:
        return [each for each in known.values() if each.missing() is None and each.format not in _WHERE_ASKED_FOR]
    for name in names:
        if name not in known:
            raise UserError(f"formats={name}: expected some of {', '.join(known)}{nearest(name, known)}.")
        if module := known[name].missing():
            extra = _EXTRAS.get(known[name].format, known[name].format)
            raise UserError(f"formats={name}: needs {module}; pip install 'peftbench[{extra}]'.")
    return [known[name] for name in dict.fromkeys(names)]


def chosen_threads(words: Sequence[str]) -> list[int]:
    """Numbers of threads. Raises UserError."""
    for word in words:
        if not word.isdecimal() or not 0 < int(word) <= 1024:
            raise UserError(f"threads={word}: expected whole numbers from 1, such as threads=1,2.")
    return sorted({int(word) for word in words})
