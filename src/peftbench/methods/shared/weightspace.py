"""A low-rank update of a layer's weight itself: W + s·BA for any linear layer or convolution.

torch's parametrize would do, but it renames the frozen weight, and with it the backbone's fingerprint and delta would
no longer go by the backbone's own names; so a tuned layer changes its class instead, and its `weight` is read anew.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Layer = nn.Linear | nn.Conv2d


def tune(layer: Layer, rank: int, scale: float, *, mask: Tensor | None = None, apart: bool = False) -> None:
    """Gives a layer an update of the given rank; it stays the same object, its tensors keep their names.

    W (O, I/g, kh, kw) is flattened to (O, I/g·kh·kw); `lora_a` (r, I/g·kh·kw) starts Kaiming-uniform and `lora_b`
    (O, r) at 0, so that the layer starts as it was. With `mask`, the update is masked as W is. `apart` computes a dense
    convolution's update as two convolutions, k x k to r channels and 1 x 1 from there.
    """
    weight: Any = layer.weight
    low = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
    nn.init.kaiming_uniform_(low, a=math.sqrt(5))
    layer.lora_a, layer.lora_b = low, nn.Parameter(weight.new_zeros(len(weight), rank))
    layer.lora_scale = scale  # type: ignore[assignment]
    layer.register_buffer("lora_mask", mask, persistent=False)
    kind: Any = type(layer)
    layer.__class__ = _tuned(kind, _forward(layer, mask, apart))


def tuned(layer: nn.Module) -> bool:
    """Whether a layer has an update."""
    return hasattr(type(layer), "untuned")


@torch.no_grad()
def merge(layer: nn.Module) -> None:
    """Makes the updated weight the layer's own and takes the update away; W is left as it was to who else holds it."""
    kind: Any = type(layer)
    weight = layer._parameters["weight"]
    assert weight is not None
    layer._parameters["weight"] = nn.Parameter(_weight(layer).detach(), requires_grad=weight.requires_grad)
    del layer._parameters["lora_a"], layer._parameters["lora_b"]
    del layer._buffers["lora_mask"], layer.__dict__["lora_scale"]
    layer.__class__ = kind.untuned


def _weight(self: Any) -> Tensor:
    frozen, mask = self._parameters["weight"], self.lora_mask
    if mask is None:
        flat = torch.addmm(frozen.flatten(1), self.lora_b, self.lora_a, alpha=self.lora_scale)
        return flat.view(frozen.shape)
    update = (self.lora_b @ self.lora_a).view(frozen.shape)
    return frozen + self.lora_scale * update * mask


@cache
def _tuned(base: Any, forward: Any) -> Any:
    members = {"weight": property(_weight), "untuned": base}
    return type(f"LowRank{base.__name__}", (base,), members | ({"forward": forward} if forward else {}))


def _forward(layer: Layer, mask: Tensor | None, apart: bool) -> Any:
    """A forward that does not need the whole weight's gradient; None where the layer's own must read its weight."""
    if mask is not None:  # the gradient of a masked update is not one of low rank
        return None
    if type(layer) is nn.Linear:
        return _linear_forward
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        if apart and type(layer).forward is nn.Conv2d.forward:
            return _apart_forward
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            return _conv_forward
    return None


def _linear_forward(self: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return F.linear(x, self.weight, self.bias)
    return _Linear.apply(x, self.lora_a, self.lora_b, self.bias, self._parameters["weight"], self.lora_scale)


def _conv_forward(self: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return self._conv_forward(x, self.weight, self.bias)
    return _Conv.apply(x, self.lora_a, self.lora_b, self.bias, self._parameters["weight"], self.lora_scale, self)


def _apart_forward(self: Any, x: Tensor) -> Tensor:
    frozen = self._parameters["weight"]
    low = self._conv_forward(x, self.lora_a.view(-1, *frozen.shape[1:]), None)
    update = F.conv2d(low, self.lora_scale * self.lora_b[..., None, None])
    return self._conv_forward(x, frozen, self.bias) + update


def _cast(x: Tensor) -> Tensor:
    """In the precision that autocast computes in, so that no wider copy is kept for backward."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _whole(weight: Tensor, low: Tensor, high: Tensor, scale: float, like: Tensor) -> Tensor:
    return torch.addmm(weight.flatten(1), high, low, alpha=scale).view(weight.shape).to(like.dtype)


class _Linear(torch.autograd.Function):
    """y = x (W + s·BA)ᵀ + b. The gradients of A and B come from products with r columns, never from W's gradient;
    the updated weight is formed again in backward, so that only x, A and B are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, high: Tensor, bias: Tensor | None, weight: Tensor, scale: float
    ) -> Tensor:
        x = _cast(x)
        ctx.save_for_backward(x, low, high)
        ctx.weight, ctx.scale = weight, scale
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, _whole(weight, low, high, scale, x), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, low, high = ctx.saved_tensors
        of_x = of_low = of_high = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ _whole(ctx.weight, low, high, ctx.scale, grad)
        flat, rows = grad.flatten(0, -2), x.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            of_low = (ctx.scale * (flat @ high.to(grad.dtype)).T @ rows).to(low.dtype)
            of_high = (ctx.scale * flat.T @ (rows @ low.T.to(x.dtype))).to(high.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = flat.sum(0)
        return of_x, of_low, of_high, of_bias, None, None


class _Conv(torch.autograd.Function):
    """The same for a dense convolution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, high: Tensor, bias: Tensor | None, weight: Tensor, scale: float, layer: Any
    ) -> Tensor:
        x = _cast(x)
        ctx.save_for_backward(x, low, high)
        ctx.weight, ctx.scale, ctx.layer = weight, scale, layer
        with torch.autocast(x.device.type, enabled=False):
            whole = _whole(weight, low, high, scale, x)
            return layer._conv_forward(x, whole, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, low, high = ctx.saved_tensors
        layer, scale = ctx.layer, ctx.scale
        of_x = of_low = of_high = of_bias = None

        def through(gradient: Tensor, weight: Tensor, *wanted: bool) -> Any:
            how = (layer.stride, layer.padding, layer.dilation, False, [0, 0], 1)
            return torch.ops.aten.convolution_backward(gradient, x, weight, None, *how, [*wanted, False])

        if ctx.needs_input_grad[0]:
            of_x = through(grad, _whole(ctx.weight, low, high, scale, grad), True, False)[0]
        if ctx.needs_input_grad[1]:
            kernel = low.view(-1, *ctx.weight.shape[1:]).to(x.dtype)
            narrow = layer._conv_forward(x, kernel, None).flatten(2)
            of_high = (scale * (grad.flatten(2) @ narrow.transpose(1, 2)).sum(0)).to(high.dtype)
            back = F.conv2d(grad, (scale * high.T).to(grad.dtype)[..., None, None])
            of_low = through(back, kernel, False, True)[1].flatten(1).to(low.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_low, of_high, of_bias, None, None, None
