"""`peftbench predict` for detection: boxes on each image, as a table, as COCO's JSON, and drawn; there masks too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.data.media import size_in_file
from peftbench.data.segment_forms import run_lengths
from peftbench.tasks.detection.masks import pasted
from peftbench.tasks.detection.result_files import Detected, as_coco, draw
from peftbench.tasks.picture_files import files_for
from peftbench.tasks.predictor import Prediction, Predictor, Seen, Skip, why_unreadable


class BoxPredictor(Predictor):
    """`values` of a prediction: `Detected`, the boxes with at least the asked `score`, the best first."""

    def __init__(self, options: Mapping[str, Any], images: str, items: Sequence[Path], force: bool) -> None:
        super().__init__(options, images, items, force)
        self.pictures = {} if options["draw"] is None else files_for("draw", images, items, options["draw"], force)

    @property
    def written(self) -> list[str]:
        return [self.options["draw"]] if self.pictures else []

    def predictions(self, tuned: Any, skip: Skip, watch: Watch) -> Iterator[Prediction]:
        for count, path in enumerate(self.items, start=1):
            try:
                with tuned.precision():
                    answer = tuned.detect(path)
                size = size_in_file(path, "COCO's JSON has its size")
            except UserError as problem:
                skip(path, why_unreadable(path, problem))
            else:
                sure = answer["scores"] >= self.options["score"]
                boxes, labels, scores = (answer[name][sure].cpu() for name in ("boxes", "labels", "scores"))
                masks = answer["masks"][sure].cpu() if "masks" in answer else None
                segments = None if masks is None else tuple(run_lengths(mask.numpy()) for mask in masks)
                boxes_of_image = Detected(
                    path, size, boxes, tuple(labels.tolist()), tuple(scores.tolist()), tuned.classes, segments
                )
                if path in self.pictures:
                    values, names = tuned.transform.range, boxes_of_image.names
                    draw(path, boxes, names, boxes_of_image.scores, self.pictures[path], values, masks)
                yield Prediction(path, boxes_of_image)
            watch(count, len(self.items))

    def heading(self, tuned: Any, first: Prediction) -> list[str]:
        return ["file", "class", "score", "x1", "y1", "x2", "y2"]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        """A row for each box, in pixels; an image without any has a row with its name alone."""
        detected: Detected = prediction.values
        if not len(detected.boxes):
            yield [prediction.path, *[""] * 6]
        for name, score, box in zip(detected.names, detected.scores, detected.boxes.tolist(), strict=True):
            yield [prediction.path, name, f"{score:.6f}", *(f"{side:.2f}" for side in box)]

    def write_json(
        self, file: IO[str], tuned: Any, predictions: Iterable[Prediction], skipped: Sequence[tuple[Path, str]]
    ) -> None:
        """COCO's JSON, with the ids that the classes had in the training data."""
        categories = dict(zip(tuned.classes, tuned.run.categories, strict=True))
        as_coco(file, tuned.run.record.id, categories, (p.values for p in predictions), skipped)

    @staticmethod
    def served(task: Any, answer: Any, seen: Seen) -> dict[str, Any]:
        """Boxes in pixels of the image, x1 y1 x2 y2, the best first; with masks COCO's run lengths of each."""
        height, width = seen.original
        corner, scale = torch.tensor([*seen.offset, *seen.offset]), torch.tensor([*seen.scale, *seen.scale])
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = torch.minimum(((answer["boxes"] - corner) / scale).clamp(min=0), limits)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)  # others lie on what the image was padded with
        boxes = boxes[inside]
        rows = zip(answer["labels"][inside].tolist(), answer["scores"][inside].tolist(), boxes.tolist(), strict=True)
        found: list[dict[str, Any]] = [
            {"class": task.classes[label], "score": round(score, 6), "box": [round(side, 2) for side in box]}
            for label, score, box in rows
        ]
        if "masks" in answer:
            segments = pasted(answer["masks"][inside], boxes, seen.original)
            for one, counts in zip(found, segments, strict=True):
                one["segmentation"] = {"size": [height, width], "counts": counts.decode()}
        return {"boxes": found}
