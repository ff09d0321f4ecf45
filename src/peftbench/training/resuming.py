"""Whether a run can go on from the checkpoint in its folder."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what weights_only raises

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console

from peftbench.common.errors import UserError
from peftbench.training.checkpoint import FILE
from peftbench.training.checkpoint_form import Misfit, check, run_of
from peftbench.training.module import Fit


@dataclass(eq=False)
class Resumption(Callback):
    """What lay in the run's folder. A damaged checkpoint is set aside once all processes have looked at it.

    Attributes:
        path: the checkpoint to resume from, None where there is none that is sound.
        unvalidated: whether it was written in the midst of its epoch's validation.
        damaged: a checkpoint that is not as it was written, and `why`.
    """

    path: Path | None = None
    unvalidated: bool = False
    damaged: Path | None = None
    why: str = ""

    def on_fit_start(self, trainer: Trainer, module: object) -> None:
        if self.damaged is None or not trainer.is_global_zero:
            return
        aside, number = self.damaged.with_name(f"{FILE}.damaged"), 1
        while aside.exists():
            number += 1
            aside = self.damaged.with_name(f"{FILE}.damaged-{number}")
        try:
            self.damaged.rename(aside)
        except OSError as problem:
            raise UserError(
                f"{self.damaged}: is damaged ({self.why}) and cannot be moved ({problem.strerror})."
            ) from None
        Console(stderr=True).print(
            f"{self.damaged}: is damaged ({self.why}); it is kept as {aside.name}, and the run starts anew",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        self.damaged = None


def resumption(folder: Path, module: Fit, trainer: Trainer) -> Resumption:
    """Looks for a checkpoint to resume from, and at all that it holds.

    Raises:
        UserError: it is sound and holds Python objects, or belongs to another run or model.
    """
    path = folder / FILE
    if not path.is_file():
        return Resumption()
    if why := damage(path):
        return Resumption(damaged=path, why=why)
    advice = "remove it, or give force=true, to start again"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path}: holds Python objects besides tensors and is not loaded; {advice}.") from None
    except Exception as problem:  # what is edited and sealed again may end in any
        why = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({why}); {advice}.") from None
    try:
        if (run := run_of(checkpoint)) != module.run_id:
            raise UserError(f"{path}: belongs to run {run}, not to {module.run_id}; {advice}.")
        check(checkpoint, module, trainer)
    except Misfit as problem:
        raise UserError(f"{path}: is not a checkpoint of this run: {problem}; {advice}.") from None
    return Resumption(path, unvalidated=checkpoint["peftbench"].get("unvalidated", False))


def damage(path: Path) -> str:
    """Why a checkpoint is not as it was written, empty where it is.

    It is a zip archive whose directory holds a CRC-32 of every record, at which `torch.load` does not look.
    """
    try:
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80"
        if pickled:  # no file of ours, and no zip archive: `torch.load` says what is wrong with it
            return ""
        with zipfile.ZipFile(path) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                return "a record is compressed"
            if bad := archive.testzip():
                return f"the checksum of {bad} differs"
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as problem:
        return (str(problem) or type(problem).__name__).splitlines()[0].rstrip(".")
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror or problem}).") from None
    return ""
