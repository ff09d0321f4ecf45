"""What SPT trains beside a frozen weight: single entries and adapters; how a layer uses these and a low-rank update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftbench.common.errors import Refusal
from peftbench.methods.base import Branch
from peftbench.methods.shared.branches import Gain, PartOf
from peftbench.methods.shared.folding import Folded, layer_class, refuse_taken_names
from peftbench.methods.shared.low_rank_update import LowRankUpdate, drop_path
from peftbench.methods.shared.tracing import is_traced

MOST = 0.8
"""Where at least this share of a matrix's rows (or columns) have entries, all of them are computed with."""


class Sparse(nn.Module):
    """Trainable differences of a few entries of a frozen tensor.

    `values` (n,) starts at 0; `indices` (n,) says where, in the flattened tensor. Nothing else is kept: the frozen
    tensor is patched in place while a layer computes with it, and put back, so that no copy of it outlives the layer.
    """

    indices: Tensor

    def __init__(self, indices: Tensor, like: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(like.new_zeros(len(indices)))
        self.register_buffer("indices", indices.to(like.device, torch.int32))
        self._layout: tuple[Any, Tensor | None, Tensor | None, Tensor] | None = None

    def added(self, frozen: Tensor) -> Tensor:
        """The whole tensor with the differences, for whoever reads it."""
        values = self.values.to(frozen.dtype)
        return frozen.flatten().index_add(0, self.indices.long(), values).view(frozen.shape)

    @contextmanager
    def patched(self, frozen: Tensor, values: Tensor) -> Iterator[None]:
        """Within it `frozen` holds the differences."""
        flat, places = frozen.data.view(-1), self.indices.long()
        kept = flat[places]
        try:
            flat[places] = kept + values.to(flat.dtype)
            yield
        finally:
            flat[places] = kept

    def layout(self, shape: torch.Size) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """(rows, columns, places): the block of a matrix that has entries, and where in it each entry is.

        None stands for all rows, or columns, where most have some.
        """
        key = (self.indices.data_ptr(), self.indices._version, self.indices.device)
        if self._layout is None or self._layout[0] != key:
            rows, row_of_entry = _block(self.indices // shape[1], shape[0])
            columns, column_of_entry = _block(self.indices % shape[1], shape[1])
            width = shape[1] if columns is None else len(columns)
            self._layout = (key, rows, columns, row_of_entry * width + column_of_entry)
        return self._layout[1:]


def _block(at: Tensor, size: int) -> tuple[Tensor | None, Tensor]:
    """The rows (or columns), of `size`, that have entries, None where most have; and each entry's place in them."""
    used, place = torch.unique(at, return_inverse=True)
    if len(used) < MOST * size:
        return used.long(), place
    return None, at.long()


class _Linear(torch.autograd.Function):
    """y = x (W + Δ)ᵀ + b with a frozen W. Kept for backward are x and the values; the gradient of the values is taken
    from the block of rows and columns that have any.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, weight: Tensor, sparse: Sparse) -> Tensor:
        with sparse.patched(weight, values):
            y = F.linear(x, weight, bias)
        ctx.save_for_backward(x, values)
        ctx.weight, ctx.sparse = weight, sparse
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, values = ctx.saved_tensors
        weight, sparse = ctx.weight, ctx.sparse
        of_x = of_values = of_bias = None
        if ctx.needs_input_grad[0]:
            with sparse.patched(weight, values):
                of_x = (grad @ weight.to(grad.dtype)).to(x.dtype)
        flat, x = grad.flatten(0, -2), x.flatten(0, -2).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            rows, columns, places = sparse.layout(weight.shape)
            left = flat if rows is None else flat.index_select(1, rows)
            right = x if columns is None else x.index_select(1, columns)
            of_values = (left.T @ right).view(-1)[places].to(values.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = flat.sum(0)
        return of_x, of_values, of_bias, None, None


class _Conv(torch.autograd.Function):
    """The same for a convolution; its weight's gradient exists whole, while this layer is differentiated."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, weight: Tensor, sparse: Sparse, layer: nn.Conv2d
    ) -> Tensor:
        with sparse.patched(weight, values):
            y = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        ctx.save_for_backward(x, values)
        ctx.weight, ctx.sparse, ctx.layer = weight, sparse, layer
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, values = ctx.saved_tensors
        weight, sparse, layer = ctx.weight, ctx.sparse, ctx.layer
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        with sparse.patched(weight, values):
            of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
                grad,
                x.to(grad.dtype),
                weight.to(grad.dtype),
                [weight.shape[0]] if wanted[2] else None,
                layer.stride,
                layer.padding,
                layer.dilation,
                False,
                [0, 0],
                layer.groups,
                wanted,
            )
        of_values = of_weight.flatten()[sparse.indices.long()].to(values.dtype) if wanted[1] else None
        return of_x.to(x.dtype) if wanted[0] else None, of_values, of_bias, None, None, None


