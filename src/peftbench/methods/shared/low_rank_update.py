"""A low-rank update of a layer's weight, W + ΔW with ΔW = s·BA: the one mechanism for every method that adds one.

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
from peftbench.methods.shared.weight_path import ConvOfUpdated, LinearOfUpdated, updated

Layer = nn.Linear | nn.Conv2d
FLAT = ("lora_a", "lora_b", "lora_mask", "lora_form")
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
    """

    __slots__ = ("_folded", "a", "b", "form", "layer", "mask")

    def __init__(self, layer: nn.Module) -> None:
        factors = layer._modules.get("lora")
        self.layer: Any = layer
        self._folded: Folded | None = None
        if isinstance(factors, Factors):
            self.form, self.a, self.b, self.mask = factors.form, factors.a, factors.b, None
        else:
            held: Any = layer._parameters
            self.form, self.a, self.b = layer.__dict__["lora_form"], held["lora_a"], held["lora_b"]
            self.mask = layer._buffers.get("lora_mask")

    @classmethod
    def add(cls, layer: Layer, form: Form, mask: Tensor | None = None, name: str = "") -> LowRankUpdate:
        """Gives the layer called `name` an update with the factors `lora_a` and `lora_b`, parameters of its own.

        A starts Kaiming-uniform and B at zero, so that the layer computes what it did.

        Raises:
            Refusal: it has an attribute of one of our names already.
        """
        refuse_taken_names(layer, (*FLAT, "plain_class"), name)
        weight: Any = layer.weight
        rows, columns, high = len(weight), weight[0].numel(), 1
        if form.kernel_rows:
            assert isinstance(layer, nn.Conv2d)
            high = layer.kernel_size[0]
            columns = layer.in_channels * layer.kernel_size[1]
        low = nn.Parameter(weight.new_empty(form.rank * high, columns))
        nn.init.kaiming_uniform_(low, a=math.sqrt(5))
        layer.lora_a, layer.lora_b = low, nn.Parameter(weight.new_zeros(rows * high, form.rank * high))
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
        """ΔW, in W's shape."""
        delta = (self.b_of_all_rows() @ self.a).view(self.frozen.shape)
        if self.form.scale != 1:
            delta = self.form.scale * delta
        return delta if self.mask is None else delta * self.mask

    def weight(self) -> Tensor:
        """W + ΔW, in W's shape."""
        if self.form.fused and self.mask is None:
            return updated(self.frozen, self.a, self.b, self.form.scale)
        return self.frozen + self.delta()

    def branch(self, x: Tensor) -> Tensor:
        """What ΔW adds to the layer's output for the input x, in the output's shape."""
        form, layer = self.form, self.layer
        if form.dropout:
            x = F.dropout(x, form.dropout, layer.training)
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
    return LinearOfUpdated.apply(x, update.a, update.b, self.bias, update.frozen, update.form.scale)


def _conv_of_updated(self: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return self._conv_forward(x, self.weight, self.bias)
    update = LowRankUpdate(self)
    return ConvOfUpdated.apply(x, update.a, update.b, self.bias, update.frozen, update.form.scale, self)
