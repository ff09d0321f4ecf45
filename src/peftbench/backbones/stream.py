"""Frozen backbones larger than memory: each block's weights are read from the file while it computes, then dropped."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from peftbench.backbones.backbone import Backbone
from peftbench.backbones.facts import WHOLE, Facts, Size
from peftbench.backbones.weightless import INSTEAD, Absent, tensors_in
from peftbench.common.digests import digests
from peftbench.common.errors import Refusal, UserError

BOUND = 128 * 2**20
"""Bytes from which on a module is read in parts."""
LEAST = 4 * 2**20
"""Bytes below which a module outside the tapped ones stays in memory."""
ALIGNED = 64
"""Every parameter begins at a multiple of so many bytes, as in memory that torch allocates itself. At other places
kernels may round otherwise."""


@dataclass(frozen=True)
class File:
    """A safetensors file that must stay what it was when it was first read."""

    path: Path
    stamp: tuple[int, int, int]

    @staticmethod
    def at(path: Path) -> File:
        """The file as it is now."""
        return File(path, _stamp(path))

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The opened file, whose mapped memory is given back at the end.

        Raises:
            UserError: it has changed since it was first read, or cannot be read any more.
        """
        try:
            if _stamp(self.path) != self.stamp:
                raise UserError(f"{self.path}: was changed while its weights were being read; start the run again.")
            with safe_open(self.path, framework="pt") as file:
                yield file
        except (OSError, SafetensorError) as problem:
            raise UserError(f"{self.path}: can no longer be read ({problem}); the backbone streams from it.") from None


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Slot:
    """One place in a module where a parameter goes: its name in the net and in the file, and its form.

    `form` is a plain tensor on the meta device: to ask `absent` for a shape costs a call of `__torch_function__`.
    """

    name: str
    key: str
    owner: nn.Module
    leaf: str
    absent: nn.Parameter
    form: Tensor


class Blocks:
    """The blocks of a weightless net, each with its weights while it computes.

    Args:
        net: made within `Weightless`; what is outside its blocks becomes real here.
        facts: what is known of the net, learned on the meta device.
        file: where the weights are.
        sources: parameter name -> its name in `file`, or the tensor that timm made from what is there.

    Attributes:
        like: an empty tensor, of the device and type that weights are read to.
        slots: block name -> the places of its parameters.

    Raises:
        Refusal: the weights are not in the file as the model takes them.
    """

    def __init__(self, net: nn.Module, facts: Facts, file: File, sources: Mapping[str, str | Tensor]) -> None:
        self.like = torch.empty(0)
        self.slots: dict[str, list[Slot]] = {}
        self._file = file
        computed = [n for n, source in sources.items() if isinstance(source, Tensor)]
        if sum(net.get_parameter(n).nbytes for n in computed) > BOUND:
            raise Refusal(
                f"backbone.stream=true: {file.path} does not hold {computed[0]} (and {len(computed) - 1} more) as the "
                f"model takes it, so it cannot be read block by block; save the state dict of the model built with "
                f"backbone.stream=false and give that as backbone.weights."
            )
        owners = _owners(net, modules_to_stream(net, facts))
        replaced: dict[int, nn.Parameter] = {}  # id of a parameter of the net -> what takes its place
        with file.open() as opened:
            for name, parameter in list(net.named_parameters(remove_duplicate=False)):
                path, _, leaf = name.rpartition(".")
                owner, source = net.get_submodule(path), sources[name]
                block = owners.get(id(parameter)) if isinstance(source, str) else None
                if id(parameter) not in replaced:
                    values = opened.get_tensor(source) if isinstance(source, str) else source
                    replaced[id(parameter)] = Absent.of(parameter, name) if block else _real(parameter, values)
                owner._parameters[leaf] = replaced[id(parameter)]
                if block:
                    slot = Slot(name, str(source), owner, leaf, replaced[id(parameter)], parameter.detach())
                    self.slots.setdefault(block, []).append(slot)
        for block, slots in self.slots.items():
            module = net.get_submodule(block)
            module.register_forward_pre_hook(lambda *_, slots=slots: self._load(slots))
            module.register_forward_hook(lambda *_, slots=slots: _drop(slots), always_call=True)

    def digests(self) -> dict[str, str]:
        """Name in the net -> sha256 of the bytes, of every parameter that is in a block; read block by block."""
        hashes: dict[str, str] = {}
        for slots in self.slots.values():
            self._load(slots)
            hashes |= digests({s.name: s.owner.get_parameter(s.leaf) for s in slots})
            _drop(slots)
        return hashes

    @torch.no_grad()
    def _load(self, slots: Sequence[Slot]) -> None:
        """Reads the parameters of a block into one piece of memory, each from a multiple of `ALIGNED` bytes on."""
        distinct = {id(s.absent): s for s in slots}.values()  # a shared parameter has several slots
        dtypes = [self.like.dtype if s.form.is_floating_point() else s.form.dtype for s in distinct]
        sizes = [s.form.numel() * dtype.itemsize for s, dtype in zip(distinct, dtypes, strict=True)]
        padded_sizes = [math.ceil(size / ALIGNED) * ALIGNED for size in sizes]
        begins = [0, *accumulate(padded_sizes)]
        room = _room(begins.pop(), self.like.device)
        loaded = {}
        with self._file.open() as file:
            for slot, dtype, size, begin in zip(distinct, dtypes, sizes, begins, strict=True):
                part = room[begin : begin + size].view(dtype)
                values = part.as_strided(slot.form.shape, slot.form.stride(), part.storage_offset())
                values.copy_(file.get_tensor(slot.key))
                loaded[id(slot.absent)] = nn.Parameter(values, requires_grad=False)
        for slot in slots:
            slot.owner._parameters[slot.leaf] = loaded[id(slot.absent)]


