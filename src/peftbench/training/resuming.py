"""Whether a run can go on from the checkpoint in its folder."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # what weights_only raises

import torch
from lightning.pytorch import Callback, Trainer

from peftbench.common import terminal
from peftbench.common.errors import UserError
from peftbench.common.regular_files import open_binary
from peftbench.training.checkpoint import FILE, Stopped
from peftbench.training.checkpoint_form import Misfit, refuse_misfits, run_of
from peftbench.training.module import Fit

_BLOCK = 1 << 18  # bytes that are read at once: they stay in the processor's cache
_NAME_IN_UTF8, _SIZES_BEHIND = 0x800, 0x8  # the flags of a record that torch sets
_ADVICE = "remove it, or give force=true, to start again"


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
    restoring: bool = False

    @contextlib.contextmanager
    def naming_file(self) -> Iterator[None]:
        """Within this block what goes wrong while the checkpoint is loaded is a sentence that names it.

        Raises:
            UserError: the optimizer does not take its state, such as one that a method from outside builds.
        """
        try:
            yield
        except Stopped:
            raise
        except Exception as problem:
            if not self.restoring:
                raise
            why = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
            raise UserError(f"{self.path}: is not a checkpoint of this run: {why}; {_ADVICE}.") from None

    def on_train_start(self, trainer: Trainer, module: object) -> None:
        self.restoring = False

    def on_fit_start(self, trainer: Trainer, module: object) -> None:
        self.restoring = self.path is not None
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
        terminal.console(stderr=True).print(
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
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path}: holds Python objects besides tensors and is not loaded; {_ADVICE}.") from None
    except Exception as problem:  # what is edited and sealed again may end in any
        return Resumption(
            damaged=path, why=(str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
        )
    try:
        if (run := run_of(checkpoint)) != module.run_id:
            raise UserError(f"{path}: belongs to run {run}, not to {module.run_id}; {_ADVICE}.")
        refuse_misfits(checkpoint, module, trainer)
    except Misfit as problem:
        raise UserError(f"{path}: is not a checkpoint of this run: {problem}; {_ADVICE}.") from None
    return Resumption(path, unvalidated=checkpoint["peftbench"].get("unvalidated", False))


def damage(path: Path) -> str:
    """Why a checkpoint is not as it was written, empty where it is.

    It is a zip archive whose directory holds a CRC-32 of every record, at which `torch.load` does not look.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open_binary(path) as file:
            first = file.read(1)
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror or problem}).") from None
    if first == b"\x80":  # a bare pickle, no file of ours: `torch.load` says what is wrong with it
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
        with ThreadPoolExecutor() as pool:  # several times as fast as ZipFile.testzip()
            sound = list(pool.map(partial(_is_sound, path), records))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, OSError, struct.error) as problem:
        return (str(problem) or type(problem).__name__).splitlines()[0].rstrip(".")
    bad = next((record.filename for record, good in zip(records, sound, strict=True) if not good), None)
    return "" if bad is None else f"the checksum of {bad!r} differs"


def _is_sound(path: Path, record: zipfile.ZipInfo) -> bool:
    """Whether a record, stored as it is, has the name and the CRC-32 that the archive's directory says."""
    plain = record.compress_type == zipfile.ZIP_STORED and record.file_size == record.compress_size
    if not plain or record.flag_bits & ~(_NAME_IN_UTF8 | _SIZES_BEHIND):
        return False
    with open_binary(path, 0) as file:
        file.seek(record.header_offset)
        header = file.read(30)
        length, extra = struct.unpack("<HH", header[26:30])
        name = file.read(length).decode("utf-8", "replace")
        if header[:4] != b"PK\x03\x04" or name != record.orig_filename:
            return False
        file.seek(extra, 1)
        block = memoryview(bytearray(min(_BLOCK, record.file_size)))
        left, crc = record.file_size, 0
        while left and (count := file.readinto(block[: min(len(block), left)])):
            crc, left = zlib.crc32(block[:count], crc), left - count
    return not left and crc == record.CRC
