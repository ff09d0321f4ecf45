"""The contract of a runtime: a file, what it says of itself, and answers for images."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peftbench.common.errors import Refusal, UserError

SIDECAR = ".json"
"""What is added to the name of a file whose format has no place for what it says of itself."""


class Runtime(ABC):
    """An exported file, opened for running on the CPU.

    Attributes:
        path: the file.
        told: what the file says of itself: run, method, classes, transform, normalisation, precision, …
        outputs: the names of what the graph gives, in its order.
        takes_one: whether it takes one image (3, h, w), as detectors do, and no batch.
        takes_decoded: whether it resizes too, and takes images as they are decoded: uint8 (B, h, w, 3).
        most: the largest batch that the file takes at once; None where there is none.
    """

    format: ClassVar[str]
    """As in `peftbench export format=…`."""
    library: ClassVar[str]
    """What runs it, for tables."""
    outputs: tuple[str, ...] = ("logits",)
    takes_one: bool = False
    most: int | None = None

    def __init__(self, path: Path, told: Mapping[str, str]) -> None:
        self.path, self.told = path, dict(told)
        self.takes_decoded = self.told.get("inside") == "all"
        self.most = int(self.told["largest_batch"]) if self.told.get("largest_batch", "").isdigit() else None

    @property
    def precision(self) -> str:
        """fp32, fp16 or int8: in what most of it computes, or is kept."""
        return self.told.get("precision", "fp32")

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""
        return tuple(json.loads(self.told.get("classes", "[]")))

    def answers(self, images: Any) -> dict[str, np.ndarray]:
        """What the graph gives, by name.

        Args:
            images: numpy, or a torch tensor on the CPU: float32 (B, 3, H, W) in [0, 1], or clips (B, T, 3, H, W); one
                image (3, h, w) where the file `takes_one`; uint8 (B, h, w, 3) where it `takes_decoded`, or a list of
                such images of one size. Batches larger than `most` go through in parts.

        Raises:
            UserError: it takes no such images.
        """
        if self.takes_decoded:
            return self._answers_of_decoded(images)
        array = np.ascontiguousarray(np.asarray(images), dtype=np.float32)
        if self.takes_one and array.ndim == 4 and len(array) == 1:
            array = array[0]
        if self.takes_one != (array.ndim == 3):
            takes = "one image (3, h, w)" if self.takes_one else "a batch (B, 3, H, W)"
            raise UserError(f"{self.path}: takes {takes}, and what was given has the shape {array.shape}.")
        return self._in_parts(array)

    def _answers_of_decoded(self, images: Any) -> dict[str, np.ndarray]:
        sizes = [tuple(np.shape(image)) for image in images] if isinstance(images, list | tuple) else []
        if len(set(sizes)) > 1:
            several = " and ".join(str(size) for size in dict.fromkeys(sizes))
            raise UserError(f"{self.path}: takes images of one size at a time, and these have the shapes {several}.")
        array = np.array(images, order="C")  # a copy: what a decoder gives cannot be written to, of which torch warns
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise UserError(
                f"{self.path}: takes decoded images, uint8 (B, h, w, 3), and what was given is {array.dtype} of the "
                f"shape {array.shape}."
            )
        return self._in_parts(array)

    def _in_parts(self, array: np.ndarray) -> dict[str, np.ndarray]:
        try:
            if self.most is None or len(array) <= self.most or self.takes_one:
                return self._run(array)
            parts = [self._run(array[i : i + self.most]) for i in range(0, len(array), self.most)]
        except UserError:
            raise
        except Exception as problem:  # each runtime has classes of its own
            from peftbench.common.foreign_text import first_sentence

            raise UserError(
                f"{self.path}: does not run on images of shape {array.shape} ({first_sentence(problem, 200)})."
            ) from None
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def __call__(self, images: Any) -> np.ndarray:
        """Logits, float32: (B, classes), or (B, classes, H, W) of a segmenter. Raises UserError."""
        if len(self.outputs) != 1:
            raise UserError(f"{self.path}: gives {', '.join(self.outputs)}, and no logits; ask for its answers.")
        return self.answers(images)[self.outputs[0]]

    @abstractmethod
    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """As `answers`, of an array that fits."""


def library(name: str, format_: str, extra: str | None = None) -> Any:
    """The module of that name. Raises UserError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        missing = (problem.name or name).partition(".")[0]
        raise UserError(f"format={format_}: needs {missing}; pip install 'peftbench[{extra or format_}]'.") from None


def beside(path: Path) -> Path:
    """Where the metadata of a file lie whose format has no place for them."""
    return path.with_name(path.name + SIDECAR)


def told_beside(path: Path) -> dict[str, str]:
    """The metadata beside a file; none where there is no such file. Raises UserError where it is damaged."""
    file = beside(path)
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        told = None
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise UserError(f"{file}: is no metadata of an exported file; export the run again.")
    return told


def not_of(path: Path, format_: str, why: str) -> Refusal:
    """The answer to a file that is not what its name says."""
    return Refusal(f"{path}: is no file of format={format_} ({why}); peftbench export writes one.")
