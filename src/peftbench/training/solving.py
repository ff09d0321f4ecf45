"""A head that is worked out from pooled features instead of being trained: features, choice, solution, test."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.common.precisions import HALF
from peftbench.common.seeds import mix
from peftbench.config import Config
from peftbench.costs import EnergyMeter, PeakMemory, wait_for
from peftbench.data.images import Images, Indices
from peftbench.data.loading import BatchOrder, Loaders, images_of
from peftbench.methods.base import Method
from peftbench.methods.shared.solving import Features, Problem, Solution
from peftbench.models.model import Model
from peftbench.results.task_results import results_of_task
from peftbench.tasks.base import Task
from peftbench.training.checkpoint import Checkpoints
from peftbench.training.devices import device_of_process
from peftbench.training.module import Fit
from peftbench.training.signals import Signals
from peftbench.training.trainer import (
    Outcome,
    lightning_trainer,
    metrics_of_tests,
    state_of_model,
    validated,
)
from peftbench.training.worker_errors import plain_sentences

IN_MEMORY = 2**28
"""Bytes of features that stay in memory; more lie in a file."""
HELD_OUT = 0.1
"""The share of the training images that is held out to choose by, where there are no validation images."""


def solve(
    model: Model,
    method: Method,
    config: Config,
    loaders: Loaders,
    folder: Path,
    run_id: str,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Outcome:
    """Works the head out of the features of the training images, then validates and tests it as a trained one is.

    Options that the method chooses among are judged by the validation images; without such by a tenth of the training
    images, drawn with the run's seed, and the head is then worked out anew from all of them.

    Args:
        folder: that of the run, where features lie in a file without a name where they are many.
        watch: called with the images whose features are there, and of how many.

    Raises:
        UserError: devices that are not there, or a head that cannot be worked out from these images.
    """
    place = device_of_process(config.trainer)
    memory = PeakMemory(place)
    memory.start()
    model.to(place).eval()
    wait_for(place)
    energy = EnergyMeter()
    energy.open(place)
    energy.begin()
    begun = time.perf_counter()
    with contextlib.ExitStack() as files:
        problem, about = _problem(model, method, config, loaders, files.enter_context(_Room(folder)), watch)
        looked = time.perf_counter() - begun
        solution = method.solve(problem)
    _put(model.task, solution)
    wait_for(place)
    seconds, peak = time.perf_counter() - begun, memory.read()
    energy.spent["train"] = energy.end()

    module = Fit(model, method, config, {}, run_id)
    module.energy = energy
    checkpoints = Checkpoints(folder, config.trainer.checkpoint_seconds, lambda _: contextlib.nullcontext())
    signals = Signals(checkpoints)
    trainer = lightning_trainer(config, folder, [signals, checkpoints])
    metrics: dict[str, float] = {}
    with signals, plain_sentences():
        if loaders.val is not None:
            module.concludes = True
            trainer.validate(module, loaders.val, verbose=False)
            metrics = validated(module.concluded[0])
        state = state_of_model(trainer) if loaders.val is not None else model.state_dict()
        results, (test, images) = metrics_of_tests(trainer, module, loaders)
    figures: dict[str, Any] = {
        "time": {
            "train": seconds,
            "features": looked,
            "validate": module.elapsed["validate"],
            "test": test,
            "test_image": test / images if images else None,
            "sessions": 1,
        },
        "memory": {"peak": peak, "saved_for_backward": 0},
        "energy": energy.costs({"train": seconds, "test": test if images else None}, config.costs.watts),
    }
    solved = {**about, "chosen": dict(solution.chosen), "tried": list(solution.tried), **solution.facts}
    rows = module.rows and module.rows[0]
    return Outcome(metrics | results, [], figures, place, state, rows, chosen=module.chosen[0], solved=solved)


def images_learned_from(loaders: Loaders) -> int:
    """How many training images a head is solved from: all of them, or those of the first `trainer.max_batches`."""
    return len(_rows(loaders))


def _rows(loaders: Loaders) -> Tensor:
    """Which training images are learned from, in increasing order."""
    order = loaders.order
    if order.limit is None:
        return torch.arange(order.size)
    return torch.tensor(sorted(index for batch in order for index in batch), dtype=torch.long)


def _problem(
    model: Model, method: Method, config: Config, loaders: Loaders, room: _Room, watch: Callable[[int, int], None]
) -> tuple[Problem, dict[str, Any]]:
    """What the method is given, and what the record says of it."""
    train, val = images_of(loaders.train), images_of(loaders.val)
    assert train is not None
    rows = _rows(loaders)
    chooses = method.chooses(len(rows))
    validation: Tensor | None = None
    if val is not None and chooses:
        assert loaders.val is not None
        assert isinstance(loaders.val.batch_sampler, BatchOrder)
        validation = torch.arange(loaders.val.batch_sampler.images)
    total = len(rows) + (0 if validation is None else len(validation))
    compute = partial(_features, model, config, room, total=total, watch=watch)
    whole = compute(train, rows)
    about: dict[str, Any] = {"images": len(rows), "held_out": 0}
    held, part = None, whole
    if validation is not None:
        assert val is not None
        held = compute(val, validation, done=len(rows))
        about |= {"held_out": len(held), "held_out_of": "validation images"}
    elif chooses and len(rows) > 1:
        keep = _kept(len(rows), config.seed)
        part, held = whole.take(keep), whole.take(~keep)
        about |= {"held_out": len(held), "held_out_of": "training images; the head is of all of them"}
    task, metric = model.task, results_of_task(config.task.name, config.task.path).metric
    place = model.mean.device
    exact = place if place.type != "mps" else torch.device("cpu")  # which has no fp64
    outputs = len(task.classes)
    return Problem(part, held, whole, outputs, partial(_Judge, task, metric, place), task.wanted, exact), about


def _kept(images: int, seed: int) -> Tensor:
    """bool (N,): true for nine tenths of the images, drawn with the seed."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(mix(seed, 3)))
    keep = torch.ones(images, dtype=torch.bool)
    keep[order[: max(round(HELD_OUT * images), 1)]] = False
    return keep


