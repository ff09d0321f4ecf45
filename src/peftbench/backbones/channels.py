"""Channels and heads inside a backbone's blocks that nothing outside sees: where they are, how they are taken out.

A layer's weight is (rows, columns, …): a row for each channel that it gives, a column for each that it takes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from peftbench.backbones.backbone import Backbone

_EXCITED = (("conv_reduce", "conv_expand"), ("fc1", "fc2"))  # timm's SqueezeExcite, SEModule
_NO_ELEMENTS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU, nn.PReLU)


@dataclass(frozen=True)
class Channels:
    """A group of `count` hidden channels: rows of the layer `first`, columns of the layer `last`.

    The modules `between` act on each channel by itself. All are named as in the net.
    """

    first: str
    between: tuple[str, ...]
    last: str
    count: int

    @property
    def modules(self) -> tuple[str, ...]:
        """All of them, in the order in which they compute."""
        return (self.first, *self.between, self.last)


@dataclass(frozen=True)
class Heads:
    """The heads of the attention `module`.

    To head h belong the rows `rows[h]` of its qkv, int64 (heads, 3 * channels of a head), and the columns `columns[h]`
    of its proj, int64 (heads, channels of a head).
    """

    module: str
    rows: Tensor
    columns: Tensor

    @property
    def count(self) -> int:
        """How many heads there are."""
        return len(self.rows)


def hidden_channels(backbone: Backbone) -> list[Channels]:
    """The hidden channels of MLPs, bottlenecks and the like, found by watching one forward pass.

    A convolution or linear layer begins such a group; what comes after it must act on every channel by itself
    (activation, dropout, batch-norm, depthwise convolution, squeeze-and-excitation), until a dense layer ends it, and
    nothing else may read what is in between, a tap neither. The backbone's first layer begins none.
    """
    net = backbone.net
    watch = _Watch(net, {t.module for t in backbone.facts.taps})
    parameter = next(net.parameters())
    with torch.no_grad(), watch.hooked(), watch:
        net.forward_features(torch.zeros(1, 3, *backbone.facts.canvas, device=parameter.device, dtype=parameter.dtype))
    groups = []
    for name in list(watch.outputs)[1:]:
        if group := _follow(net, name, watch):
            groups.append(group)
    return groups


def attention_heads(backbone: Backbone) -> list[Heads]:
    """The heads of the attentions whose packing is known: timm's (q, k and v as blocks) and EfficientFormer's."""
    attentions = []
    for name, module in backbone.net.named_modules():
        qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
        if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and "Attention" in type(module).__name__):
            continue
        count = module.num_heads
        rows = torch.arange(qkv.out_features)
        if hasattr(module, "key_attn_dim"):  # EfficientFormer: head after head
            rows = rows.view(count, -1)
        elif hasattr(module, "attn_dim") and getattr(module, "gate", None) is None and _does_nothing(module, "norm"):
            # (q, k, v; head; channel) -> (head; q, k, v; channel)
            rows = rows.view(3, count, -1).transpose(0, 1).flatten(1)
        else:
            continue
        attentions.append(Heads(name, rows, torch.arange(proj.in_features).view(count, -1)))
    return attentions


@torch.no_grad()
def shrink_backbone(backbone: Backbone, channels: Mapping[str, Tensor], heads_: Mapping[str, Tensor]) -> None:
    """Keeps the listed hidden channels and heads, and takes all others out of the backbone, in place.

    Args:
        backbone: its tensors get smaller.
        channels: first layer of a group, as `hidden_channels` gives it -> indices of the channels to keep.
        heads_: attention, as `attention_heads` gives it -> indices of the heads to keep.
    """
    groups, attentions = hidden_channels(backbone) if channels else [], attention_heads(backbone) if heads_ else []
    parts: list[tuple[Channels | Heads, Tensor]] = [(g, channels[g.first]) for g in groups if g.first in channels]
    parts += [(a, heads_[a.module]) for a in attentions if a.module in heads_]
    shrink_parts(backbone.net, parts)


@torch.no_grad()
def shrink_parts(net: nn.Module, parts: Iterable[tuple[Channels | Heads, Tensor]]) -> None:
    """As `shrink_backbone`, of parts that are known, in a net: each with the indices to keep."""
    for part, keep in parts:
        if isinstance(part, Heads):
            _shrink_attention(net.get_submodule(part.module), part, keep)
        else:
            _shrink_group([net.get_submodule(name) for name in part.modules], keep)


def _shrink_group(modules: Sequence[nn.Module], keep: Tensor) -> None:
    first, *between, last = modules
    _rows(first, keep)
    for module in between:
        _between(module, keep)
    _columns(last, keep)


def _shrink_attention(module: Any, attention: Heads, keep: Tensor) -> None:
    _rows(module.qkv, _packed(module, attention.rows[keep]))
    _columns(module.proj, attention.columns[keep].flatten())
    module.num_heads = len(keep)
    if hasattr(module, "key_attn_dim"):
        module.key_attn_dim, module.val_attn_dim = module.key_dim * len(keep), module.val_dim * len(keep)
        module.attention_biases = _kept(module.attention_biases, keep)
        module.attention_bias_cache = {}
    else:
        module.attn_dim = module.head_dim * len(keep)


def part_alone(net: nn.Module, part: Channels | Heads, count: int) -> nn.Module:
    """A copy of the layers that a group of channels, or an attention, is made of, with the first `count` of them left.

    It takes what the first of these layers takes, and gives what the last gives.
    """
    keep = torch.arange(count)
    if isinstance(part, Heads):
        module = copy.deepcopy(net.get_submodule(part.module))
        with torch.no_grad():
            _shrink_attention(module, part, keep)
        return module
    modules = [copy.deepcopy(net.get_submodule(name)) for name in part.modules]
    with torch.no_grad():
        _shrink_group(modules, keep)
    return nn.Sequential(*modules)


def owned_parameters(net: nn.Module, group: Channels) -> Iterator[tuple[nn.Parameter, int]]:
    """The parameters that a group of channels owns a part of, with the dimension that the channels lie along."""
    first, last = net.get_submodule(group.first), net.get_submodule(group.last)
    for module in (first, *(net.get_submodule(n) for n in group.between)):
        if not _excitation(module):
            yield from ((p, 0) for p in module.parameters(recurse=False))
    yield last._parameters["weight"], 1  # type: ignore[misc]


def _does_nothing(module: nn.Module, name: str) -> bool:
    """Whether the module's part of this name is the identity, or is not there."""
    return isinstance(getattr(module, name, None), nn.Identity | type(None))


