"""Times and memory of training, by one definition on every device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from peftbench.config import Config
from peftbench.costs import PeakMemory, StepClock, wait_for
from peftbench.training.module import Fit


class Meters(Callback):
    """Measures training, and is read when it ends and before testing begins.

    The time of an epoch's training begins when its first batch is asked for, with the start of the processes that
    decode, and ends when the device has finished its last step. Validation, compiling and checkpoints are not in it.
    """

    def __init__(self) -> None:
        self.running = False
        self._in_stretch = False
        self._begun = self._training_begun = 0.0

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        self.device = trainer.strategy.root_device
        self.clock, self.memory = StepClock(self.device), PeakMemory(self.device)
        self.memory.start()
        module.energy.open(self.device, trainer.local_rank)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self._training_begun = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        self._go_on(module, time.perf_counter() - _started(trainer))

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if not self.running:  # resumed in the midst of an epoch, which then has no start
            self._go_on(module, self._training_begun + module.compiled.seconds - _started(trainer))
        if not self._in_stretch:
            _started(trainer)  # of the second epoch and later ones they were started while the time ran
            self.clock.begin()
            self._in_stretch = True

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.step()
        if trainer.is_last_batch:
            self._stop(module)
        else:
            self._note_time(module)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        self._stop(module)  # of an epoch that ended before its last batch

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._stop(module)

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self.note(module)

    @contextlib.contextmanager
    def aside(self, module: Fit) -> Iterator[None]:
        """Within it a checkpoint is written: it holds what was measured so far, and is not measured itself."""
        running = self.running
        self._stop(module)
        self.note(module)
        with self.memory.paused():
            yield
        if running:
            self._go_on(module, time.perf_counter())

    def note(self, module: Fit) -> None:
        """Notes what was measured so far in the module, which keeps it in its checkpoints."""
        if self.clock.summary()["steps"]:
            saved = module.saved.total if module.counts_saved else None
            module.measured = {"step": self.clock.summary(), "peak": self.memory.read(), "saved": saved}

    def costs(self, module: Fit, config: Config, images: int, tested: tuple[float, int]) -> dict[str, Any]:
        """The record's `time`, `memory` and `energy`.

        Args:
            module, config: of the run.
            images: those of an epoch.
            tested: seconds and images of the test.
        """
        steps = module.measured["step"]
        seconds = {"train": module.elapsed["train"], "test": tested[0] if tested[1] else None}
        trainer = module.trainer
        together: dict[str, Any] = {}
        if trainer.world_size > 1:
            together = {"over": self._sum(trainer), "processes": trainer.world_size}
        compiling = {"compile": module.compiled.seconds} if config.trainer.compile else {}
        return {
            "time": {
                "step": steps,
                **compiling,
                "images_per_second": min(config.data.batch_size, images) / steps["median"],
                "train": module.elapsed["train"],
                "validate": module.elapsed["validate"],
                "test": tested[0],
                "test_image": tested[0] / tested[1] if tested[1] else None,
                "sessions": module.sessions,
            },
            "memory": {"peak": module.measured["peak"], "saved_for_backward": module.measured["saved"]},
            "energy": module.energy.costs(seconds, config.costs.watts, **together),
        }

    def _sum(self, trainer: Trainer) -> Callable[[Tensor], Tensor]:
        return lambda values: trainer.strategy.reduce(values.to(self.device), reduce_op="sum")

    def _go_on(self, module: Fit, since: float) -> None:
        self._begun, self.running = since, True
        module.energy.begin()

    def _stop(self, module: Fit) -> None:
        """Training pauses, when the device has done all steps that were handed to it."""
        if self.running:
            wait_for(self.device)
            self._note_time(module)
            module.energy.spent["train"] += module.energy.end()
        self.running = self._in_stretch = False

    def _note_time(self, module: Fit) -> None:
        now = time.perf_counter()
        module.elapsed["train"] += now - self._begun
        self._begun = now


def _started(trainer: Trainer) -> float:
    """Seconds that starting the workers took, where nobody has counted them."""
    loader: Any = trainer.train_dataloader
    return loader.take_starting()
