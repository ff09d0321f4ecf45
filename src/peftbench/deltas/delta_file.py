"""A delta: all that a run learned, found by comparing bytes with the start, and nothing of the backbone."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from peftbench.common.atomic_files import replacing
from peftbench.common.digests import digests
from peftbench.common.errors import Refusal, UserError
from peftbench.models.model import Model

FILE = "delta.safetensors"
FORMAT = 2
"""Of the file's metadata, as docs/using.md describes it. Format 1 had no hash, and knew no pruning."""
_FORMAT = "peftbench-delta-"
_FIRST = ("run", "method", "backbone", "fingerprint", "options", "classes")  # what format 1 said
_SAYS = {1: _FIRST, FORMAT: (*_FIRST, "mask", "task")}  # else it cannot be used; what is not named came later
_JSON = {"options": dict, "classes": list, "categories": list, "transform": dict}


def changed_tensors(state: Mapping[str, Tensor], start: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of `state` that are new, or whose bytes are not those hashed in `start`."""
    known = {n: t for n, t in state.items() if n in start}
    now = digests(known)
    return {n: t for n, t in state.items() if n not in start or now[n] != start[n]}


def save_delta(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes a delta and returns its size in bytes; the file at `path` is replaced only when the new one is whole.

    Its format, the number of tensors and a hash of all that it holds are added to the metadata.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    told = {**metadata, "format": f"{_FORMAT}{FORMAT}", "tensors": str(len(tensors))}
    return write_tensors(path, tensors, told | {"content": content_hash(tensors, told)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes tensors and metadata to a safetensors file, as `save` does, with nothing added. Raises UserError."""
    copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        safetensors.torch.save_file(copies, part, metadata=dict(metadata))
    return path.stat().st_size


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over names, shapes, types and bytes of all tensors and over the metadata, `content` itself left out."""
    hashes = digests(dict(tensors))
    lines = [f"{n} {tuple(tensors[n].shape)} {tensors[n].dtype} {hashes[n]}" for n in sorted(tensors)]
    told = {k: v for k, v in metadata.items() if k != "content"}
    return hashlib.sha256("\n".join([json.dumps(told, sort_keys=True), *lines]).encode()).hexdigest()


def load_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a delta file, in this version's format; one of format 1 is migrated.

    Raises:
        UserError: it is missing, damaged, no delta, or of a format that this version does not know.
    """
    tensors, metadata = read_tensors(path)
    word = metadata.get("format", "")
    number = word.removeprefix(_FORMAT)
    if not word.startswith(_FORMAT) or not number.isdecimal() or number.startswith("0"):
        found = f"its format is {word!r}" if word else "its metadata names no format"
        raise UserError(f"{path}: is no delta of peftbench ({found}; expected {_FORMAT}1 or {_FORMAT}{FORMAT}).")
    if int(number) not in _SAYS:
        raise Refusal(
            f"{path}: is of delta format {number}, and this version reads 1 to {FORMAT}; read it with the peftbench "
            f"that wrote it{_by(metadata)}."
        )
    if wrong := [k for k in _SAYS[int(number)] if k not in metadata or (k in _FIRST and not metadata[k])]:
        raise UserError(f"{path}: is damaged: its metadata say no {wrong[0]}.")
    if wrong := [key for key, kind in _JSON.items() if key in metadata and not _holds(metadata[key], kind)]:
        raise UserError(f"{path}: is damaged: {wrong[0]} in its metadata is {metadata[wrong[0]]!r:.40}.")
    if not metadata.get("input_size", "1").isdecimal():
        raise UserError(f"{path}: is damaged: input_size in its metadata is {metadata['input_size']!r:.40}.")
    if number == "1":  # it has no hash
        return tensors, {**metadata, "mask": "", "task": "classification"}
    if metadata.get("tensors") != str(len(tensors)):
        raise UserError(
            f"{path}: is damaged: it was saved with {metadata.get('tensors', 'no')} tensors, and holds {len(tensors)}."
        )
    if content_hash(tensors, metadata) != metadata.get("content"):
        raise UserError(f"{path}: is damaged: what it holds is not what was saved in it (its sha256 is another).")
    return tensors, metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file. Raises UserError where it is missing, damaged or another file."""
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


def _holds(text: str, kind: type) -> bool:
    """Whether it is JSON of an object or a list."""
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def _pickled(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(2)
    return begin == b"PK" or begin[:1] == b"\x80"


def _by(metadata: Mapping[str, str]) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f", {json.loads(metadata['versions'])['peftbench']}"
    return ""


class Attached:
    """A delta in a model. The tensors that were in its place are kept, and `detach` puts them back."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.model = model
        self.before: dict[str, Tensor] = {}
        own = {name: tensor.detach() for name, tensor in tensors.items()}  # objects by which it knows its own again
        self._swap(own, self.before)
        self.put = {name: self._found(name) for name in own}

    def detach(self) -> None:
        """The model is as it was before, to the bit.

        Raises:
            UserError: it has been detached already, or something else is now in the place of its tensors: another
                delta that was attached after it is detached first.
        """
        if not self.before:
            raise UserError("this delta has been detached already.")
        for name, put in self.put.items():
            if self._found(name) is not put:
                raise UserError(
                    f"this delta cannot be detached: {name} of the model is no longer what it put there; detach first "
                    f"what was attached after it, and undo what else was done to the model."
                )
        before, self.before, self.put = self.before, {}, {}
        self._swap(dict(reversed(before.items())), {})  # a module under two names was swapped twice

    def _place(self, name: str) -> tuple[dict[str, Tensor | None], str]:
        path, _, last = name.rpartition(".")
        owner = self.model.get_submodule(path)
        return (owner._buffers if last in owner._buffers else owner._parameters), last  # type: ignore[return-value]

    def _found(self, name: str) -> Tensor | None:
        try:
            place, last = self._place(name)
        except AttributeError:  # its module is gone
            return None
        return place.get(last)

    def _swap(self, tensors: Mapping[str, Tensor], before: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            place, last = self._place(name)
            old = place[last]
            assert old is not None
            before[name] = old
            if isinstance(old, nn.Parameter):
                if not isinstance(tensor, nn.Parameter):
                    tensor = nn.Parameter(tensor.to(old.device), requires_grad=old.requires_grad)
                place[last] = tensor
            else:
                place[last] = tensor.to(old.device)
        drop_cached_values(self.model)


def drop_cached_values(model: nn.Module) -> None:
    """Has modules forget what they computed from their weights in eval mode (timm's caches of attention biases)."""
    mode = model.training
    model.train(True)
    model.train(mode)


def attach(model: Model, tensors: Mapping[str, Tensor], source: str) -> Attached:
    """Puts a delta's tensors into a model built by the same config, in the place of what is there.

    Nothing is added to a weight or written into it: the old tensors are kept, so that detaching gives their very bits.

    Raises:
        UserError: the delta is of another model: a tensor the model has not, or has in another shape or type; or it
            lacks one that the backbone cannot give.
    """
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state:
            raise Refusal(f"{source}: holds {name}, which this model has not; it was made by another model.")
        if (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
            ours, theirs = (f"{list(t.shape)} in {str(t.dtype)[6:]}" for t in (state[name], tensor))
            raise Refusal(
                f"{source}: {name} has shape {theirs}, this model's has {ours}; it was made by another model."
            )
    start = model.start()
    if missing := [n for n in state if n not in tensors and n not in start]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Refusal(
            f"{source}: lacks {missing[0]}{more}, which a delta of this model must hold; it was made by another model, "
            f"or is not whole."
        )
    return Attached(model, tensors)
