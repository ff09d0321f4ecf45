"""A low-rank update of a layer's weight, W + ΔW with ΔW = s·BA: the one mechanism for every method that adds one.

Two things may come on top. Factors that begin as A0 and B0 count by their change alone, ΔW = s·(BA - B0 A0). And rows
may have lengths m that train: the weight is then m_o V_o / |V_o| in each row o of V = W + ΔW.

The update lives on the layer: `Form` says how it is computed, the factors are parameters, and the layer's class gains a
`weight` that reads W + ΔW and, where the form asks for it, a `forward`. Layer and frozen tensors stay the same objects
under the same names. `LowRankUpdate(layer)` is a handle on all of it, cheap to make and kept by nobody: a layer that
held it would be in a circle with it, and outlive the model's last user.

Legend: W (O, I) of a linear layer, (O, I/g, kh, kw) of a convolution of g groups, which counts as a matrix
(O, I/g·kh·kw); r the rank; x the layer's input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from peftbench.backbones.coded_weights import own_weight
from peftbench.methods.shared.folding import Folded, layer_class, refuse_taken_names
from peftbench.methods.shared.weight_path import (
    ConvOfUpdated,
    LinearOfUpdated,
    Origin,
    change,
    row_lengths,
    updated,
    with_lengths,
)

Layer = nn.Linear | nn.Conv2d
FLAT = ("lora_a", "lora_b", "lora_mask", "lora_a0", "lora_b0", "lora_magnitude", "lora_form")
"""What an update adds to a layer, in its parameters, buffers and attributes."""


@dataclass(frozen=True)
class Form:
    """How an update is made and computed with.

    Attributes:
        rank: r.
        scale: s.
        path: `input` computes y + s·(x Aᵀ) Bᵀ beside the layer, as LoRA; `weight` computes with W + ΔW and forms no
            gradient of the whole weight; `read` leaves the layer's own forward to read W + ΔW.
        fused: W + s·BA is one product, which rounds once; else ΔW is formed and added.
        kernel_rows: a convolution's A is (r·kh, I·kw) and its B (O·kh, r·kh), whose product has W's numbers in W's
            order, as in the code of LoRA's authors; else A is (r, I/g·kh·kw) and B (O, r).
        blocks, of: the blocks of output rows that are updated, of so many equal ones: a fused qkv has three. Then A is
            (m r, I) and B (m, O / of, r) for m blocks.
        dropout: of the update's input; only on the `input` path.
        drop_path: the share of samples that the update is dropped for; only on the `input` path.
        magnitude: whether the rows have lengths that train, `lora_magnitude` (O,), which start as those of W.
    """

    rank: int
    scale: float = 1.0
    path: Literal["input", "weight", "read"] = "input"
    fused: bool = False
    kernel_rows: bool = False
    blocks: tuple[int, ...] = (0,)
    of: int = 1
    dropout: float = 0.0
    drop_path: float = 0.0
    magnitude: bool = False


class Factors(nn.Module):
    """A and B of an update as a module of their own: a layer that has it as `lora` has no factors of its own.

    a (m r, I) starts Kaiming-uniform, one block after the other; b (m, O / of, r) at zero.
    """

    def __init__(self, weight: Tensor, form: Form) -> None:
        super().__init__()
        rows, columns, count = weight.shape[0], weight.numel() // weight.shape[0], len(form.blocks)
        self.form = form
        self.a = nn.Parameter(weight.new_empty(count * form.rank, columns))
        self.b = nn.Parameter(weight.new_zeros(count, rows // form.of, form.rank))
        for block in self.a.data.split(form.rank):
            nn.init.kaiming_uniform_(block, a=math.sqrt(5))


class LowRankUpdate:
    """A handle on the low-rank update of one layer.

    Attributes:
        layer: the layer, of which `weight` is W + ΔW as long as the update is not merged.
        form: how it is computed.
        a, b: the factors, parameters of the layer or of its `lora`.
        mask: (W's shape) keeps ΔW zero where it is zero; None without one.
        origin: (A0, B0), which A and B started as and from which they count; None where they count whole.
        magnitude: (O,), the lengths of the rows; None where they have those that come about.
    """

    __slots__ = ("_folded", "a", "b", "form", "layer", "magnitude", "mask", "origin")

    def __init__(self, layer: nn.Module) -> None:
        factors = layer._modules.get("lora")
        self.layer: Any = layer
        self._folded: Folded | None = None
        self.origin: Origin | None = None
        self.magnitude: nn.Parameter | None = None
        if isinstance(factors, Factors):
            self.form, self.a, self.b, self.mask = factors.form, factors.a, factors.b, None
        else:
            held: Any = layer._parameters
            self.form, self.a, self.b = layer.__dict__["lora_form"], held["lora_a"], held["lora_b"]
            self.mask = layer._buffers.get("lora_mask")
            if (low := layer._buffers.get("lora_a0")) is not None:
                self.origin = low, layer._buffers["lora_b0"]  # type: ignore[assignment]
            self.magnitude = held.get("lora_magnitude")

    @classmethod
    def add(
        cls, layer: Layer, form: Form, mask: Tensor | None = None, name: str = "", origin: Origin | None = None
    ) -> LowRankUpdate:
        """Gives the layer called `name` an update with the factors `lora_a` and `lora_b`, parameters of its own.

        A starts Kaiming-uniform and B at zero, or both as `origin` = (A0, B0) and count from there: either way the
        layer computes what it did.

        Raises:
            Refusal: it has an attribute of one of our names already.
        """
        refuse_taken_names(layer, (*FLAT, "plain_class"), name)
        weight: Any = layer.weight
        (rows, columns), rank = matrix_shape(layer, form.kernel_rows), inner_rank(layer, form.rank, form.kernel_rows)
        if origin is None:
            low, high = weight.new_empty(rank, columns), weight.new_zeros(rows, rank)
            nn.init.kaiming_uniform_(low, a=math.sqrt(5))
        else:
            low, high = (t.to(weight.device, weight.dtype, copy=True) for t in origin)
            layer.register_buffer("lora_a0", low.clone(), persistent=False)
            layer.register_buffer("lora_b0", high.clone(), persistent=False)
        layer.lora_a, layer.lora_b = nn.Parameter(low), nn.Parameter(high)
        if form.magnitude:
            layer.lora_magnitude = nn.Parameter(row_lengths(weight))
        layer.__dict__["lora_form"] = form
        if mask is not None:
            layer.register_buffer("lora_mask", mask, persistent=False)
        forward = _forward_of(layer, form)
        members = (("weight", _WEIGHT), *((("forward", forward),) if forward is not None else ()))
        kind: Any = type(layer)
        layer.__class__ = layer_class(kind, "LowRank", members)
        return cls(layer)

    @property
    def frozen(self) -> Tensor:
        """W, without the update."""
        return own_weight(self.layer)

    def b_of_all_rows(self) -> Tensor:
        """B (O, m r) over all output rows, zero in the blocks that are not updated."""
        if self.b.ndim == 2:
            return self.b
        blocks, of = self.form.blocks, self.form.of
        if of == 1:
            return self.b[0]
        empty = self.b.new_empty(self.b.shape[1], 0)
        return torch.block_diag(*(self.b[blocks.index(i)] if i in blocks else empty for i in range(of)))

    def delta(self) -> Tensor:
        """What the weight has become less W, in W's shape: ΔW where rows have no lengths of their own."""
        return self._sum() if self.magnitude is None else self.weight() - self.frozen

    def _sum(self) -> Tensor:
        """ΔW, in W's shape."""
        delta = change(self.a, self.b_of_all_rows(), self.origin).view(self.frozen.shape)
        if self.form.scale != 1:
            delta = self.form.scale * delta
        return delta if self.mask is None else delta * self.mask

    def weight(self) -> Tensor:
        """W + ΔW, its rows at their lengths, in W's shape."""
        if self.form.fused and self.mask is None:
            whole = updated(self.frozen, self.a, self.b, self.form.scale, self.origin)
        else:
            whole = self.frozen + self._sum()
        return whole if self.magnitude is None else with_lengths(whole, self.magnitude)

    def branch(self, x: Tensor) -> Tensor:
        """What the update adds to the layer's output for the input x, in the output's shape."""
        form, layer = self.form, self.layer
        if form.dropout:
            x = F.dropout(x, form.dropout, layer.training)
        of_weight = form.kernel_rows or self.magnitude is not None or self.origin is not None or self.mask is not None
        if of_weight:
            whole = self.delta()
            y = F.linear(x, whole) if isinstance(layer, nn.Linear) else layer._conv_forward(x, whole, None)
            return drop_path(y, form.drop_path, layer.training)
        high = self.b_of_all_rows()
        if form.scale != 1:
            high = form.scale * high
        if not isinstance(layer, nn.Conv2d):
            return drop_path(F.linear(F.linear(x, self.a), high), form.drop_path, layer.training)
        if layer.groups > 1:  # every group shares A: the update is one of the whole weight
            return drop_path(layer._conv_forward(x, self.delta(), None), form.drop_path, layer.training)
        narrow = layer._conv_forward(x, self.a.view(-1, *self.frozen.shape[1:]), None)
        return drop_path(F.conv2d(narrow, high[..., None, None]), form.drop_path, layer.training)

    def merge(self) -> None:
        """Makes W + ΔW the layer's own weight and takes the update away; the layer has its plain class again.

        The handle keeps W and the factors for `unmerge`. Raises RuntimeError where it is merged already.
        """
        if self._folded is not None:
            raise RuntimeError("this update is merged already.")
        with torch.no_grad():
            self._folded = Folded(self.layer, {"weight": self.weight()}, FLAT, self.layer.plain_class)

    def unmerge(self) -> None:
        """Undoes `merge`: W, the factors and the class are the very ones of before. Raises RuntimeError without one."""
        if self._folded is None:
            raise RuntimeError("this update is not merged.")
        self._folded.undo()
        self._folded = None


def has_update(layer: nn.Module) -> bool:
    """Whether `LowRankUpdate.add` has given the layer an update that is not merged."""
    return "lora_form" in layer.__dict__


def updates(net: nn.Module) -> Iterator[LowRankUpdate]:
    """The updates of all layers of a net that `LowRankUpdate.add` has given them."""
    for module in list(net.modules()):
        if has_update(module):
            yield LowRankUpdate(module)


def matrix_shape(layer: Layer, kernel_rows: bool) -> tuple[int, int]:
    """The rows and columns of the matrix that an update of the layer is a product of (`Form.kernel_rows`)."""
    weight: Any = layer.weight
    if not kernel_rows:
        return len(weight), weight[0].numel()
    assert isinstance(layer, nn.Conv2d)
    return len(weight) * layer.kernel_size[0], layer.in_channels * layer.kernel_size[1]


def inner_rank(layer: Layer, rank: int, kernel_rows: bool) -> int:
    """The rows of A and columns of B: the rank, of a convolution with `kernel_rows` times the kernel's height."""
    return rank * layer.kernel_size[0] if kernel_rows and isinstance(layer, nn.Conv2d) else rank


def input_path_fits(layer: nn.Module) -> bool:
    """Whether the `input` path computes what this layer's own forward does with the updated weight."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and type(layer).forward is nn.Conv2d.forward
    return type(layer).forward is nn.Linear.forward


def weight_path_fits(layer: nn.Module) -> bool:
    """Whether the `weight` path computes what this layer's own forward does with the updated weight."""
    kind = parametrize.type_before_parametrizations(layer)  # of a layer whose weight is in codes, too
    if kind is nn.Linear:
        return True
    plain = kind is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and layer.groups == 1  # type: ignore[return-value]


def drop_path(branch: Tensor, share: float, training: bool) -> Tensor:
    """A branch (B, …) that is zero for a share of the samples and larger for the others, in training."""
    if not training or not share:
        return branch
    keep = 1 - share
    return branch * branch.new_empty([len(branch)] + [1] * (branch.ndim - 1)).bernoulli_(keep).div_(keep)


def _read_weight(layer: nn.Module) -> Tensor:
    return LowRankUpdate(layer).weight()


_WEIGHT = property(_read_weight)


def _forward_of(layer: Layer, form: Form) -> Any:
    """The forward of the form's path; None where the layer's own reads the updated weight."""
    if form.path == "read":
        return None
    if isinstance(layer, nn.Linear):
        return _linear_beside if form.path == "input" else _linear_of_updated
    return _conv_beside if form.path == "input" else _conv_of_updated


def _linear_beside(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, own_weight(self), self.bias) + LowRankUpdate(self).branch(x)


def _conv_beside(self: Any, x: Tensor) -> Tensor:
    return self._conv_forward(x, own_weight(self), self.bias) + LowRankUpdate(self).branch(x)


def _linear_of_updated(self: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return F.linear(x, self.weight, self.bias)
    update = LowRankUpdate(self)
    told = update.frozen, update.form.scale, update.magnitude, update.origin
    return LinearOfUpdated.apply(x, update.a, update.b, self.bias, *told)


def _conv_of_updated(self: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return self._conv_forward(x, self.weight, self.bias)
    update = LowRankUpdate(self)
    return ConvOfUpdated.apply(x, update.a, update.b, self.bias, update.frozen, update.form.scale, self)
