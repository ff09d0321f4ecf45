"""Optimizers by the names that timm's factory knows: lion, muon, adan, lamb and about eighty more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.optim._optim_factory import default_registry
from torch import nn

from peftbench import config
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.common.foreign_text import first_sentence

_OURS = ("params", "lr", "weight_decay")
_INSTEAD = "take another, such as optimizer.name=lion"


def refuse_timm_optimizer(spec: config.Optimizer) -> None:
    """Asks timm for the optimizer, over a tensor of no use.

    Raises:
        UserError: there is none of that name, or it does not take its options, or needs what is not here.
        Refusal: it cannot train here: it differentiates twice, or its state is not its tensors' alone, which no
            checkpoint of a run would hold.
    """
    names, name = list(map(str, list_optimizers())), spec.name
    if name not in names:
        known = "expected one that timm knows, such as lion, muon, adan or lamb"
        raise UserError(f"optimizer.name={name}: {known}{nearest(name, names)}.")
    for key in _OURS:
        if key in spec.args:
            better = "leave it out" if key == "params" else f"give optimizer.{key}"
            raise UserError(f"optimizer.args.{key}={spec.args[key]}: is no option of its own; {better}.")
    if default_registry.get_optimizer_info(name).second_order:
        raise Refusal(f"optimizer.name={name}: differentiates the gradient, which no run keeps for it; {_INSTEAD}.")
    built = timm_optimizer(spec, [{"params": [("weight", nn.Parameter(torch.zeros(4, 4)))]}])
    if more := sorted(built.state_dict().keys() - {"state", "param_groups"}):
        raise Refusal(f"optimizer.name={name}: keeps {more[0]}, with which no run could resume; {_INSTEAD}.")


def timm_optimizer(spec: config.Optimizer, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer over groups of (name, parameter).

    Raises:
        UserError: it does not take its options, or needs a library or a device that is not here.
    """
    args: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.args.items()}
    try:
        return create_optimizer_v2([dict(g) for g in groups], spec.name, lr=spec.lr, weight_decay=0.0, **args)
    except Exception as problem:  # each class checks its options in its own way, some with assertions
        why = first_sentence(problem)
        given = f" optimizer.args={spec.args}" if spec.args else ""
        raise UserError(f"optimizer.name={spec.name}{given}: timm cannot build it ({why.rstrip('.')}).") from None


def has_fallback(spec: config.Optimizer) -> bool:
    """Whether the optimizer treats matrices in a way of its own, and has AdamW for all else, as Muon does."""
    built = timm_optimizer(spec, [{"params": [("weight", nn.Parameter(torch.zeros(4, 4)))]}])
    return "fallback_lr_scale" in built.defaults
