"""A delta: all that a run learned, found by comparing bytes with the start, and nothing of the backbone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from peftbench.backbones.backbone import digests
from peftbench.errors import UserError
from peftbench.model import Model

FILE = "delta.safetensors"
_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)


def changed(state: Mapping[str, Tensor], start: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of `state` that are new, or whose bytes are not those hashed in `start`."""
    known = {n: t for n, t in state.items() if n in start}
    now = digests(known)
    return {n: t for n, t in state.items() if n not in start or now[n] != start[n]}


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes a delta and returns its size in bytes; the file at `path` is replaced only when the new one is whole.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        safetensors.torch.save_file(copies, part, metadata=dict(metadata))
    return path.stat().st_size


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well; else `path` stays as it was.

    Raises:
        UserError: writing failed (no space, no permission).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.chmod(0o666 & ~_UMASK)  # safetensors writes files that only their owner can read
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except (OSError, safetensors.SafetensorError) as problem:
        raise UserError(f"{path}: could not be written ({problem}); what was there before is kept.") from None
    except RuntimeError as problem:  # torch.save reports a full disk so
        if not any(w in str(problem) for w in ("write", "file", "unexpected pos")):
            raise
        raise UserError(
            f"{path}: could not be written ({str(problem).splitlines()[0]}); what was there before is kept."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a delta file. Raises UserError where it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {n: file.get_tensor(n) for n in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: there is no delta here; it is written when a run completes.") from None
    except safetensors.SafetensorError as problem:
        raise UserError(f"{path}: is not a whole safetensors file ({problem}).") from None


def attach(model: Model, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts a delta's tensors into a model built by the same config.

    Raises:
        UserError: the delta is of another model: a tensor the model has not, or has in another shape.
    """
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state:
            raise UserError(f"{source}: holds {name}, which this model has not; it was made by another model.")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {name} has shape {list(tensor.shape)}, this model's has {list(state[name].shape)}; "
                f"it was made by another model."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
