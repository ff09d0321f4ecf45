"""Classification of images and clips: a linear head on pooled features, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from peftbench.backbones import Backbone
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.results.per_image import write_right
from peftbench.tasks.base import Extract, Metrics
from peftbench.tasks.classification import schema
from peftbench.tasks.classification.class_accuracy import ClassAccuracy
from peftbench.tasks.classification.evaluator import ClassEvaluator
from peftbench.tasks.classification.predictor import ClassPredictor
from peftbench.tasks.classification.run_page import ClassPage
from peftbench.tasks.classification.top1 import Top1
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.linear_task import LinearTask
from peftbench.tasks.predictor import Predictor
from peftbench.tasks.run_pages import RunPage


class Classification(LinearTask):
    """A linear head, whose outputs are the logits of the classes."""

    predictor: ClassVar[type[Predictor]] = ClassPredictor
    page: ClassVar[type[RunPage]] = ClassPage
    evaluator: ClassVar[type[Evaluator] | None] = ClassEvaluator

    def __init__(self, backbone: Backbone, classes: Sequence[str], label_smoothing: float = 0.0) -> None:
        super().__init__(backbone, classes)
        self.label_smoothing = label_smoothing

    @classmethod
    def build(
        cls,
        section: schema.Classification,
        backbone: Backbone,
        classes: Sequence[str],
        categories: Sequence[int] = (),
    ) -> Classification:
        return cls(backbone, classes, section.label_smoothing)

    def taken_over(self, learned: Mapping[str, Tensor], classes: Sequence[str]) -> tuple[Mapping[str, Tensor], str]:
        """Rows of the classes of the same name; those of other classes stay as they are."""
        rows = {name: i for i, name in enumerate(classes)}
        pairs = [(i, rows[name]) for i, name in enumerate(self.classes) if name in rows]
        if not pairs:
            return {}, "no class is of the same name, so that the head starts fresh"
        fresh, taken = self.state_dict(), {}
        for name, theirs in learned.items():
            if name not in fresh or fresh[name].shape[1:] != theirs.shape[1:] or len(theirs) != len(classes):
                return learned, "its head is another"  # what does not fit is told by its name
            taken[name] = fresh[name].clone()
            taken[name][[i for i, _ in pairs]] = theirs[[i for _, i in pairs]]
        if len(pairs) == len(self.classes):
            return taken, "all classes are known by name and keep their rows of the head"
        some = f"{len(pairs)} of {len(self.classes)} classes are known by name and keep their rows of the head"
        return taken, f"{some}, the others start fresh"

    def loss(self, extract: Extract, backbone: Backbone, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy of (images, labels), a scalar."""
        images, labels = batch[:2]
        logits = self.predict(extract, backbone, images)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def metrics(self) -> MetricCollection:
        """What `update(predictions, labels)` measures: top-1, its mean over classes and, from six classes on, top-5.

        Raises:
            UserError: there are no two classes.
        """
        if len(self.classes) < 2:
            labels = plural(len(self.classes), "label")
            raise UserError(f"task=classification: the data set has {labels}; expected two or more.")
        n = len(self.classes)
        wanted: dict[str, Metric | MetricCollection] = {
            "accuracy": Top1(n),
            "class_accuracy": ClassAccuracy(n),
        }
        if n > 5:
            wanted["top5"] = MulticlassAccuracy(n, top_k=5, average="micro")
        # With groups torchmetrics counts metrics as one that agree on the first batch, as class_accuracy and top5 do
        # where all of it is right.
        return MetricCollection(wanted, compute_groups=False)

    def rows(self, metrics: Metrics) -> Tensor:
        """Of each test image whether it is right, bool (N,), in the order of the split."""
        top1 = metrics["accuracy"] if isinstance(metrics, MetricCollection) else metrics
        assert isinstance(top1, Top1)
        return top1.right()

    def write_rows(self, rows: Tensor, folder: Path) -> dict[str, Any]:
        """`test_right.bits`, by which a report compares two runs image by image."""
        return {"right": write_right(rows.numpy(), "accuracy", folder)}

    def evaluation_loss(self, predictions: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy without smoothing, summed over the batch."""
        return F.cross_entropy(predictions.float(), batch[1], reduction="sum")

    def blank_targets(self, images: int) -> Tensor:
        """Labels (B,), all of the first class."""
        return torch.zeros(images, dtype=torch.long)


TASK = Classification
