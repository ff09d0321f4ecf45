"""Layers of an updated weight W + s·BA whose backward forms no gradient of the whole weight.

The gradients of A and B come from products with r columns. The updated weight is formed again in backward, so that only
the input, A and B are kept.

Legend: x the input (B, …, I) or (B, I, H, W); low = A (r, I·kh·kw); high = B (O, r); weight = W (O, I) or
(O, I, kh, kw); `of_…` the gradient of ….
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def updated(weight: Tensor, low: Tensor, high: Tensor, scale: float) -> Tensor:
    """W + s·BA in one product, in W's shape; it rounds once where W + (s·BA) rounds twice."""
    return torch.addmm(weight.flatten(1), high, low, alpha=scale).view(weight.shape)


class LinearOfUpdated(torch.autograd.Function):
    """y = x (W + s·BA)ᵀ + b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, high: Tensor, bias: Tensor | None, weight: Tensor, scale: float
    ) -> Tensor:
        x = _cast(x)
        ctx.save_for_backward(x, low, high)
        ctx.weight, ctx.scale = weight, scale
        with torch.autocast(x.device.type, enabled=False):
            whole = updated(weight, low, high, scale).to(x.dtype)
            return F.linear(x, whole, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, low, high = ctx.saved_tensors
        of_x = of_low = of_high = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ updated(ctx.weight, low, high, ctx.scale).to(grad.dtype)
        flat, rows = grad.flatten(0, -2), x.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            of_low = (ctx.scale * (flat @ high.to(grad.dtype)).T @ rows).to(low.dtype)
            of_high = (ctx.scale * flat.T @ (rows @ low.T.to(x.dtype))).to(high.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = flat.sum(0)
        return of_x, of_low, of_high, of_bias, None, None


class ConvOfUpdated(torch.autograd.Function):
    """The same for a dense convolution, `layer`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, high: Tensor, bias: Tensor | None, weight: Tensor, scale: float, layer: Any
    ) -> Tensor:
        x = _cast(x)
        ctx.save_for_backward(x, low, high)
        ctx.weight, ctx.scale, ctx.layer = weight, scale, layer
        with torch.autocast(x.device.type, enabled=False):
            whole = updated(weight, low, high, scale).to(x.dtype)
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
            of_x = through(grad, updated(ctx.weight, low, high, scale).to(grad.dtype), True, False)[0]
        if ctx.needs_input_grad[1]:
            kernel = low.view(-1, *ctx.weight.shape[1:]).to(x.dtype)
            narrow = layer._conv_forward(x, kernel, None).flatten(2)
            of_high = (scale * (grad.flatten(2) @ narrow.transpose(1, 2)).sum(0)).to(high.dtype)
            back = F.conv2d(grad, (scale * high.T).to(grad.dtype)[..., None, None])
            of_low = through(back, kernel, False, True)[1].flatten(1).to(low.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_low, of_high, of_bias, None, None, None


def _cast(x: Tensor) -> Tensor:
    """In the precision that autocast computes in, so that no wider copy is kept for backward."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
