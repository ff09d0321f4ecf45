"""What a checkpoint holds, field by field: an edited file has sound checksums too, and must end in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from peftbench import optim
from peftbench.training.forms import (
    Form,
    Misfit,
    each,
    either,
    equal,
    fields,
    finite,
    flag,
    kind,
    like,
    listed,
    nothing,
    number,
    pair,
    tensor,
    text,
    whole,
)
from peftbench.training.gradient_watch import GradientWatch
from peftbench.training.joint import JointFit
from peftbench.training.keeping import best_epoch
from peftbench.training.module import Fit

_VERSION = kind("a version", lambda v: isinstance(v, str) and re.fullmatch(r"\d+(\.\w+)+([+.-]\w+)*", v) is not None)
_ROW = fields({"epoch": whole, "step": whole, "train_loss": number, "lr": number, "train_seconds": number}, {}, number)
_MEASURED = fields(
    {"step": fields({"median": finite, "p95": finite, "steps": whole}), "peak": each(str, either(flag, whole, text))},
    {"saved": either(nothing, whole)},
)
_HEADER = fields({"id": text}, others=kind("anything", lambda v: True))


def run_of(checkpoint: Any) -> str:
    """The id of the run that a checkpoint belongs to. Raises Misfit where it is none of peftbench."""
    fields({"peftbench": _HEADER}, others=kind("anything", lambda v: True))(checkpoint, "")
    return str(checkpoint["peftbench"]["id"])


def refuse_misfits(checkpoint: Any, module: Fit, trainer: Trainer) -> None:
    """Raises Misfit where a field is missing, is of another type, or does not fit the run that would resume from it."""
    state = {name: tensor(t.shape, t.dtype) for name, t in module.state_dict().items()}
    plugin = type(trainer.precision_plugin).__qualname__
    form = fields(
        {
            "epoch": whole,
            "global_step": whole,
            "pytorch-lightning_version": _VERSION,
            "state_dict": fields({}, state),
            "loops": like(_loops(trainer)),
            "callbacks": fields({}, {GradientWatch.__qualname__: _gradients(module)}),  # 0.1 kept nothing there
            "optimizer_states": listed(_optimizer(module), 1),
            "lr_schedulers": listed(_schedule, 1),
            "peftbench": _ours(module),
        },
        {plugin: each(str, finite)},
    )
    form(checkpoint, "")
    groups = len(checkpoint["optimizer_states"][0]["param_groups"])
    schedule = checkpoint["lr_schedulers"][0]
    for name in ("base_lrs", "_last_lr", "lr_lambdas"):
        if len(schedule[name]) != groups:
            raise Misfit(f"lr_schedulers.0.{name}", schedule[name], f"one for each of {groups} groups")
    _check_place(checkpoint, module)


def _loops(trainer: Trainer) -> dict[str, Any]:
    names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    return {name: getattr(trainer, name).state_dict() for name in names}


def _ours(module: Fit) -> Form:
    needed = {
        "id": equal(module.run_id),
        "place": listed(whole, 2),
        "history": listed(_ROW),
        "elapsed": fields({"train": finite, "validate": finite}),
        "sessions": whole,
        "measured": either(fields({}), _MEASURED),
        "train_loss": tensor(module.train_loss.shape, torch.float32),
    }
    if isinstance(module, JointFit):
        runs = len(module.configs)
        needed |= {"histories": listed(listed(_ROW), runs), "failed": listed(text, runs)}
    moving = fields({name: tensor(t.shape, t.dtype) for name, t in module.moving().items()})
    if module.keeper.keeps:
        needed["kept"] = either(fields({}), moving)
    if module.average.decay is not None:
        needed["average"] = fields({"steps": whole, "tensors": moving})
    if module.budget.seconds is not None:
        needed["spent"] = finite
    energy = fields({}, {"measure": text, "train": finite})  # older checkpoints have none
    return fields(needed, {"unvalidated": flag, "energy": energy})


def _gradients(module: Fit) -> Form:
    parameters = dict(module.model.named_parameters())
    ours = kind("the name of a parameter", lambda v: isinstance(v, str) and v in parameters)
    return fields({"steps": whole, "idle": listed(ours)})


def _schedule(value: Any, place: str) -> None:
    fields(
        {
            "base_lrs": listed(finite),
            "last_epoch": whole,
            "_step_count": whole,
            "_last_lr": listed(finite),
            "lr_lambdas": listed(nothing),
        },
        {"_is_initial": flag, "_get_lr_called_within_step": flag, "verbose": flag},
    )(value, place)


def _optimizer(module: Fit) -> Form:
    """The one optimizer: its groups as this run builds them, and for each parameter what its kind keeps."""
    if isinstance(module, JointFit):
        configs, named = module.configs, [m.trainable() for m in module.model.models]
    else:
        configs, named = [module.config], [module.model.trainable()]
    cls, groups = optim.layout([c.optimizer for c in configs], named, module.factors)
    sharded = module.config.trainer.strategy == "fsdp"  # there they are numbered among all of the module's
    ordered = list(module.parameters()) if sharded else [p for group in groups for _, p in group["params"]]
    entry = fields({}, {"name": either(nothing, text), "anchor": text}, tensor())
    anchored = fields({"kind": text, "tensors": each(int, entry)})

    theirs = cls is torch.optim.Optimizer

    def check(value: Any, place: str) -> None:
        around = isinstance(value, Mapping) and "anchored" in value
        free = module.method.own_optimizer and not around  # which optimizer a method builds is its own affair
        states = _any_states(ordered) if theirs else _states(ordered, cls, free)
        settings = _any_groups if free or sharded or theirs else _groups(cls, groups)
        fields({"state": states, "param_groups": settings}, {"anchored": anchored})(value, place)

    return check


def _states(ordered: Sequence[Tensor], cls: Any, free: bool) -> Form:
    def check(value: Any, place: str) -> None:
        each(int, each(str, either(nothing, finite, flag, tensor())))(value, place)
        for key, kept in value.items():
            if not 0 <= key < len(ordered):
                raise Misfit(f"{place}.{key}", kept, f"the state of one of {len(ordered)} tensors")
            _state_of(ordered[key], cls, free)(kept, f"{place}.{key}")

    return check


def _any_states(ordered: Sequence[Tensor]) -> Form:
    """Of one of timm's optimizers, which may keep rows and columns, or numbers."""

    def check(value: Any, place: str) -> None:
        kept = either(nothing, flag, finite, text, tensor())
        each(int, each(str, kept))(value, place)
        for key in value:
            if not 0 <= key < len(ordered):
                raise Misfit(f"{place}.{key}", value[key], f"the state of one of {len(ordered)} tensors")

    return check


