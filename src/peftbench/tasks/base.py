"""The task contract: what a task predicts, how it learns and is judged, and how the rest of peftbench treats it.

A task is a package with two modules. `schema` says without torch what its section may hold (`SCHEMA`) and how its
results are shown (`RESULTS`); `task` holds the class (`TASK`). Nothing outside asks for a task's name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from peftbench.backbones import Backbone, Facts, Size
from peftbench.common.errors import Refusal
from peftbench.common.task_lookup import task_module
from peftbench.config import Backbone as BackboneSection
from peftbench.config import Config, TaskSection, task_path
from peftbench.data.base import Split
from peftbench.data.images import IMAGENET, Preparation, Transform
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.predictor import Predictor
from peftbench.tasks.run_pages import RunPage

Extract = Callable[[Tensor], list[Tensor]]
"""From images to the taps that the task reads, live or cached: `Model.extract`."""
Metrics = Metric | MetricCollection
"""What `update(predictions, targets)` is called on; `compute()` gives a scalar tensor by name."""


class Task(nn.Module):
    """What is predicted from taps. Its parameters are counted as the head's, apart from the method's.

    Attributes:
        classes: the names of what it tells apart, or of the numbers that it predicts, in the order of its predictions;
            empty where there are none.
        start: hashes of the tensors that it starts from, by name, where these were read from a file.
        given_features: whether `extract` gives pooled features (B, width), in the place of taps.
    """

    uses_tail: ClassVar[bool] = True
    """Whether it pools through the backbone's tail; a task that reads maps alone leaves the tail frozen."""
    moves_statistics: ClassVar[bool] = True
    """Whether the statistics of batch norms that train move; a task with very small batches says no."""
    trains_jointly: ClassVar[bool] = False
    """Whether the heads of several runs may train in one pass over the data."""
    keeps_views: ClassVar[bool] = False
    """Whether the taps of fixed augmented views can be kept (`taps.views`)."""
    predicts_tensor: ClassVar[bool] = False
    """Whether `predict` gives one tensor (B, …): such a model is exported as a graph, and shares a backbone."""
    finds_boxes: ClassVar[bool] = False
    """Whether `evaluate` gives boxes on an image, which `Tuned.detect` hands on."""
    finds_masks: bool = False
    """Whether there is a mask for each of these boxes."""
    segments: ClassVar[bool] = False
    """Whether `evaluate` gives the class of each pixel of an image, which `Tuned.segment` hands on."""
    kind_of_model: ClassVar[str] = "model"
    """What a tuned model of this task is called."""
    unforeseen: ClassVar[str] = "what its loss needs depends on the images"
    """Why a step's memory and time are not known before the data are, where `blank_targets` gives None."""
    takes_features: ClassVar[bool] = False
    """Whether it reads pooled features alone, which a side net may give in the place of the backbone's (`widen`)."""
    concludes: ClassVar[bool] = False
    """Whether `conclude` chooses something by the validation images once training is over."""
    solved_as: ClassVar[str] = ""
    """What a head that is solved would have to predict: `classes`, one an image, `labels`, any number of them, or
    `numbers`; empty where the task has no linear head on pooled features."""
    predictor: ClassVar[type[Predictor]] = Predictor
    """How `peftbench predict` carries this task out."""
    page: ClassVar[type[RunPage]] = RunPage
    """What the page of a run shows of its predictions."""
    evaluator: ClassVar[type[Evaluator] | None] = None
    """How `peftbench evaluate` judges it on new labelled images; None where it cannot."""

    classes: tuple[str, ...]
    start: Mapping[str, str] = {}
    given_features: bool = False

    # -- before there is a model

    @classmethod
    @abstractmethod
    def build(cls, section: Any, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()) -> Task:
        """The task that a config's section asks for, with fresh parameters.

        Args:
            section: the section `task` of the config, of the task's own schema.
            backbone: gives the taps and the number of features; its weights do not matter.
            classes: the names of what is told apart; empty where there are none.
            categories: the numbers of the classes in the data set's own files, where it has such.

        Raises:
            Refusal: this backbone cannot do it.
        """

    @classmethod
    def input_size(cls, config: Config) -> Size | None:
        """The input size that the backbone is built for, None for its own."""
        size = config.data.size
        return size[0] if isinstance(size, tuple) and size[0] == size[1] else size

    @classmethod
    def transform(cls, config: Config, facts: Facts) -> Preparation:
        """From an image to the input of a backbone with these facts."""
        assert isinstance(facts.input_size, int)
        interpolation, mean, std = pixel_scale(config, facts)
        data = config.data
        form = Transform(facts.input_size, interpolation, mean, std, range=data.range, resize=data.resize)
        form = replace(form, draft=data.draft, augment_on=data.augment_on)
        return replace(form, augment=data.augment, jitter=data.jitter, erase=data.erase)

    @classmethod
    def look_at(
        cls, config: Config, transform: Preparation, roles: Sequence[Split | None], classes: Sequence[str]
    ) -> list[str]:
        """What the user should know of the data once its images are prepared so, a sentence each.

        Args:
            config: the run's.
            transform: that of its images.
            roles: the splits to train on, to validate on and to test on.
            classes: what `Splits.classes` holds: the names of classes, labels or numbers; empty where it names none.

        Raises:
            Refusal: with so little left of its targets a run makes no sense.
        """
        return []

    @classmethod
    def refuse_classes(cls, section: Any, classes: Sequence[str]) -> None:
        """Raises UserError where the config's section does not go with these classes."""

    @classmethod
    def refuse(cls, config: Config, fixed_size: bool, backbone: Backbone) -> None:
        """Raises Refusal where this backbone, on the meta device, cannot do the task.

        Args:
            config: the run's.
            fixed_size: whether what the method adds is built for one input size.
            backbone: on the meta device, before any method.
        """
        with torch.device("meta"):
            cls.build(config.task, backbone, ("something",))

    # -- how images are looked at outside of training

    @classmethod
    def looks_at(cls, config: Config) -> dict[str, Any]:
        """How tests look at an image more than once, as the record's `stamps["data"]` say it; empty where once."""
        return {} if config.data.tta == "none" else {"tta": config.data.tta}

    @classmethod
    def tested_canvas(cls, config: Config, facts: Facts) -> tuple[int, int]:
        """Height and width of an image as it is tested, where all have one size; costs are measured at it."""
        return facts.canvas

    @classmethod
    def in_one_pass(cls, config: Config) -> Config:
        """The same config, with one look at an image that is as large as what the backbone sees at once."""
        return replace(config, data=replace(config.data, tta="none"))

    @property
    def looks_elsewhere(self) -> bool:
        """Whether `scores` has `extract` look at other pictures than those it is given, such as windows of them."""
        return False

    def open_sides(self, backbone: Backbone) -> int:
        """Of which number the sides of an exported graph's images may be any multiple; 0 where they have one size."""
        return 0

    # -- a file that the whole model starts from

    @classmethod
    def start_file(cls, section: Any, backbone: BackboneSection) -> Path | None:
        """The file of the whole model, backbone included, that `task.weights` names; None where there is none.

        Raises:
            UserError: there is no such file, it cannot be fetched, or it belongs to another backbone.
        """
        return None

    @classmethod
    def settle(cls, backbone: Backbone, file: Path) -> None:
        """Has a backbone that was read from `file` compute as it did in the model of that file."""

    @classmethod
    def stamp(cls, section: Any, file: Path | None) -> dict[str, str]:
        """What a number needs to be compared: `weights` as named and the `sha256` of the file; empty without one."""
        return {}

    def begin(self, file: Path) -> str:
        """Starts from the file; returns what the user should know of it. Raises UserError where it does not fit."""
        raise Refusal(f"{file}: this task does not start from a file.")

    # -- a finished run that this one starts from

    def taken_over(self, learned: Mapping[str, Tensor], classes: Sequence[str]) -> tuple[Mapping[str, Tensor], str]:
        """Of what the head of another run learned, what this one begins with; and what the user should know of it.

        All of it where the classes are the same. A task that knows which rows are of which class can take more.

        Args:
            learned: name among this task's tensors -> tensor, of all that is not as it was built.
            classes: of that run.
        """
        if tuple(classes) == tuple(self.classes):
            return learned, "its classes are the same, and so is its head"
        return {}, "its classes are others, so that the head starts fresh"

    # -- a side net that pools

    def widen(self, width: int) -> None:
        """Builds its head on `width` pooled features that a side net gives; for tasks with `takes_features`.

        Raises:
            Refusal: it reads the taps themselves.
        """
        raise Refusal(f"{type(self).__name__}: reads the backbone's taps, and a method gives pooled features instead.")

    def features(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """Pooled features (B, width) of images (B, 3, H, W), or of clips (B, T, 3, H, W): the mean of their frames'."""
        last = extract(images)[-1]
        features = last if self.given_features else backbone.pool(last)
        return features.unflatten(0, images.shape[:2]).mean(1) if images.ndim == 5 else features

    # -- training and evaluation

    def learn_targets(self, targets: np.ndarray) -> None:
        """Takes from the targets of the training images, (N, …), what it keeps of them, before any method looks at it.

        Called once in each process, with the same targets; a finished run gets it back from its delta. What it keeps
        stands in buffers, or parameters that do not train.
        """

    def learn_groups(self, groups: Sequence[int]) -> None:
        """Takes for each class the number of the group in which it was learned, to measure groups apart; from 1.

        Empty where classes are in no groups, as ever for a task that does not take `data.class_groups`.
        """

    def conclude(self, metrics: Metrics) -> Mapping[str, Any]:
        """Chooses by the validation images, of which `metrics` has seen all with the weights that the run keeps.

        Called in each process, where `concludes` is true and there are validation images. What it chooses stands in its
        buffers. Metrics of validation are computed after it, and the test comes after these.

        Returns:
            what the record says of it, as `stamps["chosen"]`.
        """
        return {}

    def reads(self, facts: Facts) -> tuple[int, ...]:
        """The taps that it reads, as indices into `facts.taps`."""
        return (len(facts.taps) - 1,)

    @abstractmethod
    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> Any:
        """Predictions for images."""

    def evaluate(self, extract: Extract, backbone: Backbone, batch: Any) -> Any:
        """Predictions for a batch, in the form that the metrics compare with its targets."""
        return self.predict(extract, backbone, batch[0])

    def of_logits(self, logits: Tensor, batch: Any) -> Any:
        """As `evaluate`, of what `predict` gave for the batch; for tasks with `predicts_tensor`."""
        return logits

    def found(
        self, extract: Extract, backbone: Backbone, images: Tensor, size: tuple[Any, Any]
    ) -> Mapping[str, Tensor]:
        """What is found on an image (`finds_boxes`), in a form that a trace can hold: nothing here asks the host.

        Args:
            extract: gives the taps.
            backbone: the model's.
            images: one, (1, 3, H, W).
            size: its height and width on its canvas.
        """
        raise Refusal(f"{type(self).__name__}: finds no boxes.")

    def unpacked(self, answer: Any, target: Any) -> Any:
        """What `Tuned.detect` hands on of one of `evaluate`'s answers, whose target is that of the image."""
        return answer

    def scores(self, extract: Extract, backbone: Backbone, images: Tensor) -> Tensor:
        """What is averaged over an image and its mirror image (`data.tta`); by default the predictions."""
        scores: Tensor = self.predict(extract, backbone, images)
        return scores

    def unmirrored(self, scores: Tensor) -> Tensor:
        """Scores, or predictions, of mirrored images as those of the images; the same, where no place is in them."""
        return scores

    def of_scores(self, scores: Tensor, images: Tensor) -> Any:
        """What `predict` makes of the `scores` of images."""
        return scores

    def judged(self, scores: Tensor, batch: Any) -> Any:
        """What `evaluate` makes of the `scores` of a batch."""
        return self.of_scores(scores, batch[0])

    @abstractmethod
    def loss(self, extract: Extract, backbone: Backbone, batch: Any) -> Tensor:
        """The training loss of a batch, a scalar."""

    @abstractmethod
    def metrics(self) -> Metrics:
        """Metrics whose `update(predictions, targets)` is called on every batch of an evaluation.

        The one that a run is judged by, which `RESULTS` names: more is better, and 1 the most. It may be below 0.
        """

    def targets(self, batch: Any) -> Any:
        """What the metrics compare predictions with."""
        return batch[1]

    def size(self, batch: Any) -> int:
        """The number of images in a batch."""
        return len(batch[1])

    def answer(self, outputs: Tensor) -> Tensor:
        """From what the head gives for pooled features to predictions."""
        return outputs

    def wanted(self, targets: Tensor) -> Tensor:
        """What a head that is fitted by least squares should give for these targets, float64 (B, outputs)."""
        raise Refusal(f"{type(self).__name__}: has no outputs that are fitted.")

    def evaluation_loss(self, predictions: Any, batch: Any) -> Tensor | None:
        """The loss that evaluations report, summed over the batch; None where they report none."""
        return None

    def blank_targets(self, images: int) -> Any:
        """Targets for so many blank images, by which a step is weighed before a run; None where that says nothing."""
        return None

    def rows(self, metrics: Metrics) -> Any:
        """What a file is to hold of the predictions for the test images, of all processes; None where there is none."""
        return None

    def write_rows(self, rows: Any, folder: Path) -> Mapping[str, Any]:
        """Writes what `rows` gave into the folder of a run; returns what the record's stamps say of the file.

        Raises:
            UserError: it cannot be written.
        """
        return {}

    def put_head(self, make: Callable[[nn.Linear], nn.Module]) -> None:
        """Puts what `make` gives for the linear head in its place; where it is `solved_as` something."""
        linear = self.get_submodule("head")
        assert isinstance(linear, nn.Linear)
        self.add_module("head", make(linear))

    def linear_head(self) -> Mapping[str, Tensor]:
        """`weight` (outputs, width) and `bias` of the head, where predictions are linear in pooled features.

        Raises:
            Refusal: its head is another.
        """
        head = self.get_submodule("head")
        if not isinstance(head, nn.Linear):
            raise Refusal(f"this head ({type(head).__name__}) is no linear layer")
        tensors: dict[str, Tensor] = head.state_dict()
        return tensors

    def parts(self) -> Mapping[str, int]:
        """Its trainable parameters by part, where it has several."""
        return {}


def task_class(section: TaskSection) -> type[Task]:
    """The class of the task that a config's section names. Raises UserError."""
    task: type[Task] = task_module(task_path(vars(section)), "task").TASK
    return task


def begin_task(task: Task, section: TaskSection, backbone: BackboneSection) -> str:
    """Has the task start from the file that the config names, if any; returns what the user should know of it."""
    file = task.start_file(section, backbone)
    return "" if file is None else task.begin(file)


def pixel_scale(config: Config, facts: Facts) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """(interpolation, mean, std) of the images, as `data.interpolation` and `data.normalize` choose them."""
    data = config.data
    scales: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
        "model": (facts.mean, facts.std),
        "imagenet": IMAGENET,
        "none": ((0.0,) * 3, (1.0,) * 3),
    }
    mean, std = scales[data.normalize]
    return facts.interpolation if data.interpolation == "model" else data.interpolation, mean, std