class Adapter(nn.Module):
    """A bottleneck after the layer: y + Up(GELU(Down(drop(y)))), with biases, for some blocks of y's features.

    down (m, r, O / of) Kaiming-uniform; up (m, O / of, r) and all biases start at 0. For `proj` the official code
    takes the layer's input instead of its output; here it is the output everywhere, as in the paper.
    """

    def __init__(self, weight: Tensor, rank: int, blocks: Sequence[int], of: int, dropout: float, drop_path: float):
        super().__init__()
        self.blocks, self.of, self.dropout, self.drop_path = tuple(blocks), of, dropout, drop_path
        width, m = weight.shape[0] // of, len(self.blocks)
        self.down = nn.Parameter(weight.new_empty(m, rank, width))
        self.up = nn.Parameter(weight.new_zeros(m, width, rank))
        # Vectors, so that they are not decayed.
        self.down_bias = nn.Parameter(weight.new_zeros(m * rank))
        self.up_bias = nn.Parameter(weight.new_zeros(m * width))
        for part in self.down.data:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))

    def linear(self, y: Tensor, gain: Gain) -> Tensor:
        """y (B, …, O), and the gain of what is added, block by block."""
        if self.of == 1:
            return y + gain(self._kept(self._block(y, 0)))
        parts = list(y.chunk(self.of, -1))
        for i, block in enumerate(self.blocks):
            parts[block] = parts[block] + gain(self._kept(self._block(parts[block], i)))
        return torch.cat(parts, -1)

    def conv(self, y: Tensor, gain: Gain) -> Tensor:
        """y (B, O, H, W), and the gain of what is added."""
        return y + gain(self._kept(self._block(y.movedim(1, 3), 0).movedim(3, 1)))

    def _block(self, y: Tensor, i: int) -> Tensor:
        down, up = self.down_bias.chunk(len(self.blocks))[i], self.up_bias.chunk(len(self.blocks))[i]
        dropped = F.dropout(y, self.dropout, self.training)
        return F.linear(F.gelu(F.linear(dropped, self.down[i], down)), self.up[i], up)

    def _kept(self, branch: Tensor) -> Tensor:
        return drop_path(branch, self.drop_path, self.training)


def _as_it_is(added: Tensor) -> Tensor:
    return added


def linear_forward(self: Any, x: Tensor, gain: Gain = _as_it_is) -> Tensor:
    """`forward` of a tuned nn.Linear; `gain` is of what its low-rank update or adapter adds, not of single entries."""
    sparse, lora, adapter = (self._modules.get(n) for n in ("sparse_weight", "lora", "adapter"))
    frozen = self._parameters["weight"]
    if sparse is not None and is_traced():  # what is traced for export can patch nothing in place
        y = F.linear(x, sparse.added(frozen), self.bias)
    elif sparse is not None:
        y = _Linear.apply(x, sparse.values, self.bias, frozen, sparse)
    else:
        y = F.linear(x, frozen, self.bias)
    if lora is not None:
        y = y + gain(LowRankUpdate(self).branch(x))
    return y if adapter is None else adapter.linear(y, gain)


