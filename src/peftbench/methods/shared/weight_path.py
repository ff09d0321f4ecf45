"""Layers of an updated weight W + s·BA whose backward forms no gradient of the whole weight.

The gradients of A and B come from products with r columns. The updated weight is formed again in backward, so that only
the input, A and B are kept; where rows have lengths that train (DoRA), the output too.

Legend: x the input (B, …, I) or (B, I, H, W); low = A (r, I·kh·kw); high = B (O, r); weight = W (O, I) or
(O, I, kh, kw); origin = (A0, B0), what A and B began as where their change alone counts; lengths (O,) of the rows;
`of_…` the gradient of ….
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Origin = tuple[Tensor, Tensor]


def updated(weight: Tensor, low: Tensor, high: Tensor, scale: float, origin: Origin | None = None) -> Tensor:
    """W + s·BA in one product, in W's shape; it rounds once where W + (s·BA) rounds twice.

    With an origin W + s·(BA - B0 A0), which is W to the bit as long as A and B are what they started as.
    """
    if origin is not None:
        return weight + (scale * change(low, high, origin)).view(weight.shape)
    return torch.addmm(weight.flatten(1), high, low, alpha=scale).view(weight.shape)


def change(low: Tensor, high: Tensor, origin: Origin | None) -> Tensor:
    """BA, or BA - B0 A0: rows of B by columns of A."""
    return high @ low if origin is None else high @ low - origin[1] @ origin[0]


def gains(whole: Tensor, lengths: Tensor) -> Tensor:
    """What each row of a weight (O, …) is multiplied with to have the given length, (O,); 0 of a row of zeros.

    The length that a row has is a constant in backward (section 4.3 of DoRA's paper).
    """
    norms = torch.linalg.vector_norm(whole.detach().flatten(1), dim=1)
    return lengths / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def row_lengths(weight: Tensor) -> Tensor:
    """The Euclidean length of each row of a weight (O, …): (O,)."""
    return torch.linalg.vector_norm(weight.detach().flatten(1), dim=1)


def with_lengths(whole: Tensor, lengths: Tensor) -> Tensor:
    """A weight (O, …) whose rows have these lengths. It is `whole` to the bit where they are those that it has."""
    return gains(whole, lengths).view(-1, *[1] * (whole.ndim - 1)) * whole


class LinearOfUpdated(torch.autograd.Function):
    """y = x V'ᵀ + b with V' = W + s·BA, or with `lengths` m the rows V'_o = m_o V_o / |V_o| of V = W + s·BA (DoRA).

    Then y is kept for backward besides: the gradient of m_o is the sum over positions of of_y (y - b) / m.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        low: Tensor,
        high: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        scale: float,
        lengths: Tensor | None = None,
        origin: Origin | None = None,
    ) -> Tensor:
        x = _cast(x)
        ctx.weight, ctx.scale, ctx.origin, ctx.bias = weight, scale, origin, bias
        with torch.autocast(x.device.type, enabled=False):
            whole = updated(weight, low, high, scale, origin)
            if lengths is not None:
                whole = with_lengths(whole, lengths)
            y = F.linear(x, whole.to(x.dtype), None if bias is None else bias.to(x.dtype))
        ctx.save_for_backward(x, low, high, *(() if lengths is None else (lengths, y)))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, low, high, *more = ctx.saved_tensors
        of_x = of_low = of_high = of_bias = of_lengths = None
        gained: Any = None
        if more or ctx.needs_input_grad[0]:
            whole = updated(ctx.weight, low, high, ctx.scale, ctx.origin)
            if more:
                gained = gains(whole, more[0])[:, None]
                whole = gained * whole
            if ctx.needs_input_grad[0]:
                of_x = grad @ whole.to(grad.dtype)
        flat, rows = grad.flatten(0, -2), x.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            steep = high if gained is None else gained * high
            of_low = (ctx.scale * (flat @ steep.to(grad.dtype)).T @ rows).to(low.dtype)
            of_high = (ctx.scale * flat.T @ (rows @ low.T.to(x.dtype))).to(high.dtype)
            of_high = of_high if gained is None else gained * of_high
        if ctx.needs_input_grad[3]:
            of_bias = flat.sum(0)
        if more:
            lengths, y = more
            of_lengths = (flat * y.flatten(0, -2)).sum(0, dtype=lengths.dtype)
            if ctx.bias is not None:
                of_lengths -= ctx.bias * flat.sum(0, dtype=lengths.dtype)
            of_lengths = torch.where(lengths == 0, 0, of_lengths / lengths)
        return of_x, of_low, of_high, of_bias, None, None, of_lengths, None


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
