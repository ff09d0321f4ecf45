"""COCO's average precision for masks beside that for boxes, both counted by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCOeval_faster
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from peftbench.tasks.detection.average_precision import DETECTIONS, BoxAP, as_detections, as_truths, coco_count

SEGM = "segm_"
"""What the names of figures of masks begin with; those of boxes stand alone."""


class MaskAP(BoxAP):
    """`BoxAP`, and the same figures for masks under names that begin with `segm_`.

    Masks are held as COCO's compressed run lengths, a few hundred bytes each. Detections are those of the boxes, the
    best of an image by score; their areas are those of their masks, as in COCO's results for masks.
    """

    shapes: list[Tensor]  # int64 (height, width) of each image
    found_lengths: list[Tensor]  # int64: bytes of each detection's run lengths
    found_bytes: list[Tensor]  # uint8, one after the other
    true_lengths: list[Tensor]
    true_bytes: list[Tensor]

    def __init__(self, classes: Sequence[str], categories: Sequence[int], **options: Any) -> None:
        super().__init__(classes, categories, **options)
        for name in ("shapes", "found_lengths", "found_bytes", "true_lengths", "true_bytes"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """As `BoxAP.update`, with masks of the original image.

        Args:
            predictions: also `segments`, the compressed run lengths of each detection, bytes.
            targets: also `original`, (height, width), and `true_segments`, those of each object in COCO's form.
        """
        super().update(predictions, targets)
        self._hold(
            [tuple(target["original"]) for target in targets],
            [counts for predicted in predictions for counts in predicted["segments"]],
            [bytes(form["counts"]) for target in targets for form in target["true_segments"]],
        )

    def _hold(self, sizes: Sequence[tuple[int, ...]], found: Sequence[bytes], true: Sequence[bytes]) -> None:
        self.shapes.append(torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2).to(self.device))
        for name, segments in (("found", found), ("true", true)):
            lengths = torch.tensor([len(counts) for counts in segments], dtype=torch.int64)
            content = torch.from_numpy(np.frombuffer(b"".join(segments), dtype=np.uint8).copy())
            getattr(self, f"{name}_lengths").append(lengths.to(self.device))
            getattr(self, f"{name}_bytes").append(content.to(self.device))

    def sync(self, *args: Any, **options: Any) -> None:
        if not self._is_synced:  # as in `BoxAP`: states of the shape and type that the others have
            self._hold([], [], [])
        super().sync(*args, **options)

    def compute(self) -> dict[str, Tensor]:
        """As `BoxAP.compute`, and the same for masks: `segm_AP`, `segm_AP50`, …, `segm_AR` and `segm_AP/<class>`."""
        evaluation = self._of_masks((DETECTIONS,))
        values = {"AP": float("nan")} if evaluation is None else self._parts(evaluation)
        masks = {SEGM + name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        return super().compute() | masks

    def table(self) -> dict[str, float]:
        most = (1, 10, DETECTIONS)
        evaluation = self._of_masks(most)
        masks = {} if evaluation is None else self._table(evaluation, most)
        return super().table() | {SEGM + name: value for name, value in masks.items()}

    def _results(self) -> list[dict[str, Any]]:
        """With `segmentation`, the run lengths as text."""
        detections = self._gathered()[1]
        sizes, segments = self._sizes(), self._segments("found", detections)
        forms = [
            {"size": list(sizes[int(image)]), "counts": counts.decode()}
            for image, counts in zip(detections[:, 0], segments, strict=True)
        ]
        return [row | {"segmentation": form} for row, form in zip(super()._results(), forms, strict=True)]

    def _of_masks(self, most: Sequence[int]) -> COCOeval_faster | None:
        from faster_coco_eval.core import mask as coco

        ids, detections, truths = self._gathered()
        if not len(truths):
            return None
        sizes = self._sizes()
        annotations: list[list[dict[str, Any]]] = []
        for kind, rows, of in (("true", truths, as_truths), ("found", detections, as_detections)):
            forms = [
                {"size": list(sizes[int(image)]), "counts": counts}
                for image, counts in zip(rows[:, 0], self._segments(kind, rows), strict=True)
            ]
            listed = [{**one, "segmentation": form} for one, form in zip(of(rows), forms, strict=True)]
            if kind == "found" and listed:
                listed = [one | {"area": float(area)} for one, area in zip(listed, coco.area(forms), strict=True)]
            annotations.append(listed)
        true, found = annotations
        return coco_count("segm", ids, len(self.classes), true, found, most, sizes)

    def _sizes(self) -> dict[int, tuple[int, int]]:
        """(height, width) of each image by its id."""
        images, shapes = dim_zero_cat(self.images)[:, 0].tolist(), dim_zero_cat(self.shapes).tolist()
        return {image: (height, width) for image, (height, width) in zip(images, shapes, strict=True)}

    def _segments(self, kind: str, rows: np.ndarray) -> list[bytes]:
        """The run lengths of rows of `_gathered`, whose last column is their place."""
        lengths = dim_zero_cat(getattr(self, f"{kind}_lengths")).cpu().numpy()
        content = dim_zero_cat(getattr(self, f"{kind}_bytes")).cpu().numpy().tobytes()
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return [content[ends[at] : ends[at + 1]] for at in rows[:, -1].astype(np.int64)]
