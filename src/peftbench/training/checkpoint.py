"""When a run is saved, and how it stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from peftbench.common.atomic_files import replacing
from peftbench.training.agreement import Agreement

FILE = "checkpoint.ckpt"


class Stopped(Exception):
    """The user (or the scheduler) asked for an end; a checkpoint was written. The message says who asked."""


class Aborted(Stopped):
    """The user asked twice: nothing was written since the last checkpoint.

    Not a KeyboardInterrupt, upon which Lightning would leave the process with SIGINT ignored.
    """


class Checkpoints(Callback):
    """Saves when an epoch or a step ends, but not more often than every `seconds`; saves and stops on a signal.

    A file appears whole or not at all. Saving happens between optimizer steps only, so that a run resumed from any
    checkpoint ends with the same weights. Saving happens within `apart(module)`, so that it is not counted as training.
    Several processes agree about it at the same steps, about once in a second, and whenever an epoch ends.
    """

    def __init__(self, folder: Path, seconds: float, apart: Callable[[Any], AbstractContextManager]) -> None:
        self.path = folder / FILE
        self.apart = apart
        self.seconds = seconds
        self.stop = False
        self.why = ""
        self.last = time.monotonic()
        self._agreement = Agreement()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return  # the end of an epoch is dealt with after its validation
        stop, due = self._agreed(trainer)
        if stop or due:
            module.place = (trainer.current_epoch, batch_idx + 1)
            self._save(trainer)
        if stop:
            raise Stopped(self.why)

    def on_validation_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if not self._agreed(trainer)[0]:
            return
        if trainer.state.fn != "fit":  # training is saved, and this validation begins anew when the run is resumed
            raise Stopped(self.why)
        module.cut_short = True
        raise StopIteration  # Lightning goes on as if that was all, to the end of the epoch, where the run is saved

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        module.check_weights()
        stop, due = self._agreed(trainer, now=True)
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if stop or last or due:
            module.place = (trainer.current_epoch + 1, 0)
            self._save(trainer)
        if stop and (not last or module.cut_short):
            raise Stopped(self.why)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._agreed(trainer)[0]:  # training is complete and saved; testing begins anew when the run is resumed
            raise Stopped(self.why)

    def ask(self, why: str = "") -> None:
        """Asks for an end after this step."""
        self.stop, self.why = True, why

    def _agreed(self, trainer: Trainer, now: bool = False) -> tuple[bool, bool]:
        """Whether any process was asked to stop, and whether it is time to save: then all do so at the same place."""
        return self._agreement.of(trainer, self.stop, time.monotonic() - self.last >= self.seconds, now)

    def _save(self, trainer: Trainer) -> None:
        module: Any = trainer.lightning_module
        module.check_weights()
        with self.apart(module):
            if trainer.is_global_zero:
                with replacing(self.path) as part:
                    trainer.save_checkpoint(part)
            else:  # gathering is everybody's work, writing the first process's
                trainer.save_checkpoint(self.path)
        self.last = time.monotonic()


class DirectIO(TorchCheckpointIO):
    """Writes to the file itself; Lightning's own would hold a second copy in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        options = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(True)  # of every record: resuming looks at them
        try:
            torch.save(checkpoint, path)
        finally:
            torch.serialization.set_crc32_options(options)
