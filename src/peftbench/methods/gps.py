"""GPS (Zhang et al., CVPR 2024, arXiv 2312.10136): of each neuron the inputs of the largest gradients train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.backbones.layers import layers
from peftbench.backbones.weight_reads import layers_read
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import AboveZero, Positive
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.spt.parts import Sparse, add_parts, merge_parts
from peftbench.methods.spt.scoring import sensitivity

PREFIX = "backbone.net."


@dataclass(frozen=True)
class GPS(Method):
    """Of each row of every matrix and convolution the K entries of the largest gradients train, and the biases.

    Source: arXiv 2312.10136. Our reading: the second view of an image is its mirror image (the authors augment twice);
    ties go to the lowest index; where images have no class each, the loss is the task's own (`loss: null`); scores are
    in full precision. As the authors' code does, this goes by names: what trains whole is every tensor with `bias` in
    its name and not `norm`, and layer scales (`gamma`). So batch norms called `bn`, and ConvNeXt's norms that are not
    named so, train their biases. Class tokens, embeddings and other norms are frozen.

    Equation: G = Σ over batches of ∂L/∂W (O, I), a convolution's flattened to (O, I/g·kh·kw); W_oi trains where |G_oi|
    is one of the K largest of row o. L is the supervised contrastive loss of the normalised pooled features z of two
    views: the mean over i of −1/|P(i)| Σ_{p in P(i)} log(exp(z_i·z_p / T) / Σ_{a ≠ i} exp(z_i·z_a / T)), with P(i) the
    other views of i's class. `reduce: squares` sums (∂L/∂W)², and `loss: ce` takes the task's own loss.

    Place: in every linear layer and convolution, that of the patches included.

    Cost: before training, a forward and backward pass over the training images, with the gradients of all weights. In
    training a whole backward pass, in which each layer's input is kept, as LoRA's; the values that train are stored,
    not masks over weights. It merges, and then costs nothing.

    Avoid when: the data are so many that one more pass over them, in both views, is dear: `batches` bounds it.
    """

    plans: ClassVar[bool] = True
    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    k: Positive = 1
    loss: Literal["contrastive", "ce"] | None = None
    reduce: Literal["sum", "squares"] = "sum"
    temperature: AboveZero = 0.07
    batches: Positive | None = None

    def check(self, backbone: Backbone) -> None:
        for key in ("k", "batches"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"method.{key}={value}: expected at least 1.")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"method.temperature={self.temperature}: expected a number above 0.")
        if self.loss == "ce" and self.temperature != type(self).temperature:
            raise UserError(
                f"method.temperature={self.temperature}: is of method.loss=contrastive alone; leave it out of ce."
            )
        if not (matrices := _matrices(backbone)):
            raise Refusal(
                f"method=gps: {backbone.facts.name} has no linear layers nor convolutions; method=full works."
            )
        longest = max(cast(Tensor, layer._parameters["weight"])[0].numel() for layer in matrices.values())
        if self.k > longest:
            raise UserError(
                f"method.k={self.k}: the longest row of a weight of {backbone.facts.name} has {longest:,} entries; "
                f"expected at most that."
            )

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> Plan:
        backbone: Any = model.backbone
        kinds: set[str] = set()

        def loss_of(net: Any, batch: Any) -> Tensor:
            images, targets = batch
            kinds.add(kind := self._loss_for(targets))
            return net.loss(batch) if kind == "ce" else contrastive(net, images, targets, self.temperature)

        gradients = sensitivity(
            model,
            islice(batches, self.batches),
            loss_of,
            [f"{PREFIX}{name}.weight" for name in _matrices(backbone)],
            mode="train",
            unreached="skip",
            reduce=self.reduce,
        )
        sums = {name.removeprefix(PREFIX): g for name, g in gradients.items()}
        tensors = {n: largest_of_rows(g, self.k, backbone.masks.get(n)) for n, g in sums.items()}
        whole = {n: backbone.net.get_parameter(n).numel() for n in _whole(backbone)}
        rows = [{"name": n, "kind": "sparse", "parameters": len(at)} for n, at in tensors.items()]
        rows += [{"name": n, "kind": "whole", "parameters": count} for n, count in whole.items()]
        place = {n: i for i, (n, _) in enumerate(backbone.net.named_parameters())}
        rows.sort(key=lambda row: place[str(row["name"])])
        selected = sum(len(at) for at in tensors.values())
        trainable = selected + sum(whole.values())
        facts = {"budget": trainable, "trainable": trainable, "selected": selected, "loss": "".join(kinds)}
        return Plan(tensors, {**facts, "layers": rows})

    def _loss_for(self, targets: Any) -> str:
        """Which loss scores images with these targets. Raises Refusal where it is asked for and cannot be had."""
        classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
        if self.loss == "contrastive" and not classes:
            raise Refusal(
                "method.loss=contrastive: compares images by their class, and those of this task have no single one; "
                "give method.loss=ce, the task's own loss, or leave it out."
            )
        return self.loss or ("contrastive" if classes else "ce")

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        if not plan.facts and not backbone.on_meta:
            raise UserError("which entries GPS trains is decided by a look at the data; a run makes the plan.")
        freeze(backbone)
        for name in _whole(backbone):
            backbone.net.get_parameter(name).requires_grad = True
        for name, layer in _matrices(backbone).items():
            weight: Any = layer._parameters["weight"]
            if plan.facts:
                chosen, kind = plan.tensors.get(f"{name}.weight"), Sparse
            else:
                count = len(weight) * min(self.k, weight[0].numel())
                chosen, kind = torch.empty(count, dtype=torch.int32, device="meta"), _Unchosen
            if chosen is not None and len(chosen):
                parts: dict[str, nn.Module] = {"sparse_weight": kind(chosen, weight)}
                add_parts(layer, parts, name in backbone.facts.called, name)

    def merge(self, backbone: Backbone) -> None:
        for module in list(backbone.modules()):
            merge_parts(module)


class _Unchosen(Sparse):
    """As many entries as there will be, before any data: they may lie anywhere."""

    def layout(self, shape: torch.Size) -> tuple[Tensor | None, Tensor | None, Tensor]:
        return None, None, self.indices.long()


def largest_of_rows(gradient: Tensor, k: int, keep: Tensor | None = None) -> Tensor:
    """The k entries of each row of the largest absolute value, ties to the lowest index.

    Args:
        gradient: (O, …), of which all but the first dimension are a row.
        k: at most; a shorter row is taken whole.
        keep: of the gradient's shape, false where no entry may be taken (pruned zeros); None takes any.

    Returns:
        int32 indices into the flattened tensor, in order, on the CPU.
    """
    rows = gradient.detach().flatten(1).abs().cpu()
    if keep is not None:
        rows = rows.masked_fill(~keep.flatten(1).cpu(), -1)
    columns = rows.sort(dim=1, descending=True, stable=True).indices[:, : min(k, rows.shape[1])]
    allowed = rows.gather(1, columns) >= 0
    places = columns + torch.arange(len(rows))[:, None] * rows.shape[1]
    return places[allowed].sort().values.int()


def contrastive(model: Any, images: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss of images and their mirror images, a scalar.

    Args:
        model: whose pooled features are compared, before any head.
        images: (B, 3, H, W), or clips (B, T, 3, H, W), of which the mean over frames is compared.
        labels: (B,) classes.
        temperature: T.
    """
    both = torch.cat([images, images.flip(-1)])
    pooled = model.backbone.pool(model.extract(both)[-1])
    z = F.normalize(pooled.view(len(both), -1, pooled.shape[-1]).mean(1).float(), dim=-1)
    labels = labels.repeat(2)
    itself = torch.eye(len(both), dtype=torch.bool, device=z.device)
    shares = (z @ z.T / temperature).masked_fill(itself, float("-inf")).log_softmax(1)
    positive = (labels[:, None] == labels) & ~itself  # never empty: the mirror image is one
    return -(shares.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()


def _matrices(backbone: Backbone) -> Mapping[str, nn.Module]:
    """The layers whose weights are computed with, by name."""
    every = {x.name: x.module for x in layers(backbone)}
    if idle := every.keys() - backbone.facts.called:
        idle -= layers_read(backbone)
    return {name: layer for name, layer in every.items() if name not in idle}


def _whole(backbone: Backbone) -> list[str]:
    """What trains whole, by the name rule of the authors' code: biases, but not of norms, and layer scales."""
    names = [n for n, p in backbone.net.named_parameters() if p.is_floating_point()]
    return [n for n in names if ("bias" in n and "norm" not in n) or "gamma" in n.rpartition(".")[2]]
