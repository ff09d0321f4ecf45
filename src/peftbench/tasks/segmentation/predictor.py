"""`peftbench predict` for segmentation: a mask for each image, pictures, and how much of it each class has."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.data.decoding import open_rgb
from peftbench.tasks.picture_files import files_for
from peftbench.tasks.predictor import Prediction, Predictor, Seen, Skip, why_unreadable
from peftbench.tasks.segmentation.colours import as_image, overlaid, shares


class MaskPredictor(Predictor):
    """`values` of a prediction: the share of the pixels that each class has, by name."""

    def __init__(self, options: Mapping[str, Any], images: str, items: Sequence[Path], force: bool) -> None:
        super().__init__(options, images, items, force)
        self.pictures = {} if options["draw"] is None else files_for("draw", images, items, options["draw"], force)
        self.masks: dict[Path, Path] = {}
        self.out = ""

    def take_folder(self, out: str, images: str, force: bool) -> None:
        """Has it write index PNGs of each image's size and stem into a folder. Raises UserError."""
        self.masks, self.out = files_for("out", images, self.items, out, force, ".png"), out
        if {path.resolve() for path in self.masks.values()} & {path.resolve() for path in self.pictures.values()}:
            raise UserError(
                f"draw={self.options['draw']}: its pictures would replace the masks of out={out}; give another folder."
            )

    @property
    def written(self) -> list[str]:
        return [*([self.out] if self.masks else []), *([self.options["draw"]] if self.pictures else [])]

    def predictions(self, tuned: Any, skip: Skip, watch: Watch) -> Iterator[Prediction]:
        for count, path in enumerate(self.items, start=1):
            try:
                with tuned.precision():
                    mask = tuned.segment(path).numpy()
            except UserError as problem:
                skip(path, why_unreadable(path, problem))
            else:
                self._write(path, mask, tuned.transform.range)
                yield Prediction(path, shares(mask, tuned.classes))
            watch(count, len(self.items))

    def _write(self, path: Path, mask: np.ndarray, values: Any) -> None:
        if path in self.masks:
            with replacing(self.masks[path]) as part:
                as_image(mask).save(part, "PNG")
        if path in self.pictures:
            picture = self.pictures[path]
            with replacing(picture) as part:
                form = Image.registered_extensions()[picture.suffix.lower()]
                overlaid(open_rgb(path, values), mask).save(part, form, quality=95)

    def heading(self, tuned: Any, first: Prediction) -> list[str]:
        return ["image", *(f"share_{name}" for name in tuned.classes)]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        yield [prediction.path, *(f"{share:.6f}" for share in prediction.values.values())]

    def plain(self, prediction: Prediction) -> dict[str, Any]:
        return {"shares": {name: round(share, 6) for name, share in prediction.values.items()}}

    @staticmethod
    def served(task: Any, answer: Any, seen: Seen) -> dict[str, Any]:
        """The class of each pixel as a PNG of indices in the image's own size, in base64; the share of each class."""
        mask = _likeliest(answer, seen.original)
        file = io.BytesIO()
        as_image(mask).save(file, "PNG")
        share = {name: round(value, 6) for name, value in shares(mask, task.classes).items()}
        return {"mask": base64.b64encode(file.getvalue()).decode(), "classes": list(task.classes), "shares": share}


def _likeliest(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W): as `task.labels_of`, one class after the other, so that two maps of a large image are in memory."""

    def whole(index: int) -> Tensor:
        one = logits[index].float()[None, None]
        return F.interpolate(one, size=size, mode="bilinear", align_corners=False)[0, 0]

    best, labels = whole(0), torch.zeros(size, dtype=torch.uint8)
    for index in range(1, len(logits)):
        one = whole(index)
        labels[one > best] = index
        torch.maximum(best, one, out=best)
    return labels.numpy()