@torch.no_grad()
def _features(
    model: Model,
    config: Config,
    room: _Room,
    images: Images,
    rows: Tensor,
    *,
    total: int,
    watch: Callable[[int, int], None],
    done: int = 0,
) -> Features:
    """The pooled features of some images, in batches of `data.eval_batch_size`, of kept taps where there are such."""
    place, half = model.mean.device, HALF[config.trainer.precision]
    targets = torch.from_numpy(images.split.labels)[rows]
    stored: _Stored | None = None
    for part in rows.split(config.data.eval_batch_size):
        batch = images.__getitems__(Indices(part.tolist(), None))
        taps = None if batch.taps is None else [t.to(place) for t in batch.taps]
        with torch.autocast(place.type, half, enabled=half is not None):
            extract = partial(model.extract, cached=taps)
            values = model.task.features(extract, model.backbone, batch.images.to(place)).float().cpu()
        stored = stored or _Stored(len(rows), values.shape[1], room)
        stored.add(values)
        done += len(part)
        watch(done, total)
    assert stored is not None
    return Features(stored.read, stored.width, targets)


class _Room:
    """Where features lie that are too many for memory: in files without a name, which vanish with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = contextlib.ExitStack()

    def file(self) -> Any:
        """A new file. Raises UserError where there can be none."""
        try:
            return self._files.enter_context(tempfile.TemporaryFile(dir=self.folder))
        except OSError as problem:
            raise self.full(problem) from None

    def full(self, problem: OSError) -> UserError:
        """The sentence for a file that cannot be written."""
        return UserError(f"{self.folder}: the features of the images cannot be kept there ({problem.strerror}).")

    def __enter__(self) -> _Room:
        return self

    def __exit__(self, *problem: object) -> None:
        self._files.close()


class _Stored:
    """Features (N, width) in float32, written from first to last: in memory, or in a file."""

    def __init__(self, count: int, width: int, room: _Room) -> None:
        self.width, self.room, self.done = width, room, 0
        fits = 4 * count * width <= IN_MEMORY
        self.values = torch.empty((count, width)) if fits else None
        self.file: Any = None if fits else room.file()

    def add(self, values: Tensor) -> None:
        """The features of the next images, (n, width)."""
        if self.values is not None:
            self.values[self.done : self.done + len(values)] = values
        else:
            try:
                self.file.write(values.contiguous().numpy().tobytes())
            except OSError as problem:
                raise self.room.full(problem) from None
        self.done += len(values)

    def read(self, first: int, last: int) -> Tensor:
        """The features from one image to before another."""
        if self.values is not None:
            return self.values[first:last]
        values = torch.empty((last - first, self.width))
        self.file.seek(4 * first * self.width, os.SEEK_SET)
        self.file.readinto(memoryview(values.numpy()).cast("B"))  # type: ignore[arg-type]
        return values


class _Judge:
    """Judges a head by the metric and the loss that the task evaluates by."""

    def __init__(self, task: Task, metric: str, place: torch.device) -> None:
        self.task, self.metric, self.place = task, metric, place
        self.metrics = task.metrics().to(place)
        self.loss = torch.zeros((), dtype=torch.float64)
        self.images = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes what the head gives for some images, (n, outputs), and what they are."""
        targets = targets.to(self.place)
        predictions = self.task.answer(outputs.to(self.place))
        self.metrics.update(predictions, targets)
        loss = self.task.evaluation_loss(predictions, (None, targets))
        self.loss += 0 if loss is None else loss.double().cpu()
        self.images += len(targets)

    def merit(self) -> tuple[float, float]:
        """(the metric, minus the mean loss)."""
        results: Mapping[str, Tensor] = self.metrics.compute()
        return results[self.metric].item(), -self.loss.item() / self.images


@torch.no_grad()
def _put(task: Task, solution: Solution) -> None:
    """Has the task's head hold what was solved."""
    state = task.get_submodule("head").state_dict()
    if state.keys() != solution.tensors.keys():
        raise UserError(f"solve(): gave {sorted(solution.tensors)}, and the head has {sorted(state)}.")
    for name, tensor in solution.tensors.items():
        state[name].copy_(tensor)
