"""A delta: all that a run learned, found by comparing bytes with the start, and nothing of the backbone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from peftbench.common.digests import digests
from peftbench.common.errors import Refusal, UserError
from peftbench.common.notes import note
from peftbench.common.sealed_file import SEAL, check_seal, read_tensors, sealed, write_tensors
from peftbench.deltas.metadata import checked_metadata

FILE = "delta.safetensors"
FORMAT = 2
"""The format of the file's metadata, as docs/using.md describes it. Format 1 had no hash and no task, and knew no
pruning."""
_FORMAT = "peftbench-delta-"
_FIRST = ("run", "method", "backbone", "fingerprint", "options", "classes")
# The keys without which a delta of a format cannot be used. Other keys came later and may be missing.
_REQUIRED = {1: _FIRST, FORMAT: (*_FIRST, "mask", "task")}


def changed_tensors(state: Mapping[str, Tensor], start: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of `state` that are new, or whose bytes are not those hashed in `start`."""
    now = digests({n: t for n, t in state.items() if n in start})
    return {n: t for n, t in state.items() if n not in start or now[n] != start[n]}


def save_delta(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes a delta and returns its size in bytes; the file at `path` is replaced only when the new one is whole.

    Its format, the number of tensors and a hash of all that it holds are added to the metadata.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    return write_tensors(path, tensors, sealed(tensors, {**metadata, "format": f"{_FORMAT}{FORMAT}"}))


def load_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a delta file, in this version's format; one of format 1 is migrated.

    A delta of format 1 names no task: it is of the task that its run's config names.

    Raises:
        UserError: it is missing, damaged or no delta.
        Refusal: it is of a format that this version does not know.
    """
    mapped, metadata = read_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}  # a file that is written over changes no model
    word = metadata.get("format", "")
    number = word.removeprefix(_FORMAT)
    if not word.startswith(_FORMAT) or not number.isdecimal() or number.startswith("0"):
        why = f"its format is {word!r}" if word else "its metadata names no format"
        raise UserError(f"{path}: is no delta of peftbench ({why}; expected {_FORMAT}1 or {_FORMAT}{FORMAT}).")
    if int(number) not in _REQUIRED:
        raise Refusal(
            f"{path}: is of delta format {number}, and this version reads 1 to {FORMAT}; read it with the peftbench "
            f"that wrote it{_writer(metadata)}."
        )
    for key in _REQUIRED[int(number)]:
        if key not in metadata or (key in _FIRST and not metadata[key]):
            raise UserError(f"{path}: is damaged: its metadata say no {key}.")
    readable = checked_metadata(path, metadata)
    has_seal = check_seal(path, tensors, metadata)
    if number == "1":
        if not has_seal:
            note(f"{path}: is of delta format 1, which had no hash; whether it is whole cannot be checked.")
        return tensors, {**readable, "mask": ""}
    if not has_seal:
        raise UserError(f"{path}: is damaged: its metadata say no {SEAL}.")
    return tensors, readable


def _writer(metadata: Mapping[str, str]) -> str:
    """The version of peftbench that wrote the file, after a comma; the empty string where it does not say."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f", {json.loads(metadata['versions'])['peftbench']}"
    return ""
