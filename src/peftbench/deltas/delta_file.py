"""A delta: all that a run learned, found by comparing bytes with the start, and nothing of the backbone."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from peftbench.common.atomic_files import replacing
from peftbench.common.digests import digests
from peftbench.common.errors import Refusal, UserError
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
    metadata = {**metadata, "format": f"{_FORMAT}{FORMAT}", "tensors": str(len(tensors))}
    return write_tensors(path, tensors, metadata | {"content": content_hash(tensors, metadata)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes tensors and metadata, as they are, to a safetensors file; returns its size in bytes.

    Raises:
        UserError: as `save_delta`.
    """
    copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        safetensors.torch.save_file(copies, part, metadata=dict(metadata))
    return path.stat().st_size


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over names, shapes, types and bytes of all tensors and over the metadata, `content` itself left out."""
    hashes = digests(dict(tensors))
    lines = [f"{n} {tuple(tensors[n].shape)} {tensors[n].dtype} {hashes[n]}" for n in sorted(tensors)]
    hashed = {k: v for k, v in metadata.items() if k != "content"}
    return hashlib.sha256("\n".join([json.dumps(hashed, sort_keys=True), *lines]).encode()).hexdigest()


def load_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a delta file, in this version's format; one of format 1 is migrated.

    A delta of format 1 names no task: it is of the task that its run's config names.

    Raises:
        UserError: it is missing, damaged or no delta.
        Refusal: it is of a format that this version does not know.
    """
    tensors, metadata = read_tensors(path)
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
    if number == "1":  # it has no hash
        return tensors, {**readable, "mask": ""}
    if metadata.get("tensors") != str(len(tensors)):
        raise UserError(
            f"{path}: is damaged: it was saved with {metadata.get('tensors', 'no')} tensors, and holds {len(tensors)}."
        )
    if content_hash(tensors, metadata) != metadata.get("content"):
        raise UserError(f"{path}: is damaged: what it holds is not what was saved in it (its sha256 is another).")
    return tensors, readable


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of any safetensors file.

    Raises:
        UserError: it is missing, damaged or another kind of file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {n: file.get_tensor(n) for n in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; give the folder of a run as it was left.") from None
    except safetensors.SafetensorError as problem:
        if _pickled(path):
            raise UserError(
                f"{path}: is a pickle or a torch file, which could run code and is not read; expected safetensors."
            ) from None
        raise UserError(f"{path}: is not a whole safetensors file ({problem}).") from None
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be read as a safetensors file ({problem}).") from None


def _pickled(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(2)
    return begin == b"PK" or begin[:1] == b"\x80"


def _writer(metadata: Mapping[str, str]) -> str:
    """The version of peftbench that wrote the file, after a comma; the empty string where it does not say."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f", {json.loads(metadata['versions'])['peftbench']}"
    return ""