def _any_groups(value: Any, place: str) -> None:
    names = listed(either(whole, text))
    a_type = kind("a type of numbers", lambda v: isinstance(v, torch.dtype))
    setting = either(nothing, flag, finite, text, listed(finite), a_type, tensor(()), names)
    listed(fields({"params": names, "lr": finite, "initial_lr": finite}, {}, setting))(value, place)


def _groups(cls: Any, groups: Sequence[Mapping[str, Any]]) -> Form:
    def check(value: Any, place: str) -> None:
        listed(each(str, kind("anything", lambda v: True)), len(groups))(value, place)
        first = 0
        for i, (group, kept) in enumerate(zip(groups, value, strict=True)):
            _group(cls, group, first)(kept, f"{place}.{i}")
            first += len(group["params"])

    return check


def _state_of(parameter: Tensor, cls: Any, free: bool) -> Form:
    same = tensor(parameter.shape, parameter.dtype)
    count = tensor((), torch.float32)
    if free:  # it may be another optimizer, which keeps what this one does for each tensor, or one number
        return each(str, either(nothing, finite, flag, tensor(()), tensor((1,)), same))
    if cls is torch.optim.AdamW:
        return fields({"step": count, "exp_avg": same, "exp_avg_sq": same})
    return fields({}, {"momentum_buffer": either(nothing, same)})


def _group(cls: Any, group: Mapping[str, Any], first: int) -> Form:
    """A group of parameters whose first is number `first`: settings as this run has them, but for the rates."""
    count = len(group["params"])
    numbers = {**cls([torch.zeros(1, requires_grad=True)]).defaults, **group}
    for name in ("params", "lr", "fused"):
        numbers.pop(name, None)
    known = {name: pair if isinstance(v, list | tuple) else _setting(v) for name, v in numbers.items()}
    names = listed(text, count)

    def places(value: Any, place: str) -> None:
        listed(either(whole, text), count)(value, place)
        if any(isinstance(v, int) and v != first + i for i, v in enumerate(value)):
            raise Misfit(place, value, f"the numbers from {first} to {first + count - 1}")

    rates = {"lr": finite, "initial_lr": finite, "params": places}
    return fields(rates, {**known, "param_names": names, "fused": either(nothing, flag)})


def _setting(value: Any) -> Form:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return kind(f"{value}", lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == value)
    return equal(value)


def _check_place(checkpoint: Mapping[str, Any], module: Fit) -> None:
    """The epochs done are counted in three places, and the steps of this epoch in two; all must say the same."""
    kept, fit_loop = checkpoint["peftbench"], checkpoint["loops"]["fit_loop"]
    epoch, batch = kept["place"]
    rows = {"history": kept["history"]} | {f"histories.{i}": h for i, h in enumerate(kept.get("histories", ()))}
    for name, history in rows.items():
        if len(history) != epoch:
            raise Misfit(f"peftbench.{name}", history, f"a row for each of {epoch} epochs")
    done, begun = fit_loop["epoch_progress"]["current"]["processed"], fit_loop["epoch_loop.batch_progress"]["current"]
    if done != epoch or epoch > module.config.trainer.epochs:
        raise Misfit("loops.fit_loop.epoch_progress.current.processed", done, f"the {epoch} epochs of its place")
    if module.keeper.keeps and not kept["kept"] and best_epoch(kept["history"], module.keeper.metric):
        raise Misfit("peftbench.kept", kept["kept"], "the weights of the best epoch")
    if batch and begun["ready"] != batch:
        raise Misfit("loops.fit_loop.epoch_loop.batch_progress.current.ready", begun["ready"], f"the place, {batch}")
