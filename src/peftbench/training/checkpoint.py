"""When a run is saved, and how it stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import UnpicklingError  # what weights_only raises
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.training.module import Fit

FILE = "checkpoint.ckpt"


class Stopped(Exception):
    """The user (or the scheduler) asked for an end; a checkpoint was written."""


class Aborted(Stopped):
    """The user asked twice: nothing was written since the last checkpoint.

    Not a KeyboardInterrupt, upon which Lightning would leave the process with SIGINT ignored.
    """


class Checkpoints(Callback):
    """Saves when an epoch or a step ends, but not more often than every `seconds`; saves and stops on a signal.

    A file appears whole or not at all. Saving happens between optimizer steps only, so that a run resumed from any
    checkpoint ends with the same weights. Saving happens within `apart(module)`, so that it is not counted as training.
    """

    def __init__(self, folder: Path, seconds: float, apart: Callable[[Any], AbstractContextManager]) -> None:
        self.path = folder / FILE
        self.apart = apart
        self.seconds = seconds
        self.stop = False
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return  # the end of an epoch is dealt with after its validation
        stop = trainer.strategy.reduce_boolean_decision(self.stop, all=False) if trainer.world_size > 1 else self.stop
        if stop or self._due(trainer):
            module.place = (trainer.current_epoch, batch_idx + 1)
            self._save(trainer)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        module.check_weights()
        stop = trainer.strategy.reduce_boolean_decision(self.stop, all=False) if trainer.world_size > 1 else self.stop
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if stop or last or self._due(trainer):
            module.place = (trainer.current_epoch + 1, 0)
            self._save(trainer)
        if stop and not last:
            raise Stopped

    def on_test_batch_end(self, *_: Any) -> None:
        if self.stop:  # training is complete and saved; testing begins anew when the run is resumed
            raise Stopped

    def _due(self, trainer: Trainer) -> bool:
        due = time.monotonic() - self.last >= self.seconds
        return trainer.strategy.broadcast(due) if trainer.world_size > 1 else due

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
        torch.save(checkpoint, path)


class Signals:
    """Within this block Ctrl-C and SIGTERM ask `checkpoints` to save and stop; a second one stops at once."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.checkpoints.stop:
            raise Aborted
        self.checkpoints.stop = True
        print("\nstopping after this step (once more: at once) …", flush=True)


KEPT = {"id", "place", "history", "elapsed", "sessions", "measured", "train_loss"}


def resumable(folder: Path, module: Fit) -> Path | None:
    """The checkpoint to resume from, None where there is none.

    Raises:
        UserError: it is damaged, holds Python objects, or belongs to another run or model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    advice = "remove it, or give force=true, to start again"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        if path.read_bytes()[:1] not in (b"P", b"\x80"):  # a zip archive, a pickle
            raise UserError(f"{path}: is damaged (it is no torch file); {advice}.") from None
        raise UserError(f"{path}: holds Python objects besides tensors and is not loaded; {advice}.") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as problem:
        raise UserError(
            f"{path}: is damaged ({(str(problem) or type(problem).__name__).splitlines()[0]}); {advice}."
        ) from None
    kept = checkpoint.get("peftbench") if isinstance(checkpoint, Mapping) else None
    state = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if (
        not isinstance(kept, Mapping)
        or not set(kept) >= KEPT
        or not isinstance(state, Mapping)
        or not all(isinstance(t, torch.Tensor) for t in state.values())
    ):
        raise UserError(f"{path}: is not a checkpoint of peftbench; {advice}.")
    if kept["id"] != module.run_id:
        raise UserError(f"{path}: belongs to run {kept['id']}, not to {module.run_id}; {advice}.")
    ours = module.state_dict()
    for name, tensor in state.items():
        if name not in ours or ours[name].shape != tensor.shape:
            raise UserError(f"{path}: {name} {list(tensor.shape)} does not fit this model; {advice}.")
    return path
