"""Requests that come at once go through the backbone at once: a bounded queue, and one thread that computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from peftbench.serving.limits import Limits, Refused
from peftbench.tuned.multitask import MultiTask

Told = dict[str, tuple[Any, Any]]
"""Of each task asked: the task module that answered, and its answer for the image, on the CPU."""


@dataclass(frozen=True)
class Waiting:
    """An image that waits for its answer.

    Attributes:
        pixels: uint8 (3, H, W).
        names: the tasks that are asked.
        future: gets the answer.
    """

    pixels: Tensor
    names: tuple[str, ...]
    future: Future[Told] = field(default_factory=Future)


class Batching:
    """The queue of a server and the thread that empties it.

    It never waits for a batch to fill: whatever has come while one was computed is the next. All images that ask a side
    method share one pass of the backbone; a method that changes weights has a pass of its own for those that ask it.

    Args:
        tasks: what answers.
        limits: how many images may wait, and how many are computed at once.
        observed: called with the number of images of each batch.
    """

    def __init__(self, tasks: MultiTask, limits: Limits, observed: Callable[[int], None]) -> None:
        self.tasks, self.limits, self.observed = tasks, limits, observed
        self.device = next(iter(tasks.tasks.values())).mean.device
        self.admitted = 0
        self._waiting: deque[Waiting] = deque()
        self._change = threading.Condition()
        self._computing = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="backbone", daemon=True)
        self._thread.start()

    def admit(self, images: int) -> None:
        """Keeps room for images that are about to be decoded. Raises Refused (429) where the queue is full."""
        with self._change:
            if self.admitted + images > self.limits.queue:
                raise Refused(
                    429,
                    f"the queue is full: {self.admitted} of at most {self.limits.queue} images wait; ask again in a "
                    f"second.",
                    retry=True,
                )
            self.admitted += images

    def release(self, images: int) -> None:
        """Gives the room back."""
        with self._change:
            self.admitted -= images

    def ask(self, pixels: Tensor, names: Sequence[str]) -> Future[Told]:
        """Puts an image into the queue; the future gets its answer, or what failed."""
        one = Waiting(pixels, tuple(names))
        with self._change:
            if self._stopped:
                raise Refused(503, "the server is stopping; ask another one.", retry=True)
            self._waiting.append(one)
            self._change.notify()
        return one.future

    def change(self, name: str, reopened: Any) -> None:
        """Has a task answer with what `MultiTask.reopened` gave, from the next batch on."""
        with self._computing:
            self.tasks.put(name, *reopened)

    def stop(self) -> None:
        """Answers what waits, and ends the thread."""
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self.observed(len(batch))
            try:
                with self._computing:
                    answers = self._answers(batch)
            except Exception as problem:  # whatever the model fails with, these requests are told, and others go on
                for one in batch:
                    one.future.set_exception(problem)
            else:
                for one, answer in zip(batch, answers, strict=True):
                    one.future.set_result(answer)

    def _next(self) -> list[Waiting]:
        """The images of the next batch, none of which has been given up; empty at the end."""
        batch: list[Waiting] = []
        with self._change:
            while not batch:
                while not self._waiting and not self._stopped:
                    self._change.wait()
                if not self._waiting:
                    return []
                while self._waiting and len(batch) < self.limits.batch:
                    one = self._waiting.popleft()
                    if one.future.set_running_or_notify_cancel():
                        batch.append(one)
        return batch

    def _answers(self, batch: Sequence[Waiting]) -> list[Told]:
        answers: list[Told] = [{} for _ in batch]
        asked = [name for name in self.tasks.tasks if any(name in one.names for one in batch)]
        together = [name for name in asked if self.tasks.shares_pass(name)]
        passes = [together] if together else []
        for names in [*passes, *([name] for name in asked if name not in together)]:
            rows = [i for i, one in enumerate(batch) if not set(names).isdisjoint(one.names)]
            images = torch.stack([batch[i].pixels for i in rows]).to(self.device)
            for name, found in self.tasks(images, names).items():
                task = self.tasks.tasks[name].task
                on_host = found.cpu() if isinstance(found, Tensor) else found
                for i, answer in zip(rows, on_host, strict=True):
                    if name in batch[i].names:
                        answers[i][name] = (task, _on_host(answer))
        return answers


def _on_host(answer: Any) -> Any:
    return answer if isinstance(answer, Tensor) else {key: value.cpu() for key, value in answer.items()}
