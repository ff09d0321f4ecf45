"""What two batches take on this machine, and what the run would take by that."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from peftbench import costs, optim
from peftbench.backbones.weights import weights_are_here
from peftbench.common.precisions import HALF
from peftbench.common.seeds import random_numbers_kept
from peftbench.common.tf32 import tf32
from peftbench.config import Config
from peftbench.data.base import Splits
from peftbench.data.images import Batch
from peftbench.methods.base import Method, Plan
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import transform_of
from peftbench.runs.compatibility import choose_ways_of_computing
from peftbench.runs.frozen_prefix import choose_prefix
from peftbench.runs.planned_taps import PlannedTaps
from peftbench.tasks.base import begin_task, task_class
from peftbench.training import device_of_process

TIMED = 2
"""Batches of each kind that are timed, after one that is not; the quicker one counts."""


@dataclass(frozen=True)
class Probe:
    """What was measured, in seconds, and what follows from it.

    Attributes:
        step: a training step of `batch` images, from kept taps where the run keeps them.
        filling: computing the taps that the run keeps; 0 where it keeps none.
        evaluating: predicting for all test images.
        run: all epochs with their validation, the filling and the test; without loading, reading images and start-up.
        epochs, steps: of the run; `steps` in an epoch.
        latency: predicting for one image, as a record has it; None where it was not asked for.
        training, validating: the steps, and the validations, of all epochs.
        price: of the run at `costs.price`; None without one.
        joules: of training and test, an estimate by `costs.watts`; None without it.
        device: where it ran.
        weights: `own`, or `random` where the backbone's are not on this machine, which takes as long.
    """

    step: float
    filling: float
    evaluating: float
    run: float
    epochs: int
    steps: int
    batch: int
    device: str
    weights: str
    training: float = 0.0
    validating: float = 0.0
    latency: float | None = None
    price: float | None = None
    joules: float | None = None


def probe_run(config: Config, method: Method, splits: Splits, taps: PlannedTaps | None, latency: bool = False) -> Probe:
    """Times steps and predictions on noise in the place of images, with `latency` of one too; nothing is written.

    Raises:
        UserError: weights that cannot be read, or an optimizer that cannot be built.
    """
    here = not config.backbone.pretrained or weights_are_here(config.backbone.name, config.backbone.weights)
    spec = config if here else replace(config, backbone=replace(config.backbone, pretrained=False))
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    train, val, test = splits.roles(config.data.stage)
    batch = min(config.data.batch_size, len(train))
    with random_numbers_kept(), tf32(config.trainer.tf32):
        model, device = _model(spec, method, splits)
        images = _noise(model, train.frames, batch, device)
        times = _Times(spec, method, model, device)
        keeps = taps is not None and taps.mode != "off"
        live = times.of_evaluating(images) / batch
        frozen = times.of_taps(images) / batch if keeps else 0.0
        step = times.of_training(images, keeps)
        alone = times.of_one_image(images[:1]) if latency and config.trainer.strategy != "fsdp" else None
    limit = config.trainer.max_batches or math.inf
    steps = int(min(math.ceil(len(train) / config.data.batch_size), limit))
    most = limit * config.data.eval_batch_size
    each = step / batch if keeps else live  # a prediction from kept taps takes less than a step from them
    validating = 0.0 if val is None else min(len(val), most) * each
    testing = 0.0 if test is None else min(len(test), most) * live
    filling = frozen * sum(taps.images.values()) if taps is not None else 0.0
    epochs = config.trainer.epochs
    training, validating = epochs * steps * step, epochs * validating
    whole = filling + training + validating + testing
    price, watts = config.costs.price, config.costs.watts
    weights = "random" if not here or not config.backbone.pretrained else "own"
    return Probe(
        step=step,
        filling=filling,
        evaluating=testing,
        run=whole,
        epochs=epochs,
        steps=steps,
        batch=batch,
        device=device.type,
        weights=weights,
        training=training,
        validating=validating,
        latency=alone,
        price=None if price is None else whole / 3600 * price,
        joules=None if watts is None else watts * (training + testing),
    )


def try_step(config: Config, method: Method, splits: Splits, images: int) -> None:
    """Makes one step on noise, of two parts of so many images each, with the optimizer's state; nothing stays of it.

    Raises:
        UserError: as `probe_run`.
        torch.OutOfMemoryError, RuntimeError: there is not enough memory for it.
    """
    with random_numbers_kept(), tf32(config.trainer.tf32):
        model, device = _model(config, method, splits)
        noise = _noise(model, splits.train.frames, images, device)
        _Times(config, method, model, device).training_step(noise, False, parts=2)()


class _Times:
    """Times the parts of a run, in its precision."""

    def __init__(self, config: Config, method: Method, model: Model, device: torch.device) -> None:
        self.config, self.method, self.model, self.device = config, method, model, device
        half = HALF[config.trainer.precision]
        self.autocast = torch.autocast(device.type, half, enabled=half is not None)

    def of_evaluating(self, images: Tensor) -> float:
        """Predictions for these images (B, …), in seconds."""
        self.model.eval()
        with torch.no_grad(), self.autocast:
            return self._of(lambda: self.model.evaluate(self._batch(images)))

    def of_taps(self, images: Tensor) -> float:
        """The taps of these images, as they are kept."""
        self.model.eval()
        with self.model.padded_batches(), self.autocast:
            return self._of(lambda: [tap.cpu() for tap in self.model.frozen(images)])

    def of_training(self, images: Tensor, from_taps: bool) -> float:
        """A step of training: loss, gradients and the optimizer."""
        return self._of(self.training_step(images, from_taps))

    def of_one_image(self, image: Tensor) -> float:
        """Predicting for one image (1, …) once the method has merged what it can, in float32, as a record has it.

        The model is used up.
        """
        self.model.prefix = None
        self.method.merge(self.model.backbone)
        return costs.latency(self.model, image)

    def training_step(self, images: Tensor, from_taps: bool, parts: int = 1) -> Callable[[], None]:
        """A call that makes a step, of the gradients of these images `parts` times."""
        batch: Any = self._batch(images)
        if from_taps:
            with self.model.padded_batches(), self.autocast:
                taps = self.model.eval().frozen(images)
            batch = Batch(images.new_empty((*images.shape[:-2], 0, 0)), batch[1], taps)
        named = self.model.trainable()
        anchors = {name: parameter.detach().clone() for name, parameter in named}
        inner = optim.optimizer(self.config.optimizer, named, anchors, self.config.trainer.clip is None)
        optimizer: Any = self.method.optimizer(named, anchors, inner)
        optimizer.objective = lambda: self.model.loss(batch)  # of those that look at a second batch in each step
        self.model.train()

        def step() -> None:
            for _ in range(parts):
                with self.autocast:
                    loss = self.model.loss(batch)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _of(self, call: Callable[[], Any]) -> float:
        times = []
        for _ in range(1 + TIMED):
            begun = time.perf_counter()
            call()
            costs.wait_for(self.device)
            times.append(time.perf_counter() - begun)
        return min(times[1:])

    def _batch(self, images: Tensor) -> tuple[Tensor, Any]:
        targets = self.model.task.blank_targets(len(images))
        return images, targets.to(self.device) if isinstance(targets, Tensor) else targets


def _model(config: Config, method: Method, splits: Splits) -> tuple[Model, torch.device]:
    """The model of the run, where the run would train it."""
    backbone = starting_backbone.build_starting_backbone(config, method)
    task = task_class(config.task).build(config.task, backbone, splits.classes, splits.train.categories)
    if config.backbone.pretrained:
        begin_task(task, config.task, config.backbone)
    transform = transform_of(config, backbone)
    model = Model(backbone, task, transform.mean, transform.std)
    model.adapted(method.adapt(backbone, Plan()))
    choose_ways_of_computing(config, model)
    choose_prefix(config, method, model, transform.size is not None)
    device = device_of_process(config.trainer)
    return model.to(device), device


def _noise(model: Model, frames: int | None, images: int, device: torch.device) -> Tensor:
    """uint8 images (B, 3, H, W), or clips (B, T, 3, H, W), of noise."""
    clip = () if frames is None else (frames,)
    shape = (images, *clip, 3, *model.backbone.facts.canvas)
    return torch.randint(256, shape, dtype=torch.uint8).to(device)
