"""Sealed files: tensors and metadata in safetensors, with a hash of all of it inside. The one reader checks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from peftbench.common.atomic_files import replacing
from peftbench.common.digests import digests
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.regular_files import first_bytes, refuse_irregular

SEAL = "content"
"""The key of the metadata that holds the hash."""


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata with the number of tensors and a hash of all that the file will hold."""
    counted = {**metadata, "tensors": str(len(tensors))}
    return {**counted, SEAL: content_hash(tensors, counted)}


def check_seal(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether the file at `path`, of which all was read, bears a seal; an earlier version sealed fewer files.

    Raises:
        UserError: what it holds is not what was sealed.
    """
    if SEAL not in metadata:
        return False
    if metadata.get("tensors") != str(len(tensors)):
        raise UserError(
            f"{path}: is damaged: it was saved with {metadata.get('tensors', 'no')} tensors, and holds {len(tensors)}."
        )
    if content_hash(tensors, metadata) != metadata[SEAL]:
        raise UserError(f"{path}: is damaged: what it holds is not what was saved in it (its sha256 is another).")
    return True


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over names, shapes, types and bytes of all tensors and over the metadata, the seal itself left out."""
    hashes = digests(dict(tensors))
    lines = [f"{n} {tuple(tensors[n].shape)} {tensors[n].dtype} {hashes[n]}" for n in sorted(tensors)]
    hashed = {k: v for k, v in metadata.items() if k != SEAL}
    return hashlib.sha256("\n".join([json.dumps(hashed, sort_keys=True), *lines]).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes tensors and metadata, as they are, to a safetensors file; returns its size in bytes.

    The file at `path` is replaced only when the new one is whole. Equal content makes equal files.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        safetensors.torch.save_file(copies, part, metadata=dict(metadata))
        _sort_metadata(part)
    return path.stat().st_size


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata of a file in place: safetensors writes them in another order each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:  # spaces fill a header up
            file.seek(8)
            file.write(text.ljust(size))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of any safetensors file.

    Raises:
        UserError: it is missing, damaged or another kind of file.
    """
    try:
        refuse_irregular(path)
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
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror or problem}).") from None
    except (ValueError, RuntimeError, AttributeError) as problem:  # a type that torch here has not
        raise UserError(f"{path}: cannot be read as a safetensors file ({first_sentence(problem)}).") from None


def _pickled(path: Path) -> bool:
    begin = first_bytes(path, 2)
    return begin == b"PK" or begin[:1] == b"\x80"
