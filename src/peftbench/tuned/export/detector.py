"""A tuned detector as ONNX, by the exporter that traces: the other one fails where the number of boxes is open."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.data.decoding import open_rgb
from peftbench.data.media import IMAGES
from peftbench.tuned.export.graph import PHOTOS, Graph
from peftbench.tuned.export.lacking import lacks
from peftbench.tuned.export.onnx_metadata import tell
from peftbench.tuned.export.openvino_files import save
from peftbench.tuned.export.traced import described, quiet, require_onnx
from peftbench.tuned.load import Tuned
from peftbench.tuned.runtimes import open_exported
from peftbench.tuned.runtimes.base import library

SCORE = 1e-3
"""How far the score of a box may be from the model's: rounding stays far below it."""
_OPSET = 17
_MOST_PER_SIDE = 0.01  # of the longer side: how far a box may be from the model's
_SHARE = 0.95  # of the boxes must be those of the model: of two that overlap alike, rounding may keep the other one
_SHAPES = ((4, 3), (3, 4), (2, 1))  # of the photos that are tried, width to height


class DetectorGraph(Graph):
    """An image in [0, 1], float32 (3, h, w) that fits the canvas, to what is found on it in its own pixels."""

    colour: Tensor

    def __init__(self, tuned: Tuned) -> None:
        super().__init__(tuned)
        self.canvas, self.divisor = tuned.transform.size, tuned.transform.divisor  # type: ignore[attr-defined]
        self.register_buffer("colour", tuned.transform.colour[:, None, None] / 255)  # type: ignore[attr-defined]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """`boxes` (n, 4), `scores` (n,), `labels` (n,) and, where masks are learned, `masks` (n, 28, 28)."""
        height, width = image.shape[-2:]
        full_height, full_width = self.canvas or (self._rounded_up(height), self._rounded_up(width))
        padded = F.pad(image - self.colour, (0, full_width - width, 0, full_height - height)) + self.colour
        if self.canvas is not None:  # behind the padding a trace knows no size, which some operators ask for
            padded = padded.reshape(3, *self.canvas)
        padded = (padded[None] - self.mean) / self.std
        found = self.task.found(lambda images: self.adapted(images), self.backbone, padded, (height, width))
        return tuple(found.values())

    def _rounded_up(self, side: Any) -> Any:
        return (side + self.divisor - 1) // self.divisor * self.divisor


@dataclass(frozen=True)
class Tried:
    """An image as the input of a detector, uint8 (3, h, w), and what the run's model finds on it."""

    image: Tensor
    found: Mapping[str, Tensor]


def to_detector(tuned: Tuned, tested: Tuned, path: Path, told: Mapping[str, str]) -> float:
    """Writes ONNX, runs it in onnxruntime on photos of several sizes, and returns the largest difference of a score.

    Where the model finds nothing on them at its own threshold, it is tried with none first.

    Args:
        tuned: what is exported.
        tested: the run's model, as it was tested.
        path: the file.
        told: what the file says of itself.

    Raises:
        UserError: a library is missing, or the file finds something else than the model.
        Refusal: the model cannot be traced.
    """
    require_onnx(tuned)
    photos = _photos(tuned)
    tried = [_tried(tested, photo) for photo in photos]
    if not any(len(one.found["scores"]) for one in tried):
        free, free_tested = copy.deepcopy(tuned), copy.deepcopy(tested)
        for model in (free, free_tested):
            task: Any = model.model.task
            task.without_threshold()
        _write(free, path, {})
        _difference(path, [_tried(free_tested, photo) for photo in photos], tuned)
    _write(tuned, path, {**told, **_usage(tuned)})
    return _difference(path, tried, tuned)


def to_openvino_detector(tuned: Tuned, tested: Tuned, path: Path, told: Mapping[str, str]) -> float:
    """As `to_detector`, for OpenVINO, which converts the ONNX."""
    openvino = library("openvino", "openvino")
    graph = path.with_name("graph.onnx")
    to_detector(tuned, tested, graph, told)
    with quiet():
        try:
            model = openvino.convert_model(str(graph))
        except Exception as problem:  # OpConversionFailure and what its frontend raises besides
            raise lacks("openvino", described(tuned), None, problem) from None
    graph.unlink()
    save(model, path, {**told, **_usage(tuned)})
    return _difference(path, [_tried(tested, photo) for photo in _photos(tuned)], tuned)


def _write(tuned: Tuned, path: Path, told: Mapping[str, str]) -> None:
    graph, example = DetectorGraph(tuned), _photos(tuned)[0].float() / 255
    names = output_names(tuned)
    with torch.no_grad(), quiet(), _unprinted(), _matrices_transposed():
        graph(example)  # as in `traced`: what modules keep in eval mode is kept of real tensors
        try:
            torch.onnx.export(
                graph,
                (example,),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=names,
                dynamic_axes={"image": {1: "height", 2: "width"}, **{name: {0: "found"} for name in names}},
            )
        except Exception as problem:  # whatever the model does that cannot be traced
            raise _refused(tuned, problem) from None
    tell(path, told)