def _owners(net: nn.Module, blocks: Sequence[str]) -> dict[int, str]:
    """id of a parameter -> the one block that it is in; those that several blocks share are left out."""
    blocks_of: dict[int, set[str]] = {}
    for block in blocks:
        for parameter in net.get_submodule(block).parameters():
            blocks_of.setdefault(id(parameter), set()).add(block)
    return {key: next(iter(names)) for key, names in blocks_of.items() if len(names) == 1}


def _real(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="cpu").copy_(values), requires_grad=False)


def _drop(slots: Sequence[Slot]) -> None:
    for slot in slots:
        slot.owner._parameters[slot.leaf] = slot.absent


def _room(size: int, device: torch.device) -> Tensor:
    """Memory for one block, uint8 (size,).

    On a CPU it is mapped for this block alone, because malloc would keep what is freed, in pieces.
    """
    if device.type != "cpu":
        return torch.empty(size, dtype=torch.uint8, device=device)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return torch.frombuffer(mmap.mmap(-1, size, **private), dtype=torch.uint8)


def modules_to_stream(net: nn.Module, facts: Facts) -> list[str]:
    """The modules to read one at a time: the tapped ones, large ones beside them, and parts of what exceeds `BOUND`.

    Only a module whose forward is called can be one, and not one that keeps a tap, or a part of the tail, inside.
    """
    taps = [t.module for t in facts.taps if t.module != WHOLE]
    chosen: list[str] = []
    called = facts.called - facts.pools  # gradients of side nets flow through what pools: its weights stay

    def visit(name: str) -> None:
        size, parts = _size(net, name), _parts(net, name, called)
        if name in facts.tail:
            return
        if not any(inner.startswith(f"{name}.") for inner in (*taps, *facts.tail)):
            tapped = any(name == t or name.startswith(f"{t}.") for t in taps)
            if not tapped and size < LEAST:
                return
            loose = size - sum(_size(net, part) for part in parts)
            if size <= BOUND or loose > size / 8:
                chosen.append(name)
                return
        for part in parts:
            visit(part)

    for name in _parts(net, "", called):
        visit(name)
    return chosen


def _parts(net: nn.Module, name: str, called: frozenset[str]) -> list[str]:
    """The nearest modules inside `name` that have parameters and whose forward is called."""
    parts = []
    for child, module in net.get_submodule(name).named_children():
        path = f"{name}.{child}" if name else child
        if path in called:
            if next(module.parameters(), None) is not None:
                parts.append(path)
        else:
            parts += _parts(net, path, called)
    return parts


def _size(net: nn.Module, name: str) -> int:
    return sum(p.nbytes for p in net.get_submodule(name).parameters())


class Streamed(Backbone):
    """A frozen backbone whose blocks are read from a file each time they compute; `facts` and `start` are the same.

    Raises:
        Refusal: a parameter is read outside its block, or kept elsewhere too (recurrent nets do so).
    """

    streamed: ClassVar[bool] = True

    def __init__(self, net: nn.Module, name: str, family: str | None, input_size: Size, blocks: Blocks) -> None:
        _require_real(net)
        start = digests({n: t for n, t in net.state_dict().items() if not t.is_meta}) | blocks.digests()
        super().__init__(net, name, family, input_size, {f"net.{n}": d for n, d in start.items()})
        self.blocks = blocks
        self.register_state_dict_post_hook(_leave_out)

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.named_parameters(remove_duplicate=False)) | self.state_dict()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.blocks.like = fn(self.blocks.like)
        return super()._apply(lambda t: t if t.is_meta else fn(t), recurse)


def _leave_out(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name in [n for n, t in state.items() if n.startswith(prefix) and t.is_meta]:
        del state[name]


def _require_real(net: nn.Module) -> None:
    """Raises Refusal where a tensor besides the parameters is not real: it is, or was made from, a weight."""
    parameters = {id(p) for p in net.parameters()}
    for name, module in net.named_modules():
        for tensor in tensors_in(vars(module)):
            if tensor.is_meta and id(tensor) not in parameters:
                raise Refusal(
                    f"backbone.stream=true: {name or 'the model'} keeps weights, or what was computed from them, where "
                    f"they cannot be dropped, so this model cannot be streamed; {INSTEAD}."
                )
