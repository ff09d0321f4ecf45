"""Semantic segmentation: a decoder over the maps of the adapted backbone, mIoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones import Backbone, Facts, Size
from peftbench.common.amounts import plural
from peftbench.common.errors import Refusal, UserError
from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.masks import counts_of_pixels
from peftbench.tasks.base import Extract, Metrics, Task, pixel_scale
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.predictor import Predictor
from peftbench.tasks.run_pages import RunPage
from peftbench.tasks.segmentation import schema
from peftbench.tasks.segmentation.confusion import Confusion, absent
from peftbench.tasks.segmentation.decoders import build_decoder, resized
from peftbench.tasks.segmentation.evaluator import MaskEvaluator
from peftbench.tasks.segmentation.looking import averaged, looks_of, told_looks
from peftbench.tasks.segmentation.loss import balanced_pixel_weights, cross_entropy, dice_loss
from peftbench.tasks.segmentation.masked_images import MaskedTransform
from peftbench.tasks.segmentation.matrix_file import write_matrix
from peftbench.tasks.segmentation.predictor import MaskPredictor
from peftbench.tasks.segmentation.run_page import MaskPage


class Segmentation(Task):
    """The class of each pixel. `decoder.head`, a 1 x 1 convolution, gives the logits of the classes.

    Args:
        spec: the section of the config.
        backbone: gives the maps.
        classes: their names.
    """

    uses_tail: ClassVar[bool] = False
    predicts_tensor: ClassVar[bool] = True
    segments: ClassVar[bool] = True
    kind_of_model: ClassVar[str] = "segmenter"
    predictor: ClassVar[type[Predictor]] = MaskPredictor
    page: ClassVar[type[RunPage]] = MaskPage
    evaluator: ClassVar[type[Evaluator] | None] = MaskEvaluator

    weights: Tensor | None

    def __init__(self, spec: schema.Segmentation, backbone: Backbone, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.decoder = build_decoder(spec, backbone.facts, len(classes))
        self.canvas = backbone.facts.canvas
        self.class_weights, self.dice, self.boundary = spec.class_weights, spec.dice, spec.boundary_ratio
        self.looks = looks_of(spec)
        self.colour = [min(max(round(255 * value), 0), 255) for value in backbone.facts.mean]
        self.register_buffer("weights", None, persistent=False)

    @classmethod
    def build(
        cls,
        section: schema.Segmentation,
        backbone: Backbone,
        classes: Sequence[str],
        categories: Sequence[int] = (),
    ) -> Segmentation:
        return cls(section, backbone, classes)

    @classmethod
    def input_size(cls, config: Config) -> Size | None:
        """As configured; of a window, where the model sees such."""
        return super().input_size(config) if (window := _section(config).window) is None else _size(window)

    @classmethod
    def transform(cls, config: Config, facts: Facts) -> MaskedTransform:
        interpolation, mean, std = pixel_scale(config, facts)
        data, window = config.data, _section(config).window
        size: Any = facts.input_size if window is None else _size(data.size)
        form = MaskedTransform(size, interpolation, mean, std, augment=data.augment, range=data.range)
        return replace(form, jitter=data.jitter, window=None if window is None else schema.pair(window))

    @classmethod
    def refuse(cls, config: Config, fixed_size: bool, backbone: Backbone) -> None:
        """Raises Refusal where a decoder cannot read this backbone, or images of other scales do not fit it."""
        section = _section(config)
        other_sizes = section.scales not in ((), (1.0,)) and section.window is None
        if other_sizes and (fixed_size or not backbone.resizes()):
            who = f"method={config.method.name}" if fixed_size else backbone.facts.name
            raise Refusal(
                f"task.scales={list(section.scales)}: {who} is built for one input size; give task.window=S too, by "
                f"which every look is of that size."
            )
        super().refuse(config, fixed_size, backbone)

    @classmethod
    def looks_at(cls, config: Config) -> dict[str, Any]:
        return super().looks_at(config) | told_looks(config, _section(config))

    @classmethod
    def tested_canvas(cls, config: Config, facts: Facts) -> tuple[int, int]:
        size = config.data.size
        return facts.canvas if size is None or _section(config).window is None else schema.pair(size)

    @classmethod
    def in_one_pass(cls, config: Config) -> Config:
        """Without scales, and with what a window holds for the whole image."""
        section, size = _section(config), config.data.size
        task = replace(section, window=None, stride=None, scales=())
        data = replace(config.data, size=size if section.window is None else section.window)
        return super().in_one_pass(replace(config, task=task, data=data))

    @classmethod
    def refuse_classes(cls, section: schema.Segmentation, classes: Sequence[str]) -> None:
        weights = section.class_weights
        if isinstance(weights, tuple) and len(weights) != len(classes):
            raise UserError(
                f"task.class_weights={list(weights)}: {plural(len(weights), 'number')}, and there are "
                f"{plural(len(classes), 'class')}; expected one for each, in their order, or balanced."
            )

    @classmethod
    def look_at(
        cls, config: Config, transform: Any, roles: Sequence[Split | None], classes: Sequence[str]
    ) -> list[str]:
        """Which classes no training mask has; not of sets that are too large for memory, nor in a trial."""
        train = roles[0]
        height, width = schema.pair(transform.size)
        if train is None or config.trainer.trial or len(train) * 3 * height * width > config.data.memory_gb * 2**30:
            return []
        counts = counts_of_pixels(train.labels.tolist(), len(classes)).sum(0)
        if not counts[:-1].any():
            raise Refusal(f"data={config.data.name}: no pixel of the training masks is of a class; expected some.")
        without = np.flatnonzero(counts[:-1] == 0)
        if not len(without):
            return []
        name = classes[without[0]]
        which = f"the class {name}" if len(without) == 1 else f"{len(without):,} of the classes, such as {name}"
        return [f"no training pixel is of {which}, which cannot be learned"]

    def learn_targets(self, targets: np.ndarray) -> None:
        """Weighs the classes, as `task.class_weights` says."""
        wanted, device = self.class_weights, self.decoder.head.weight.device
        if wanted == "balanced":
            counts = counts_of_pixels(targets.tolist(), len(self.classes)).sum(0)[:-1]
            self.weights = balanced_pixel_weights(torch.from_numpy(counts)).to(device)
        elif wanted is not None:
            self.weights = torch.tensor(wanted, device=device)

    def taken_over(self, learned: Mapping[str, Tensor], classes: Sequence[str]) -> tuple[Mapping[str, Tensor], str]:
        """The decoder, and of its last layer the rows of the classes of the same name."""
        if tuple(classes) == self.classes:
            return super().taken_over(learned, classes)
        rows = {name: i for i, name in enumerate(classes)}
        pairs = [(i, rows[name]) for i, name in enumerate(self.classes) if name in rows]
        fresh, taken = self.state_dict(), dict(learned)
        for name in ("decoder.head.weight", "decoder.head.bias"):
            theirs = taken.pop(name, None)
            if theirs is not None and pairs and fresh[name].shape[1:] == theirs.shape[1:]:
                taken[name] = fresh[name].clone()
                taken[name][[i for i, _ in pairs]] = theirs[[i for _, i in pairs]]
        some = f"{len(pairs)} of {len(self.classes)} classes are known by name and keep their rows of the head"
        return taken, f"the decoder goes on, {some}, the others start fresh"

    def reads(self, facts: Facts) -> tuple[int, ...]:
        return self.decoder.taps

    def open_sides(self, backbone: Backbone) -> int:
        """32 over a backbone whose maps grow with the image, where the decoder's graph serves all of their sizes."""
        fits = self.decoder.traces and not any(side % 32 for side in backbone.facts.canvas)
        return 32 if fits and backbone.resizes() else 0

    @property
    def looks_elsewhere(self) -> bool:
        return self.looks.window is not None or self.looks.scales not in ((), (1.0,))

    def scores(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """Logits (B, classes, h, w) at the decoder's stride; of several looks their mean, at the size of the images."""

        def logits_of(view: Tensor) -> Tensor:
            logits: Tensor = self.decoder(backbone.maps(extract(view), self.decoder.taps))
            return logits

        if self.training or not images.shape[-1]:  # of kept taps, which are of a single look
            return logits_of(images)
        return averaged(logits_of, images, self.looks, self.colour)

    def unmirrored(self, scores: Tensor) -> Tensor:
        """Left and right swapped back."""
        return scores.flip(-1)

    def of_scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of the pixels of the input, up-sampled once."""
        height, width = images.shape[-2:]
        return resized(scores, (height, width) if height else self.canvas)

    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) for images (B, 3, H, W)."""
        return self.of_scores(self.scores(extract, backbone, images), images)

    def judged(self, scores: Tensor, batch: Any) -> list[Tensor]:
        """Of each image the class of each pixel, uint8, in the image's own size: the logits are up-sampled to that."""
        sizes = [target["true"].shape for target in batch[1]]
        return [labels_of(one[None], size) for one, size in zip(scores, sizes, strict=True)]

    def evaluate(self, extract: Extract, backbone: Backbone, batch: Any) -> list[Tensor]:
        if not batch[1]:
            return []
        return self.judged(self.scores(extract, backbone, batch[0]), batch)

    def of_logits(self, logits: Tensor, batch: Any) -> list[Tensor]:
        return self.judged(logits, batch)

    def targets(self, batch: Any) -> list[Tensor]:
        return [target["true"] for target in batch[1]]

    def loss(self, extract: Extract, backbone: Backbone, batch: Any) -> Tensor:
        """Cross-entropy of the pixels of (images, targets), and `dice` times the Dice loss; a scalar."""
        masks = torch.stack([target["mask"] for target in batch[1]])
        scores = self.scores(extract, backbone, batch[0])
        logits = F.interpolate(scores.float(), size=masks.shape[1:], mode="bilinear", align_corners=False)
        loss = cross_entropy(logits, masks, self.weights)
        return loss + self.dice * dice_loss(logits, masks) if self.dice else loss

    def metrics(self) -> Metrics:
        """Pixels counted over the whole set: see `figures_of`."""
        return Confusion(self.classes, self.boundary)

    def rows(self, metrics: Metrics) -> Tensor:
        """The counts of (true class, predicted class), int64 (classes, classes)."""
        assert isinstance(metrics, Confusion)
        with metrics.sync_context(should_sync=not metrics._is_synced, should_unsync=not metrics._is_synced):
            return metrics.matrix.clone().cpu()

    def write_rows(self, rows: Tensor, folder: Path) -> dict[str, Any]:
        """`test_confusion.csv`, and the classes that are neither in the test masks nor predicted."""
        write_matrix(rows.tolist(), self.classes, folder)
        return {"absent_classes": missing} if (missing := absent(rows, self.classes)) else {}

    def blank_targets(self, images: int) -> list[dict[str, Tensor]]:
        """Masks of the size of the input, all of the first class; to judge by, too."""
        blank = torch.zeros(self.canvas, dtype=torch.uint8)
        return [{"mask": blank, "true": blank} for _ in range(images)]

    def linear_head(self) -> Mapping[str, Tensor]:
        raise Refusal("this head (a decoder of maps) is no linear layer")

    def parts(self) -> Mapping[str, int]:
        counts = {"decoder": 0, "head": 0}
        for name, parameter in self.decoder.named_parameters():
            counts["head" if name.startswith("head.") else "decoder"] += parameter.numel()
        return counts


def _section(config: Config) -> schema.Segmentation:
    assert isinstance(config.task, schema.Segmentation)
    return config.task


def _size(given: Any) -> Size:
    """As a backbone is built for it: one number where both sides are the same."""
    height, width = schema.pair(given)
    return height if height == width else (height, width)


def labels_of(logits: Tensor, size: Sequence[int]) -> Tensor:
    """uint8 (H, W): the likeliest class of each pixel, of logits (1, classes, h, w) that are up-sampled to the size."""
    whole = F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)
    return whole[0].argmax(0).to(torch.uint8)


TASK = Segmentation