@contextlib.contextmanager
def _unprinted() -> Iterator[None]:
    """Silences torch's own code, which prints a whole graph past Python's streams where it cannot export it."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _matrices_transposed() -> Iterator[None]:
    """Has the exporter know `Tensor.mT`, which it lacks."""
    torch.onnx.register_custom_op_symbolic("aten::mT", _transposed, 9)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::mT", 9)


def _transposed(g: Any, x: Any) -> Any:
    axes = list(range(x.type().dim()))
    axes[-2:] = axes[:-3:-1]
    return g.op("Transpose", x, perm_i=axes)


def output_names(tuned: Tuned) -> list[str]:
    """What the graph of a detector gives."""
    return ["boxes", "scores", "labels", *(["masks"] if tuned.model.task.finds_masks else [])]


def _usage(tuned: Tuned) -> dict[str, str]:
    """What a caller must feed and gets back."""
    transform: Any = tuned.transform
    if transform.size is None:
        shorter, longest = transform.min_size[-1], transform.max_size
        scale = f"min({shorter} / shorter side, {longest} / longer side)"
    else:
        scale = f"min({transform.size[0]} / height, {transform.size[1]} / width), to at most that"
    masks = (
        "; masks: probabilities (n, 28, 28) of the pixels within each box, to be resized to it and cut at 0.5"
        if tuned.model.task.finds_masks
        else ""
    )
    return {
        "input": f"image: one upright RGB image, float32 (3, h, w) in [0, 1], resized with its aspect by {scale} "
        f"({transform.interpolation}); it is padded and normalised inside",
        "output": f"boxes: (n, 4) x1 y1 x2 y2 in pixels of the input, so divide by that scale; scores: (n,), the best "
        f"first; labels: (n,), indices of classes from 0{masks}",
    }


def _photos(tuned: Tuned) -> list[Tensor]:
    """uint8 (3, h, w): photos that peftbench ships, cut to several shapes and made as large as the model wants them."""
    files = sorted(path for path in PHOTOS.rglob("*") if path.suffix.lower() in IMAGES)
    transform: Any = tuned.transform
    return [
        transform.resized(photo, transform.fit((photo.height, photo.width)))
        for photo in (_cut(open_rgb(files[i * len(files) // 3]), shape) for i, shape in enumerate(_SHAPES))
    ]


def _cut(photo: Image.Image, shape: tuple[int, int]) -> Image.Image:
    part = min(photo.width / shape[0], photo.height / shape[1])
    return photo.crop((0, 0, max(int(part * shape[0]), 1), max(int(part * shape[1]), 1)))


@torch.no_grad()
def _tried(tested: Tuned, image: Tensor) -> Tried:
    size, padded = (image.shape[1], image.shape[2]), tested.transform.padded([image])  # type: ignore[attr-defined]
    model, task = tested.model, cast(Any, tested.model.task)
    (found,) = task.found_within(model.extract, model.backbone, padded, [size])
    return Tried(image, found)


def _difference(path: Path, tried: Sequence[Tried], tuned: Tuned) -> float:
    """The largest difference of a score. Raises UserError where the file finds something else."""
    try:
        runtime = open_exported(path)
    except UserError as problem:  # a graph that the exporter wrote, and no runtime takes
        raise _refused(tuned, problem) from None
    worst = 0.0
    for one in tried:
        try:
            answers = runtime.answers(one.image.float() / 255)
        except UserError as problem:  # a size that was traced as a constant
            raise _refused(tuned, problem) from None
        got = {name: torch.from_numpy(answers[name]) for name in output_names(tuned)}
        largest = max(one.image.shape[1:]) * _MOST_PER_SIDE
        pairs = (_matched(one.found, got, largest), _matched(got, one.found, largest))
        if min(share for share, _ in pairs) < _SHARE:
            height, width = one.image.shape[1:]
            raise UserError(
                f"format={runtime.format}: finds other boxes than the model on an image of {width} x {height} pixels, "
                f"so nothing is written; peftbench.load gives the model itself."
            )
        worst = max(worst, *(off for _, off in pairs))
    return worst


def _matched(found: Mapping[str, Tensor], other: Mapping[str, Tensor], pixels: float) -> tuple[float, float]:
    """(the share of what was found that the other found too, the largest difference of a score).

    Of as many equal scores as there may be boxes rounding decides which are kept, and none of them counts.
    """
    scores, theirs = found["scores"], other["scores"]
    cut = theirs.min() + SCORE if len(theirs) else torch.tensor(0.0)
    if not len(scores):
        return 1.0, 0.0
    near = (found["boxes"][:, None] - other["boxes"][None]).abs().amax(2) <= pixels
    same = near & (found["labels"][:, None] == other["labels"][None]) if len(theirs) else near
    off = torch.where(same, (scores[:, None] - theirs[None]).abs(), torch.inf)
    if "masks" in found and len(theirs):
        masks = (found["masks"][:, None] - other["masks"][None]).abs().amax((2, 3))
        off = torch.where(masks <= 10 * SCORE, off, torch.inf)
    least = off.amin(1) if len(theirs) else torch.full_like(scores, torch.inf)
    agree = least <= SCORE
    counts = agree | (scores > cut)
    share = float(agree.sum() / counts.sum()) if counts.any() else 1.0
    return share, float(least[agree].max()) if agree.any() else 0.0


def _refused(tuned: Tuned, problem: Exception) -> Refusal:
    sizes = "" if tuned.transform.size is not None else " (a run with data.size=[H,W] has one canvas)"
    return Refusal(
        f"format=onnx: {described(tuned)} cannot be traced for images of any size{sizes} ({type(problem).__name__}: "
        f"{first_sentence(problem, 200)}); peftbench.load gives the model itself."
    )
