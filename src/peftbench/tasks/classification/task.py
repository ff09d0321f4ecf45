"""Classification of images and clips: a linear head on pooled features, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from peftbench.backbones import Backbone
from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.data.balancing import balanced_weights
from peftbench.results.per_image import OF_GROUP, write_right
from peftbench.tasks.base import Extract, Metrics
from peftbench.tasks.classification import schema
from peftbench.tasks.classification.class_accuracy import ClassAccuracy
from peftbench.tasks.classification.evaluator import ClassEvaluator
from peftbench.tasks.classification.focal import focal_loss
from peftbench.tasks.classification.group_figures import GroupFigures
from peftbench.tasks.classification.predictor import ClassPredictor
from peftbench.tasks.classification.run_page import ClassPage
from peftbench.tasks.classification.top1 import Top1
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.linear_task import LinearTask
from peftbench.tasks.predictor import Predictor
from peftbench.tasks.run_pages import RunPage


class Classification(LinearTask):
    """A linear head, whose outputs are the logits of the classes."""

    solved_as: ClassVar[str] = "classes"
    predictor: ClassVar[type[Predictor]] = ClassPredictor
    page: ClassVar[type[RunPage]] = ClassPage
    evaluator: ClassVar[type[Evaluator] | None] = ClassEvaluator

    weights: Tensor | None

    def __init__(self, backbone: Backbone, classes: Sequence[str], label_smoothing: float = 0.0) -> None:
        super().__init__(backbone, classes)
        self.label_smoothing = label_smoothing
        self.class_weights: Literal["balanced"] | tuple[float, ...] | None = None
        self.focal_gamma = 0.0
        self.groups: tuple[int, ...] = ()
        self.register_buffer("weights", None, persistent=False)

    @classmethod
    def build(
        cls,
        section: schema.Classification,
        backbone: Backbone,
        classes: Sequence[str],
        categories: Sequence[int] = (),
    ) -> Classification:
        task = cls(backbone, classes, section.label_smoothing)
        task.class_weights, task.focal_gamma = section.class_weights, section.focal_gamma
        return task

    @classmethod
    def refuse_classes(cls, section: schema.Classification, classes: Sequence[str]) -> None:
        weights = section.class_weights
        if isinstance(weights, tuple) and len(weights) != len(classes):
            named = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
            raise UserError(
                f"task.class_weights={list(weights)}: {plural(len(weights), 'number')}, and there are "
                f"{len(classes)} classes; expected one for each, in the order {named}, or balanced."
            )

    def learn_targets(self, targets: np.ndarray) -> None:
        """Weighs the classes, as `task.class_weights` says."""
        wanted = self.class_weights
        if wanted == "balanced":
            self.weights = balanced_weights(targets, len(self.classes)).to(self.head.weight.device)
        elif wanted is not None:
            self.weights = torch.tensor(wanted, device=self.head.weight.device)

    def learn_groups(self, groups: Sequence[int]) -> None:
        self.groups = tuple(groups)

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

    def wanted(self, targets: Tensor) -> Tensor:
        """1 for the class of an image, 0 for the others, (B, classes)."""
        return F.one_hot(targets, len(self.classes)).double()

    def loss(self, extract: Extract, backbone: Backbone, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over (images, targets), a scalar; targets are labels (B,), or shares of the classes (B, classes)."""
        images, targets = batch[:2]
        logits = self.predict(extract, backbone, images)
        smoothing = self.label_smoothing
        if self.focal_gamma:
            return focal_loss(logits, targets, self.focal_gamma, self.weights, smoothing).mean()
        if self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        # torch's own mean divides by the weights of the batch: then an image would count more in a batch of rare ones,
        # and processes that share a batch out would disagree with one that has all of it.
        each = F.cross_entropy(logits, targets, self.weights, label_smoothing=smoothing, reduction="none")
        return each.mean()

    def metrics(self) -> MetricCollection:
        """What `update(predictions, labels)` measures: top-1, its mean over classes and, from six classes on, top-5.

        Of classes that were learned in groups also the accuracy on each group.

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
        if self.groups:
            wanted["groups"] = GroupFigures(self.groups)
        # With groups torchmetrics counts metrics as one that agree on the first batch, as class_accuracy and top5 do
        # where all of it is right.
        return MetricCollection(wanted, compute_groups=False)

    def rows(self, metrics: Metrics) -> Tensor:
        """Of each test image whether it is right, bool (N,), in the order of the split; of classes in groups also
        whether its group is, (2, N).
        """
        top1 = metrics["accuracy"] if isinstance(metrics, MetricCollection) else metrics
        assert isinstance(top1, Top1)
        if not self.groups:
            return top1.right()
        assert isinstance(metrics, MetricCollection)
        of_group = metrics["groups"]
        assert isinstance(of_group, GroupFigures)
        return torch.stack([top1.right(), of_group.right()])

    def write_rows(self, rows: Tensor, folder: Path) -> dict[str, Any]:
        """`test_right.bits`, by which a report compares two runs image by image; and that of groups."""
        if not self.groups:
            return {"right": write_right(rows.numpy(), "accuracy", folder)}
        right, of_group = rows.numpy()
        return {
            "right": write_right(right, "accuracy", folder),
            "group": write_right(of_group, "group", folder, OF_GROUP),
        }

    def evaluation_loss(self, predictions: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy without smoothing, summed over the batch."""
        return F.cross_entropy(predictions.float(), batch[1], reduction="sum")

    def blank_targets(self, images: int) -> Tensor:
        """Labels (B,), all of the first class."""
        return torch.zeros(images, dtype=torch.long)


TASK = Classification
