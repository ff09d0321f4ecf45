"""Partial fine-tuning (as in Jia et al., ECCV 2022, arXiv 2203.12119): chosen tensors of the backbone train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from peftbench.backbones import Backbone
from peftbench.backbones.depths import numbered_blocks
from peftbench.backbones.norms import norms
from peftbench.common.amounts import plural
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.config.bounds import Positive
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.shared.folding import refuse_taken_names
from peftbench.methods.spt.parts import MOST, Sparse, add_parts, merge_parts

_BY_DEPTH = ("last_k", "first_k")
_PROJECTION = "*attn.proj."


@dataclass(frozen=True)
class Partial(Method):
    """Tensors of the backbone that a preset or patterns choose train in place, all others are frozen.

    Source: Partial-k is a baseline of VPT (arXiv 2203.12119); LN-Tune (arXiv 2304.01917) is `preset=ln`; APLA (arXiv
    2503.11335) is `preset=attn_proj`, with `rows` its low-rank form; surgical fine-tuning (arXiv 2210.11466) trains one
    stage: `preset=first_k unit=stage` where inputs shift. Our reading: `last_k` takes the last norm, and what else
    stands behind the last block, on every backbone; `first_k` leaves the stem out; `head_and_norms` is all norms and
    what timm keeps of a head (`conv_head`, an attention pool), which on a plain ViT is `ln`.

    Equation: W' = W + Δ, where Δ is dense for a chosen tensor. With `rows: k` a chosen weight W (O, I) has Δ = P D,
    where D (k, I) trains and P (O, k) puts its rows at k places, drawn once at random; so has its bias (O,).

    Place: `names` are a shell's patterns over timm's names of parameters, in place of the preset. Batch-norm
    statistics stay as they are.

    Cost: backward runs from the head to the first trained tensor and through nothing before it. Nothing is added, so
    prediction costs nothing; `rows` are kept beside the weights in training, and are added in afterwards.

    Avoid when: the data are few and the chosen tensors many (low-rank updates overfit less), or the task differs from
    the pretraining in its early features and only late blocks train.
    """

    plans: ClassVar[bool] = True
    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    prefix: ClassVar[Literal["", "last", "all"]] = "last"
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ln_tune": {"preset": "ln", "names": []},
        "apla": {"preset": "attn_proj", "names": []},
    }

    preset: Literal["last_k", "first_k", "ln", "attn_proj", "head_and_norms"] = "last_k"
    k: Positive = 1
    unit: Literal["block", "stage"] = "block"
    names: tuple[str, ...] = ()
    rows: Positive | None = None

    @property
    def keeps_weights(self) -> bool:  # type: ignore[override]
        return self.preset == "ln" and not self.names

    @property
    def merges(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("masked",) if self.rows is None else ("unmerged", "dense")

    def check(self, backbone: Backbone) -> None:
        for key in ("k", "rows"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"method.{key}={value}: expected at least 1.")
        self._refuse_counts_of_no_effect()
        chosen = self._chosen(backbone)
        if self.rows is None:
            return
        weights = _weights(backbone, chosen)
        if not weights:
            raise UserError(
                f"method.rows={self.rows}: none of the chosen tensors of {backbone.facts.name} is the weight of a "
                f"linear layer or a convolution; leave it out."
            )
        shortest = min(weights, key=lambda name: len(weights[name]))
        if self.rows > (most := len(weights[shortest])):
            raise UserError(f"method.rows={self.rows}: {shortest} has {plural(most, 'row')}; expected at most that.")

    def _refuse_counts_of_no_effect(self) -> None:
        """Raises UserError where `k` or `unit` is given and the blocks are not what is counted."""
        if self.preset in _BY_DEPTH and not self.names:
            return
        instead = f"method.names={list(self.names)}" if self.names else f"method.preset={self.preset}"
        for key in ("k", "unit"):
            if (value := getattr(self, key)) != getattr(type(self), key):
                raise UserError(
                    f"method.{key}={value}: counts for method.preset=last_k and first_k alone, and {instead} chooses "
                    f"otherwise; leave one of the two out."
                )

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> Plan:
        backbone: Any = model.backbone
        chosen = self._chosen(backbone)
        weights = {} if self.rows is None else _weights(backbone, chosen)
        drawn = {name: torch.randperm(len(w))[: self.rows].sort().values.int() for name, w in weights.items()}
        task: Any = model.task
        unread = set() if task.uses_tail else {id(p) for p in backbone.tail_parameters()}
        layers = []
        for name, parameter in chosen.items():
            rows = drawn.get(name, drawn.get(_weight_of(name)))
            count = parameter.numel() if rows is None else len(rows) * parameter[0].numel()
            if id(parameter) not in unread:
                layers.append({"name": name, "kind": "whole" if rows is None else "rows", "parameters": count})
        return Plan(drawn, {"trainable": sum(row["parameters"] for row in layers), "layers": layers})

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        chosen = self._chosen(backbone)
        rows = {} if self.rows is None else self._rows(backbone, chosen, plan)
        parts: dict[str, dict[str, nn.Module]] = {}
        for name, parameter in chosen.items():
            drawn = rows.get(name, rows.get(_weight_of(name)))
            if drawn is None:
                parameter.requires_grad = True
                continue
            owner, _, last = name.rpartition(".")
            width = parameter[0].numel()
            places = drawn.long()[:, None] * width + torch.arange(width, device=drawn.device)
            parts.setdefault(owner, {})[f"sparse_{last}"] = _Rows(places.flatten(), parameter)
        for owner, made in parts.items():
            add_parts(backbone.net.get_submodule(owner), made, owner in backbone.facts.called, owner)
        _hold_statistics(backbone)

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for module in list(backbone.modules()):
            merge_parts(module)

    def _rows(self, backbone: Backbone, chosen: Mapping[str, nn.Parameter], plan: Plan) -> Mapping[str, Tensor]:
        """The rows that train of each chosen weight; without a plan, for counts and times, as many of them."""
        return plan.tensors or {name: torch.arange(self.rows or 0) for name in _weights(backbone, chosen)}

    def _chosen(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        """What trains, whole or by rows, by its name in the net. Raises UserError or Refusal where that is nothing."""
        parameters = {n: p for n, p in backbone.net.named_parameters() if p.is_floating_point()}
        names = self._matched(backbone, list(parameters)) if self.names else self._preset(backbone, parameters)
        if self.rows is not None:  # a weight's bias goes with it
            names = names | {
                f"{n.removesuffix('weight')}bias" for n in _weights(backbone, {n: parameters[n] for n in names})
            }
        return {n: p for n, p in parameters.items() if n in names}

    def _matched(self, backbone: Backbone, known: list[str]) -> set[str]:
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise UserError(
                    f"method.names={list(self.names)}: '{pattern}' matches no parameter of {backbone.facts.name}"
                    f"{nearest(pattern, known)}; there are {', '.join(known[:6])}, …"
                )
        return {name for name in known if any(fnmatchcase(name, pattern) for pattern in self.names)}

    def _preset(self, backbone: Backbone, parameters: Mapping[str, nn.Parameter]) -> set[str]:
        if self.preset in _BY_DEPTH:
            return self._by_depth(backbone)
        if self.preset == "attn_proj":
            kinds = (f"{_PROJECTION}weight", f"{_PROJECTION}bias")
            found = {name for name in parameters if any(fnmatchcase(name, kind) for kind in kinds)}
            if not found:
                raise Refusal(
                    f"method.preset=attn_proj: {backbone.facts.name} has no projection behind an attention "
                    f"(attn.proj); method.preset=ln and last_k work, and method.names=[…] takes other names."
                )
            return found
        modules = dict(norms(backbone.net))
        if self.preset == "head_and_norms":
            facts = backbone.facts
            modules |= {n: backbone.net.get_submodule(n) for n in (*facts.tail, *sorted(facts.pools))}
        wanted = {id(p) for module in modules.values() for p in module.parameters()}
        found = {name for name, parameter in parameters.items() if id(parameter) in wanted}
        if not found:
            raise Refusal(
                f"method.preset={self.preset}: {backbone.facts.name} has no norm with a weight; "
                f"method.preset=last_k and method=bitfit work."
            )
        return found

    def _by_depth(self, backbone: Backbone) -> set[str]:
        """The parameters of the first or last `k` blocks."""
        blocks = numbered_blocks(backbone, self.unit == "stage")
        if blocks is None or blocks.count < 1:
            raise Refusal(
                f"method.preset={self.preset}: timm does not say what the blocks of {backbone.facts.name} are; "
                f"method.preset=ln works, and method.names=[…] takes any of its parameters."
            )
        if self.k > blocks.count:
            raise UserError(
                f"method.k={self.k}: {backbone.facts.name} has {plural(blocks.count, self.unit)}; expected at most "
                f"that."
            )
        if self.preset == "first_k":
            return {name for name, block in blocks.of.items() if 1 <= block <= self.k}
        return {name for name, block in blocks.of.items() if block > blocks.count - self.k}


class _Rows(Sparse):
    """Entries that are whole rows of a matrix, row by row, so that where they lie follows without a search for it."""

    def layout(self, shape: torch.Size) -> tuple[Tensor | None, Tensor | None, Tensor]:
        rows = self.indices[:: shape[1]] // shape[1]
        if len(rows) < MOST * shape[0]:
            return rows.long(), None, torch.arange(len(self.indices), device=rows.device)
        return None, None, self.indices.long()


def _weights(backbone: Backbone, chosen: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those of the chosen tensors that are weights of linear layers and convolutions."""
    found = {}
    for name, parameter in chosen.items():
        owner, _, last = name.rpartition(".")
        if last == "weight" and isinstance(backbone.net.get_submodule(owner), nn.Linear | nn.Conv2d):
            found[name] = parameter
    return found


def _weight_of(name: str) -> str:
    """The name of the weight that a bias goes with; an empty string for what is no bias."""
    owner, _, last = name.rpartition(".")
    return f"{owner}.weight" if last == "bias" else ""


def _hold_statistics(backbone: Backbone) -> None:
    """Has the statistics of batch norms stay, also where weight and bias train."""
    for name, module in backbone.net.named_modules():
        if isinstance(module, _NormBase) and any(p.requires_grad for p in module.parameters()):
            refuse_taken_names(module, ("fixed_statistics",), name)
            module.fixed_statistics = True  # type: ignore[assignment]