def conv_forward(self: Any, x: Tensor, gain: Gain = _as_it_is) -> Tensor:
    """`forward` of a tuned nn.Conv2d; `gain` as there."""
    sparse, lora, adapter = (self._modules.get(n) for n in ("sparse_weight", "lora", "adapter"))
    frozen = self._parameters["weight"]
    if sparse is not None and is_traced():
        whole = sparse.added(frozen)
        y = F.conv2d(x, whole, self.bias, self.stride, self.padding, self.dilation, self.groups)
    elif sparse is not None:
        y = _Conv.apply(x, sparse.values, self.bias, frozen, sparse, self)
    else:
        y = F.conv2d(x, frozen, self.bias, self.stride, self.padding, self.dilation, self.groups)
    if lora is not None:
        y = y + gain(LowRankUpdate(self).branch(x))
    return y if adapter is None else adapter.conv(y, gain)


def forward_of(module: nn.Module) -> Callable[..., Tensor] | None:
    """How to call a tuned layer of exactly this type; None where its own forward must be left to read its weights."""
    if type(module) is nn.Linear:
        return linear_forward
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return conv_forward if module._parameters["weight"].is_contiguous() else None  # type: ignore[union-attr]
    return None


def add_parts(layer: nn.Module, parts: dict[str, nn.Module], called: bool, name: str = "") -> None:
    """Gives the layer called `name` its parts: `sparse_<parameter>`, `lora` (`Factors`), `adapter`.

    The layer stays the same object with the same parameters under the same names, and so does its state dict. What
    reads a tuned parameter reads it with its differences.

    Raises:
        Refusal: it has an attribute of one of our names already.
    """
    refuse_taken_names(layer, (*parts, "updated_parameters", "plain_class"), name)
    names = tuple(sorted({n.removeprefix("sparse_") if n.startswith("sparse_") else "weight" for n in parts}))
    forward = forward_of(layer) if called else None
    for key, part in parts.items():
        layer.add_module(key, part)
    members: list[tuple[str, Any]] = [(tensor, _reader(tensor)) for tensor in names]
    members.append(("updated_parameters", names))
    if forward is not None:
        members.append(("forward", forward))
    kind: Any = type(layer)
    layer.__class__ = layer_class(kind, "Tuned", tuple(members))


def part_of(layer: Any, name: str) -> Branch | None:
    """The branch of the layer called `name`: its low-rank update, or its adapter; None where it has neither.

    Raises:
        Refusal: its own forward reads the weight with the update, so that nothing stands beside it.
    """
    if not {"lora", "adapter"} & layer._modules.keys() or not hasattr(type(layer), "updated_parameters"):
        return None
    if type(layer).forward not in (linear_forward, conv_forward):
        raise Refusal(
            f"trainer.consistency: {name} is read instead of called, or computes with its weight in a way of its own, "
            f"so that its update is no branch that noise could scale; take method=spt_adapter, or leave it out."
        )
    return PartOf(name, layer, _in_two_parts)


def _in_two_parts(layer: Any, gain: Gain, x: Tensor) -> Tensor:
    y: Tensor = type(layer).forward(layer, x, gain)
    return y


@torch.no_grad()
def merge_parts(layer: nn.Module) -> Folded | None:
    """Adds what a layer's parts make of its parameters into these, and leaves it without them; adapters stay.

    Returns what undoes it; None for a layer without parts.
    """
    kind: Any = type(layer)
    if not hasattr(kind, "updated_parameters"):
        return None
    values = {name: _value(layer, name) for name in kind.updated_parameters}
    parts = [n for n in layer._modules if n == "lora" or n.startswith("sparse_")]
    return Folded(layer, values, parts, kind if "adapter" in layer._modules else kind.plain_class)


def _value(layer: nn.Module, name: str) -> Tensor:
    """The parameter of that name with its differences, in its shape."""
    frozen = layer._parameters[name]
    assert frozen is not None
    value: Tensor = frozen
    sparse = layer._modules.get(f"sparse_{name}")
    if isinstance(sparse, Sparse):
        value = sparse.added(value)
    if name == "weight" and "lora" in layer._modules:
        value = value + LowRankUpdate(layer).delta()
    return value


@cache
def _reader(name: str) -> property:
    return property(partial(_value, name=name))