def _packed(module: Any, rows: Tensor) -> Tensor:
    """Rows of the kept heads (heads, …), in the order that the attention expects: (rows,)."""
    if hasattr(module, "key_attn_dim"):
        return rows.flatten()
    return rows.view(len(rows), 3, -1).transpose(0, 1).flatten()


@dataclass
class _Reading:
    """One use of a tensor: by a leaf module, which makes `output` of it, or by anything else (no name)."""

    name: str = ""
    output: Tensor | None = None


class _Watch(TorchFunctionMode):
    """Notes what each layer makes, and who reads each tensor, while a net computes.

    Attributes:
        outputs: layer -> its output, in the order in which they computed.
        readers: id of a tensor -> the uses of it.
        calls: layer -> how often it computed.
    """

    def __init__(self, net: nn.Module, tapped: set[str]) -> None:
        super().__init__()
        self.net, self.tapped = net, tapped
        self.outputs: dict[str, Tensor] = {}
        self.kept: list[Tensor] = []  # alive, so that no id is used twice
        self.readers: dict[int, list[_Reading]] = {}
        self.calls: dict[str, int] = {}
        self._inside: list[_Reading] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._inside and _tensors(result):
            for tensor in _tensors([args, kwargs]):
                self.readers.setdefault(id(tensor), []).append(_Reading())
        return result

    @contextmanager
    def hooked(self) -> Iterator[None]:
        def enter(name: str) -> Any:
            def hook(module: nn.Module, args: Any) -> None:
                reading = _Reading(name)
                if not self._inside:
                    for tensor in _tensors(args):
                        self.readers.setdefault(id(tensor), []).append(reading)
                self._inside.append(reading)

            return hook

        def leave(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                reading = self._inside.pop()
                if not self._inside and isinstance(output, Tensor):
                    if not any(output is t for t in _tensors(args)):
                        self.readers[id(output)] = []  # what is noted is of a tensor that is gone, and had this id
                    reading.output = output
                    self.outputs[name] = output
                    self.kept.append(output)
                    self.calls[name] = self.calls.get(name, 0) + 1

            return hook

        def tap(module: nn.Module, args: Any, output: Any) -> None:
            for tensor in _tensors(output):
                self.readers.setdefault(id(tensor), []).append(_Reading())

        handles: list[Any] = []
        for name, module in self.net.named_modules():
            if _dense(module) or _apart(module):
                handles.append(module.register_forward_pre_hook(enter(name)))
                handles.append(module.register_forward_hook(leave(name)))
            if name in self.tapped:
                handles.append(module.register_forward_hook(tap))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _follow(net: nn.Module, first: str, watch: _Watch) -> Channels | None:
    """The group that the layer `first` begins, where it begins one."""
    layer: Any = net.get_submodule(first)
    if not _dense(layer) or watch.calls[first] != 1 or _standardised(layer):
        return None
    if getattr(layer, "groups", 1) > 1:  # its place decides which inputs a channel reads
        return None
    count, tensor = layer.weight.shape[0], watch.outputs[first]
    between: list[str] = []
    readers = list(watch.readers[id(tensor)])
    while readers:
        reading = readers.pop(0)
        if not reading.name or reading.output is None:
            return None
        module: Any = net.get_submodule(reading.name)
        if watch.calls[reading.name] != 1 and any(True for _ in module.parameters()):
            return None
        if _dense(module):
            ends = module.weight.shape[1] == count and not readers and not _standardised(module)
            return Channels(first, tuple(between), reading.name, count) if ends else None
        between.append(reading.name)
        if reading.output is not tensor:
            if readers:  # somebody else reads what this module does
                return None
            tensor = reading.output
            readers = list(watch.readers[id(tensor)])
    return None


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


def _dense(module: nn.Module) -> bool:
    """A layer that mixes channels."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not _depthwise(module))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def _standardised(module: nn.Module) -> bool:
    return "StdConv" in type(module).__name__


def _apart(module: nn.Module) -> bool:
    """A module that acts on every channel by itself, or scales each by a gate."""
    if isinstance(module, _BatchNorm | nn.Identity | nn.Dropout) or _depthwise(module) or _excitation(module):
        return True
    where = type(module).__module__
    activation = where in ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
    return activation and not isinstance(module, _NO_ELEMENTS)


def _excitation(module: nn.Module) -> tuple[str, str] | None:
    """The two convolutions of a squeeze-and-excitation, by name; None of other modules."""
    if type(module).__name__ not in ("SqueezeExcite", "SEModule") or not _does_nothing(module, "bn"):
        return None
    return next((pair for pair in _EXCITED if all(isinstance(getattr(module, n, None), nn.Conv2d) for n in pair)), None)


def _kept(parameter: nn.Parameter, keep: Tensor, dim: int = 0) -> nn.Parameter:
    chosen = parameter.detach().index_select(dim, keep.to(parameter.device))
    return nn.Parameter(chosen.contiguous(), requires_grad=parameter.requires_grad)


def _rows(module: Any, keep: Tensor) -> None:
    module.weight = _kept(module.weight, keep)
    if module.bias is not None:
        module.bias = _kept(module.bias, keep)
    setattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels", len(keep))


def _columns(module: Any, keep: Tensor) -> None:
    module.weight = _kept(module.weight, keep, 1)
    setattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", len(keep))


def _between(module: Any, keep: Tensor) -> None:
    if pair := _excitation(module):
        _columns(getattr(module, pair[0]), keep)
        _rows(getattr(module, pair[1]), keep)
    elif isinstance(module, _BatchNorm):
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, _kept(parameter, keep))
        for name in ("running_mean", "running_var"):
            if (buffer := getattr(module, name)) is not None:
                setattr(module, name, buffer.index_select(0, keep.to(buffer.device)))
        module.num_features = len(keep)
    elif _depthwise(module):
        _rows(module, keep)
        module.in_channels = module.groups = len(keep)
