"""Frozen weights in few bits: codes are kept, and the weight is made of them where a layer computes with it.

A layer has its codes through torch's parametrize: they are parameters of the layer that never train, under names of
their own (`<layer>.parametrizations.weight.original0`, …), plain tensors that are hashed, moved and counted like any.
Backward makes the weight again, so that autograd keeps the codes alone.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

LEVELS = 127
"""Of an int8 code, on each side of zero."""


class Coder(nn.Module):
    """Between a weight and its codes; torch's parametrize calls `right_inverse` once and `forward` at each use.

    Attributes:
        shape, dtype: of the weight.
    """

    shape: torch.Size
    dtype: torch.dtype

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The codes of a weight, and what they are scaled with."""
        self.shape, self.dtype = weight.shape, weight.dtype
        if not weight.is_meta:
            return self.encode(weight.detach())
        stand_in = torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).view(weight.shape)
        return tuple(part.to("meta") for part in self.encode(stand_in))

    def forward(self, *codes: Tensor) -> Tensor:
        """The weight, which is not made before it is computed with."""
        return CodedWeight(self, codes)

    @abstractmethod
    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The codes of a weight that has values."""

    @abstractmethod
    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """The weight of these codes."""

    def linear(self, x: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """x Wᵀ for x (…, I)."""
        return F.linear(x, self.decode(codes).to(x.dtype))


class PerChannel(Coder):
    """int8, with one scale for each output channel: its largest weight becomes 127. Any shape."""

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        scale = (largest / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        return (weight / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        return codes[0] * codes[1]


class OfTorchao(Coder):
    """The tensors inside one of torchao's, of a linear layer's weight (O, I); torchao makes it and computes with it.

    Args:
        make: from a weight to torchao's tensor.
    """

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.kind: Any = None
        self.names: tuple[str, ...] = ()
        self.about: dict[str, Any] = {}

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        made = self.make(weight)
        names, self.about = made.__tensor_flatten__()
        self.kind, self.names = type(made), tuple(names)
        return tuple(getattr(made, name).clone(memory_format=torch.contiguous_format) for name in names)

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        whole = self._whole(codes)
        return whole.get_original_weight() if hasattr(whole, "get_original_weight") else whole.dequantize()

    def linear(self, x: Tensor, codes: Sequence[Tensor]) -> Tensor:
        whole = self._whole(codes)
        if hasattr(whole, "get_original_weight"):  # NF4, whose layers compute with the weight as it was
            return F.linear(x, whole.get_original_weight().to(x.dtype))
        return F.linear(x, whole)

    def _whole(self, codes: Sequence[Tensor]) -> Any:
        about, codes = dict(self.about), [code.detach() for code in codes]
        if "tensor_meta" in about:  # NF4's, which names the device that it was made on
            about["tensor_meta"] = dataclasses.replace(about["tensor_meta"], device=codes[0].device)
        inner = dict(zip(self.names, codes, strict=True))
        strides = torch.empty(self.shape, device="meta").stride()
        return self.kind.__tensor_unflatten__(inner, about, self.shape, strides)


class CodedWeight(Tensor):
    """A weight that is made of its codes where it is computed with, and kept nowhere.

    Linear layers and convolutions compute with it so that backward makes it again; anything else takes it as the plain
    tensor that it stands for.
    """

    coder: Coder
    codes: tuple[Tensor, ...]

    @staticmethod
    def __new__(cls: Any, coder: Coder, codes: Sequence[Tensor]) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, coder.shape, dtype=coder.dtype, device=codes[0].device)
        made.coder, made.codes = coder, tuple(codes)
        return made

    def decoded(self) -> Tensor:
        """The plain tensor."""
        return self.coder.decode(self.codes)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (computes := _COMPUTES.get(func)) is not None and (answer := computes(*args, **kwargs)) is not None:
            return answer
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        plain = pytree.tree_map_only(CodedWeight, CodedWeight.decoded, (args, kwargs or {}))
        return func(*plain[0], **plain[1])


class _Product(torch.autograd.Function):
    """x times a weight in codes, of a linear layer, or of a convolution with `how` = stride, padding, dilation, groups.

    For backward the codes are kept, not the weight, and of x its shape.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, coder: Coder, how: tuple[Any, ...] | None, *codes: Tensor) -> Tensor:
        ctx.save_for_backward(*codes)
        ctx.coder, ctx.how, ctx.shape, ctx.dtype = coder, how, x.shape, x.dtype
        if how is None:
            return coder.linear(x, codes)
        return F.conv2d(x, coder.decode(codes).to(x.dtype), None, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        codes = ctx.saved_tensors
        weight = ctx.coder.decode(codes).to(grad.dtype)
        of_x = grad @ weight if ctx.how is None else conv2d_input(ctx.shape, weight, grad, *ctx.how)
        return of_x.to(ctx.dtype), None, None, *[None] * len(codes)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not isinstance(weight, CodedWeight):
        return None
    y = _Product.apply(_cast(x), weight.coder, None, *weight.codes)
    return y if bias is None else y + bias.to(y.dtype)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if not isinstance(weight, CodedWeight) or isinstance(padding, str):
        return None
    y = _Product.apply(_cast(x), weight.coder, (stride, padding, dilation, groups), *weight.codes)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


_COMPUTES: dict[Any, Callable[..., Tensor | None]] = {F.linear: _linear, F.conv2d: _conv2d}


def _cast(x: Tensor) -> Tensor:
    """In the precision that autocast computes in."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def encode_weight(layer: nn.Module, coder: Coder) -> None:
    """The layer keeps the codes of its weight, which no longer trains, in the place of the weight."""
    cast(nn.Parameter, layer._parameters["weight"]).requires_grad = False
    parametrize.register_parametrization(layer, "weight", coder, unsafe=True)


def decode_weight(layer: nn.Module) -> None:
    """The layer has a plain weight again, that of its codes."""
    coded = own_weight(layer)
    assert isinstance(coded, CodedWeight)
    plain = nn.Parameter(coded.decoded().detach(), requires_grad=False)
    parametrize.remove_parametrizations(layer, "weight")
    del layer._buffers["weight"]
    layer.weight = plain


def own_weight(layer: nn.Module) -> Tensor:
    """The layer's own weight, also where a method makes it read as another: a parameter, or what codes stand for."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return layer.parametrizations["weight"]()  # type: ignore[index, operator]
    return weight


def coded_layers(net: nn.Module) -> Iterator[tuple[str, nn.Module, Coder, tuple[Tensor, ...]]]:
    """Name, layer, coder and codes of every layer whose weight is in codes."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and parametrize.is_parametrized(layer, "weight"):
            held: Any = layer.parametrizations["weight"]  # type: ignore[index]
            if isinstance(held[0], Coder):
                yield name, layer, held[0], tuple(held.parameters())


def plain_parameters(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The named parameters of a net, with weights in codes as the tensors, on the meta device, that they are."""
    coded = {name: coder for name, _, coder, _ in coded_layers(net)}
    for name, coder in coded.items():
        yield f"{name}.weight", torch.empty(coder.shape, dtype=coder.dtype, device="meta")
    for name, parameter in net.named_parameters():
        if name.partition(".parametrizations.weight.")[0] not in coded or ".parametrizations." not in name:
            yield name, parameter


def bytes_of(codes: Sequence[Tensor]) -> int:
    """All of them, scales counted."""
    return sum(math.prod(code.shape) * code.element_size() for code in codes)
