"""SPT as a method: its plan, and the backbone that the plan makes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZero, AboveZeroOrNull, Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.low_rank_update import Factors, Form
from peftbench.methods.spt.budget import Allocation, Structure, allocate, thirds
from peftbench.methods.spt.parts import Adapter, Sparse, add_parts, forward_of, merge_parts, part_of
from peftbench.methods.spt.scoring import sensitivity

USUAL = 400_000
"""The budget of most published rows, on ViT-B; a smaller backbone gets a twentieth of its parameters (our choice)."""
PREFIX = "backbone.net."
_FROZEN = ("patch_embed", "pos_embed")


@dataclass(frozen=True)
class SPT(Method):
    """Tunes what the task is most sensitive to, within a budget of trainable parameters; the rest is frozen.

    `budget` is a count, or a share of the backbone below 1. `beta`: a vector with at least 1 / beta of its entries
    among the most sensitive trains whole. `step` is that of the search for the budget, a twentieth of it by default.
    `batches` of 32 training images are scored, in `mode`. `choose: random` scores at random, as a control.

    Our reading: where the official 79 steps of the search for K end below the budget, it goes on; images come in the
        run's shuffled order, not in that of a file; entries of norms and biases count in the budget. Scoring is with
        dropout and drop-path off (`mode=train` is the official way).
    Source: He et al., ICCV 2023, arXiv 2303.08566.
    Equation: sensitivity of an entry = (∂L/∂w)², summed over batches; the most sensitive entries train as W + ΔW
        with ΔW sparse.
    Place: where the task is most sensitive, within `budget` parameters; what was chosen is in the plan.
    Cost: a pass over some batches first; backward runs through the whole backbone; merged at prediction it costs
        nothing.
    Avoid when: the number of parameters must be equal between tasks to the last: it is that of the budget, about.
    """

    plans: ClassVar[bool] = True
    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    merges: ClassVar[tuple[str, ...]] = ("unmerged", "dense")
    kind: ClassVar[Structure] = "none"

    budget: float | None = None
    beta: AboveZeroOrNull = 5.0
    rule: Literal["nearest", "at_most"] = "nearest"
    step: Positive | None = None
    batches: Positive = 16
    mode: Literal["eval", "train"] = "eval"
    choose: Literal["sensitivity", "random"] = "sensitivity"

    def check(self, backbone: Backbone) -> None:
        for key in ("beta", "step", "batches"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise UserError(f"method.{key}={value}: expected a number above 0.")
        self.amount(backbone)

    def amount(self, backbone: Backbone) -> int:
        """The budget as a count. Raises UserError where it is out of range for this backbone."""
        candidates, fixed = _candidates(backbone), _fixed(backbone)
        most = sum(p.numel() for p in (*candidates.values(), *fixed.values()))
        least = sum(p.numel() for p in fixed.values())
        if self.budget is None:
            return max(min(USUAL, backbone.facts.parameters // 20), least + 1)
        share = 0 < self.budget < 1
        count = round(self.budget * backbone.facts.parameters) if share else round(self.budget)
        if not least < count <= most:
            what = f"{self.budget:,.0f}" if not share else f"{self.budget:g} ({count:,})"
            raise UserError(
                f"method.budget={what}: {backbone.facts.name} takes more than {least:,} (what trains in any case) and "
                f"at most {most:,} parameters, or a share of them below 1."
            )
        return count

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> Plan:
        backbone: Any = model.backbone
        candidates, fixed = _candidates(backbone), _fixed(backbone)
        budget, least = self.amount(backbone), sum(p.numel() for p in fixed.values())
        if self.choose == "sensitivity":
            sensitivities = sensitivity(
                model,
                islice(batches, self.batches),
                lambda net, batch: net.loss(batch),  # type: ignore[operator]
                [PREFIX + n for n in candidates],
                mode=self.mode,
                unreached="skip",
            )
            scores = {n.removeprefix(PREFIX): s for n, s in sensitivities.items()}
        else:
            scores = {n: torch.rand(p.shape) for n, p in candidates.items()}
        allocation = self._allocate(backbone, scores, budget, least)
        shown = {**dict.fromkeys(fixed, "whole"), **_kinds(allocation, self.kind)}
        costs = {n: p.numel() for n, p in fixed.items()} | allocation.costs
        facts = {
            "budget": budget,
            "rule": self.rule,
            "trainable": allocation.trainable,
            "selected": allocation.selected,
            "structured": allocation.structured,
            "layers": [{"name": n, "kind": shown[n], "parameters": costs[n]} for n in _in_order(backbone, costs)],
        }
        return Plan(_indices(allocation, scores), facts)

    def _allocate(self, backbone: Backbone, scores: Mapping[str, Tensor], budget: int, fixed: int) -> Allocation:
        """With the official 79 steps; with more where modules take so many entries that these do not reach the budget
        (our reading: published budgets are reached on a ViT).
        """
        step, every = self.step or max(1, budget // 20), sum(s.numel() for s in scores.values())
        steps = 79
        while True:
            allocation = allocate(
                scores,
                budget,
                structured=self.kind,
                beta=self.beta,
                fixed=fixed,
                rule=self.rule,
                step=step,
                steps=steps,
                plain=[n for n in scores if not self._takes_module(backbone, n)],
                **self._structure(),
            )
            reached = allocation.trainable >= budget - step
            if reached or allocation.selected < step * steps or step * steps >= every:
                return allocation
            steps *= 3

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        if not plan.facts:
            raise UserError(
                f"what SPT trains is decided by a look at the data: about {self.amount(backbone):,} parameters; a run "
                f"says exactly."
            )
        for parameter in _fixed(backbone).values():
            parameter.requires_grad = True
        structured: dict[str, list[int]] = {}
        for name in plan.facts["structured"]:
            whole, _, third = name.partition("[")
            structured.setdefault(whole, []).append("qkv".index(third[0]) if third else -1)
        parts: dict[str, dict[str, nn.Module]] = {}
        for name, parameter in backbone.net.named_parameters():
            owner, _, last = name.rpartition(".")
            if name in plan.tensors:
                indices = plan.tensors[name]
                # Where every parameter of a batch-norm trained by itself, its statistics would move.
                norm = isinstance(backbone.net.get_submodule(owner), _NormBase)
                if len(indices) == parameter.numel() and not norm:
                    parameter.requires_grad = True
                else:
                    parts.setdefault(owner, {})[f"sparse_{last}"] = Sparse(indices, parameter)
            if name in structured:
                blocks = structured[name]
                which = ((0,), 1) if blocks == [-1] else (tuple(sorted(blocks)), 3)
                key, part = self._module(name, parameter, *which)
                parts.setdefault(owner, {})[key] = part
        for owner, made in parts.items():
            add_parts(backbone.net.get_submodule(owner), made, owner in backbone.facts.called, owner)

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for module in list(backbone.modules()):
            merge_parts(module)

    def _structure(self) -> dict[str, Any]:
        return {}

    def _takes_module(self, backbone: Backbone, name: str) -> bool:
        return False

    @abstractmethod
    def _module(self, name: str, weight: Tensor, blocks: tuple[int, ...], of: int) -> tuple[str, nn.Module]:
        """The key and the module of a chosen layer; never asked for where entries alone are tuned."""


@dataclass(frozen=True)
class StructuredSPT(SPT):
    """A matrix with at least P / alpha sensitive entries gets a module of P parameters, of the given rank.

    `dropout` is that of a module's input (none after an attention's projection), `drop_path` of its output.

    Equation: where a matrix has many sensitive entries, a module of the given rank beside it; elsewhere W + ΔW with
        ΔW sparse.
    """

    branched: ClassVar[bool] = True

    rank: Positive = 8
    alpha: AboveZero = 10.0
    dropout: Share = 0.1
    drop_path: Share = 0.1

    def check(self, backbone: Backbone) -> None:
        for key in ("rank", "alpha"):
            if getattr(self, key) <= 0:
                raise UserError(f"method.{key}={getattr(self, key)}: expected a number above 0.")
        for key in ("dropout", "drop_path"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"method.{key}={getattr(self, key)}: expected at least 0 and below 1.")
        super().check(backbone)

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        """The modules of the plan. Its single entries and whole vectors are no branches: layers that have only these
        compute without noise, and where the plan has no module at all there are none.
        """
        parts = (part_of(module, name) for name, module in backbone.net.named_modules())
        return [part for part in parts if part is not None]

    def _structure(self) -> dict[str, Any]:
        return {"rank": self.rank, "alpha": self.alpha}

    def _takes_module(self, backbone: Backbone, name: str) -> bool:
        owner, _, last = name.rpartition(".")
        module = backbone.net.get_submodule(owner)
        if last != "weight" or not isinstance(module, nn.Linear | nn.Conv2d):
            return False
        # An adapter stands behind a layer that is called; a low-rank update also fits a weight that is only read.
        return self.kind == "lora" or (owner in backbone.facts.called and forward_of(module) is not None)

    def _module(self, name: str, weight: Tensor, blocks: tuple[int, ...], of: int) -> tuple[str, nn.Module]:
        dropout = 0.0 if name.endswith("attn.proj.weight") else self.dropout
        if self.kind == "adapter":
            return self.kind, Adapter(weight, self.rank, blocks, of, dropout, self.drop_path)
        form = Form(self.rank, blocks=blocks, of=of, dropout=dropout, drop_path=self.drop_path)
        return self.kind, Factors(weight, form)


def _candidates(backbone: Backbone) -> dict[str, nn.Parameter]:
    """What may be chosen, by its name in the net: all but the class token, patch and position embeddings.

    The official code leaves out the task's head by its name as well; in our backbones nothing called head is one.
    """
    return {
        n: p
        for n, p in backbone.net.named_parameters()
        if not any(word in n for word in (*_FROZEN, "cls_token")) and p.is_floating_point()
    }


def _fixed(backbone: Backbone) -> dict[str, nn.Parameter]:
    """What trains in any case: class tokens."""
    return {n: p for n, p in backbone.net.named_parameters() if "cls_token" in n}


def _indices(allocation: Allocation, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensor name -> int32 indices into it, flattened; a vector that trains whole has all of its indices."""
    masks: dict[str, Tensor] = {}
    whole = set(allocation.full)
    pieces = thirds(scores)
    for name in (*allocation.sparse, *allocation.full):
        tensor, _, third = name.partition("[")
        rows = len(scores[tensor]) // 3 if third else 0
        mask = masks.setdefault(tensor, torch.zeros(scores[tensor].shape, dtype=torch.bool))
        part = mask[rows * "qkv".index(third[0]) :][:rows] if third else mask
        part.copy_(torch.ones(pieces[name].shape, dtype=torch.bool) if name in whole else allocation.sparse[name])
    return {n: m.flatten().nonzero()[:, 0].int() for n, m in masks.items()}


def _kinds(allocation: Allocation, structured: str) -> dict[str, str]:
    return {
        **dict.fromkeys(allocation.sparse, "sparse"),
        **dict.fromkeys(allocation.structured, structured),
        **dict.fromkeys(allocation.full, "whole"),
    }


def _in_order(backbone: Backbone, names: Iterable[str]) -> list[str]:
    """As they stand in the backbone, so that what is near is near."""
    place = {n: i for i, (n, _) in enumerate(backbone.net.named_parameters())}
    return sorted(names, key=lambda n: (place[n.partition("[")[0]], "qkv".find(n[-2:-1]) if n.endswith("]") else 0))
