"""The configured optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from peftbench import config
from peftbench.common.errors import Refusal, nearest
from peftbench.optim.ftp import FTP
from peftbench.optim.spd import SPD
from peftbench.optim.timm_optimizers import has_fallback, timm_optimizer

Factors = Mapping[str, float]
"""Name of a parameter -> what its learning rate is multiplied with; 1 for those that are not named."""

Place = Callable[[int, int], float]
"""From the steps done, and those of the whole training, to where the schedule is, in steps: time may be further."""


def optimizer(
    spec: config.Optimizer,
    named: Sequence[tuple[str, nn.Parameter]],
    anchors: Mapping[str, Tensor] | None = None,
    fused: bool = False,
    factors: Factors = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """AdamW, SGD or one of timm's over named parameters, under FTP or SPD where the spec says so.

    Vectors and scalars (biases, norms, class tokens) are not decayed, unless `decay_norms` says so.

    Args:
        spec: its kind, rates and options.
        named: (name, parameter) of everything that trains.
        anchors: name -> value, of FTP and SPD; None takes the values that the parameters have now.
        fused: step in one kernel, several times faster on many small tensors.
        factors: see `Factors`.

    Raises:
        Refusal: an exclusion that matches no name.
        UserError: an option that timm's optimizer does not take.
    """
    if spec.library == "timm":
        return timm_optimizer(spec, _groups(spec, named, factors))
    plain = _over(spec, _groups(spec, named, factors), fused)
    if not spec.anchored:
        return plain
    exclude = matching(spec.exclude, [n for n, _ in named], "optimizer.exclude")
    starts = None if anchors is None else {n: anchors[n] for n, _ in named}
    if spec.name == "spd":
        return SPD(plain, anchors=starts, exclude=exclude, strength=spec.strength)
    return FTP(plain, anchors=starts, exclude=exclude, kappa=spec.kappa, gamma_lr=spec.gamma_lr, norm=spec.norm)


def joint_optimizer(
    specs: Sequence[config.Optimizer],
    named: Sequence[Sequence[tuple[str, nn.Parameter]]],
    factors: Sequence[Factors],
    steps: int,
    fused: bool,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """One optimizer, and its schedule, that steps several runs' parameters as each run's own would.

    Args:
        specs: of each run; of the same kind of optimizer, AdamW or SGD, everything else may differ.
        named: (name, parameter) of each run.
        factors: of each run.
        steps: of the whole training, in batches.
        fused: as in `optimizer`.
    """
    groups_of_runs = [_groups(*run) for run in zip(specs, named, factors, strict=True)]
    inner = _over(specs[0], [group for groups in groups_of_runs for group in groups], fused)
    schedules = [_factor(s, steps) for s, groups in zip(specs, groups_of_runs, strict=True) for _ in groups]
    return inner, torch.optim.lr_scheduler.LambdaLR(inner, schedules)


def layout(
    specs: Sequence[config.Optimizer],
    named: Sequence[Sequence[tuple[str, nn.Parameter]]],
    factors: Sequence[Factors],
) -> tuple[type[torch.optim.Optimizer], list[dict[str, Any]]]:
    """The class of the optimizer that `optimizer` and `joint_optimizer` build, and its groups with their settings.

    Of one of timm's the class is `Optimizer` itself: what it keeps is its own affair.

    Args:
        specs: of one run, or of each of several.
        named: (name, parameter) of each run; the groups list them as their `params`.
        factors: of each run.
    """
    groups = [group for run in zip(specs, named, factors, strict=True) for group in _groups(*run)]
    if specs[0].library == "timm":
        return torch.optim.Optimizer, groups
    return _kind(specs[0]), groups


def matching(patterns: Sequence[str], names: Sequence[str], key: str) -> list[str]:
    """The names that any pattern matches.

    Args:
        patterns: a shell's.
        names: of the trained tensors.
        key: the config key that holds the patterns, for the message.

    Raises:
        Refusal: a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise Refusal(
                f"{key}={list(patterns)}: '{pattern}' matches no trained tensor{nearest(pattern, names)}; there are "
                f"{', '.join(names[:3])}, …"
            )
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)]


def scheduled_rate(spec: config.Optimizer, group: Mapping[str, Any]) -> float:
    """The learning rate of now without factors, as a group of an optimizer that is scheduled tells it."""
    begun = group.get("initial_lr", spec.lr)
    return float(group["lr"] if begun == spec.lr else spec.lr * (group["lr"] / begun))


def _groups(
    spec: config.Optimizer, named: Sequence[tuple[str, nn.Parameter]], factors: Factors
) -> list[dict[str, Any]]:
    """First what is decayed, then what is not; each parted by factors, in the order in which these first come.

    Muon and its kin leave the task's parameters to their AdamW, as their author does with heads; of the backbone they
    find vectors, embeddings of places and depthwise convolutions themselves.
    """
    if spec.library == "timm" and has_fallback(spec):
        head = [one for one in named if one[0].startswith("task.")]
        rest = [one for one in named if not one[0].startswith("task.")]
        own = [{**group, "use_fallback": True} for group in _plain_groups(spec, head, factors)]
        return [*_plain_groups(spec, rest, factors), *own]
    return _plain_groups(spec, named, factors)


def _plain_groups(
    spec: config.Optimizer, named: Sequence[tuple[str, nn.Parameter]], factors: Factors
) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {}
    if spec.library == "timm":
        pass  # its own settings are the same in all groups
    elif _stochastic(spec):
        settings["momentum"] = 0.9 if spec.momentum is None else spec.momentum
        settings["nesterov"] = bool(settings["momentum"]) if spec.nesterov is None else spec.nesterov
    else:
        settings["betas"] = tuple(spec.betas or (0.9, 0.999))
    groups = []
    for decayed in (True, False):
        members: dict[float, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in named:
            if (spec.decay_norms or parameter.squeeze().ndim > 1) == decayed:
                members.setdefault(factors.get(name, 1.0), []).append((name, parameter))
        decay = spec.weight_decay if decayed else 0.0
        groups += [
            {"params": own, "weight_decay": decay, "lr": spec.lr * factor, **settings}
            for factor, own in members.items()
        ]
    return groups


def _over(spec: config.Optimizer, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    kind: Any = _kind(spec)
    return kind(groups, fused=fused)


def _kind(spec: config.Optimizer) -> type[torch.optim.Optimizer]:
    return torch.optim.SGD if _stochastic(spec) else torch.optim.AdamW


def _stochastic(spec: config.Optimizer) -> bool:
    """Whether it is SGD that steps, by itself or under FTP or SPD; else AdamW."""
    return (spec.inner or spec.name) == "sgd"


def schedule(
    spec: config.Optimizer, optimizer: torch.optim.Optimizer, steps: int, place: Place | None = None
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup` of the steps, then cosine down to `min_lr`, or constant.

    Args:
        spec: its rates and schedule.
        optimizer: whose rates are scheduled.
        steps: of the whole training, in batches; the schedule is stepped after each.
        place: see `Place`; None is that of the steps.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, _factor(spec, steps, place))


def _factor(spec: config.Optimizer, steps: int, place: Place | None = None) -> Callable[[int], float]:
    warm = round(spec.warmup * steps)
    floor = min(spec.min_lr / spec.lr, 1.0)

    def factor(done: int) -> float:
        step = done if place is None else place(done, steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if spec.schedule == "constant":
            return 1.0
        progress = min((step - warm) / max(steps - warm, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor
