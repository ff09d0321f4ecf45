"""Whether a method, a backbone, a task and data go together: answered on the meta device, before data or weights."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch
from torch import nn

from peftbench import backbones, optim
from peftbench.common.amounts import plural
from peftbench.common.errors import Refusal, UserError
from peftbench.config import Config
from peftbench.methods.base import Method, Plan
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.first_phase import head_method
from peftbench.runs.solved_heads import refuse_solving
from peftbench.runs.warm_start import read_start
from peftbench.tasks.base import task_class


def refuse_incompatible(config: Config, method: Method) -> backbones.Backbone:
    """As `refuse_combination`, where nobody has read the run that `start` names: it is read, too. Raises UserError."""
    read_start(config)
    return refuse_combination(config, method)


def refuse_combination(config: Config, method: Method) -> backbones.Backbone:
    """Whether this method can adapt this backbone, on the meta device; returns the backbone there. Raises Refusal."""
    if config.backbone.stream and not method.side:
        raise Refusal(
            f"backbone.stream=true: method={config.method.name} changes the backbone's weights, which are read anew "
            f"for every batch; take a side method such as linear, or give backbone.stream=false."
        )
    if config.backbone.quantize is not None and not (method.side or method.keeps_weights):
        raise Refusal(
            f"backbone.quantize={config.backbone.quantize}: method={config.method.name} trains weights of the "
            f"backbone, or looks at their gradients, and weights in few bits stay as they are; take a side method, "
            f"lora, petah or bitfit, or leave it out."
        )
    if config.taps.dtype is not None and not (method.side or method.prefix):
        raise Refusal(
            f"taps.dtype={config.taps.dtype}: method={config.method.name} changes the backbone, so that there are no "
            f"taps to keep; leave it out, or take a side method such as losa."
        )
    if method.solves:
        refuse_solving(config, method)
    backbone = starting_backbone.build_on_meta(config, method)
    if (wanted := task_class(config.task).input_size(config)) and wanted != backbone.facts.input_size:
        raise Refusal(
            f"data.size={config.data.size}: {backbone.facts.name} takes {backbone.facts.input_size} pixels; "
            f"give data.size={backbone.facts.input_size}."
        )
    method.check(backbone)
    if config.optimizer.library == "timm":
        optim.refuse_timm_optimizer(config.optimizer)
    name = config.method.name
    if method.pools and not task_class(config.task).takes_features:
        raise Refusal(
            f"method={name}: pools the features itself, to one vector an image, and task={config.task.name} needs the "
            f"backbone's feature maps; take linear, losa, cst or lst, which leave it these."
        )
    if method.of_pooling and not task_class(config.task).takes_features:
        raise Refusal(
            f"{method.of_pooling}: is of pooled features, and task={config.task.name} needs the backbone's feature "
            f"maps; leave it out."
        )
    task_class(config.task).refuse(config, method.fixed_size, backbone)
    if config.optimizer.layer_decay is not None and method.side:
        raise Refusal(
            f"optimizer.layer_decay={config.optimizer.layer_decay}: method={name} trains no layer of the backbone, so "
            f"that there is no rate to scale by depth; leave it out (optimizer.head_lr scales the head's rate)."
        )
    _refuse_ways_of_computing(config, method, backbone)
    if method.needs_consistency and not config.trainer.consistency:
        raise Refusal(
            f"trainer.consistency=0: without it method={name} is another method, LoRA; give a number above 0, such as "
            f"trainer.consistency=0.1, or take method=lora."
        )
    if config.trainer.consistency:
        _refuse_consistency(config, method, backbone)
    if method.own_optimizer and config.optimizer.anchored:
        given = f"optimizer={config.optimizer.name}"
        raise UserError(f"{given}: method={name} has an optimizer of its own; leave {given} out.")
    if config.trainer.head_from is not None:
        _refuse_starting_head(config, method)
    elif method.phased:
        _refuse_phases(config, method, backbone)
    if (method.own_optimizer or method.finishes or method.anchored) and config.trainer.strategy == "fsdp":
        raise Refusal(f"method={name}: needs whole tensors, which trainer=fsdp has not; use trainer=ddp.")
    if method.plans and config.trainer.strategy == "fsdp":
        raise Refusal(
            f"method={name}: what its plan says is of whole tensors, which trainer=fsdp has not; use trainer=ddp."
        )
    return backbone


def _refuse_phases(config: Config, method: Method, backbone: backbones.Backbone) -> None:
    phase, name = method.first_phase(), config.method.name
    if method.side or not phase.method.side or phase.method.pools or phase.epochs < 1 or not phase.lr > 0:
        raise UserError(
            f"{type(method).__name__}.first_phase(): expected a side method before one that changes the backbone, one "
            f"that gives taps, at least 1 epoch, and a rate above 0."
        )
    if config.trainer.strategy == "fsdp":
        raise Refusal(
            f"method={name}: its second phase begins from whole tensors, which trainer=fsdp has not; use trainer=ddp."
        )
    phase.method.check(backbone)


def _refuse_starting_head(config: Config, method: Method) -> None:
    """Raises Refusal where nothing begins from a head that another method works out, or the task has no such head."""
    word, task = f"trainer.head_from={config.trainer.head_from}", task_class(config.task)
    if method.side:
        raise Refusal(
            f"{word}: is for methods that change the backbone, and method={config.method.name} stands beside it; "
            f"leave it out."
        )
    giving = head_method(config)
    if task.solved_as not in giving.solves_for:
        able = " or ".join(giving.solves_for)
        instead = "trainer.head_from=ridge" if task.solved_as else "method=lp_ft, which trains one first,"
        raise Refusal(f"{word}: works heads out for {able}; with task={config.task.name} {instead} works.")
    if not isinstance(giving.head(nn.Linear(1, 2, device="meta"), 2), nn.Linear):
        raise Refusal(f"{word}: its head is no linear layer, which could train further; take logreg or ridge.")


def _refuse_consistency(config: Config, method: Method, backbone: backbones.Backbone) -> None:
    """Raises Refusal where there are no branches for noise, or no outputs to compare."""
    trainer, name = config.trainer, config.method.name
    key = f"trainer.consistency={trainer.consistency}"
    if method.side:
        raise Refusal(
            f"{key}: method={name} stands beside the frozen backbone and adds nothing to a layer of it that noise "
            f"could scale; take method=lora or adapter, or leave it out."
        )
    if not method.branched:
        raise Refusal(
            f"{key}: method={name} adds nothing beside a layer that noise could scale; take method=lora or adapter, "
            f"or leave it out."
        )
    task = task_class(config.task)
    if not (task.predicts_tensor and task.takes_features):
        raise Refusal(
            f"{key}: compares two predictions for an image, number by number, and task={config.task.name} has none "
            f"such; leave it out."
        )
    for way in ("grad_checkpointing", "compile"):
        if getattr(trainer, way):
            raise Refusal(
                f"{key}: what trainer.{way}=true computes again, or has compiled, would be without noise; leave one of "
                f"them out."
            )
    if trainer.strategy == "fsdp":
        raise Refusal(f"{key}: computes with whole layers in two parts, which trainer=fsdp has not; use trainer=ddp.")
    adapted = copy.deepcopy(backbone)
    with torch.device("meta"), suppress(UserError):  # where a look at the data decides, `Consistency` asks again
        method.adapt(adapted, Plan())
    method.branches(adapted)


def _refuse_ways_of_computing(config: Config, method: Method, backbone: backbones.Backbone) -> None:
    """Raises Refusal where checkpointing, or compiling, of the backbone does nothing or is not to be had."""
    trainer, name = config.trainer, config.method.name
    if method.prefix == "all":
        whole = {
            backbones.CHECKPOINTING: trainer.grad_checkpointing,
            "trainer.compile=true": trainer.compile,
            "trainer=fsdp": trainer.strategy == "fsdp",
        }
        if asked := next((key for key, given in whole.items() if given), ""):
            raise Refusal(
                f"{asked}: method={name} hands on what it reads of a block to the blocks behind it, which must run "
                f"once and whole; leave it out."
            )
    if trainer.grad_checkpointing:
        if method.side:
            raise Refusal(
                f"{backbones.CHECKPOINTING}: method={name} sends no gradient through the backbone, so that nothing of "
                f"its blocks is kept for backward; leave it out."
            )
        backbones.checkpoint_blocks(copy.deepcopy(backbone))
    if trainer.compile and method.side:
        raise Refusal(
            f"trainer.compile=true: compiles the backbone's blocks for training, and method={name} trains beside them; "
            f"leave it out."
        )


def choose_ways_of_computing(config: Config, model: Model) -> None:
    """Has an adapted model compute as the config says: which of it is kept for backward, and in which layout."""
    if config.trainer.grad_checkpointing:
        backbones.checkpoint_blocks(model.backbone)
    model.channels_last = config.trainer.channels_last


def refuse_other_frames(config: Config) -> None:
    """Raises UserError where a method mixes so many frames and a clip has another number."""
    frames, clip = config.method.options.get("frames"), config.data.options.get("frames")
    if frames is not None and frames != clip:
        items = "are images" if clip is None else f"are clips of {plural(clip, 'frame')}"
        raise UserError(f"method.frames={frames}: the items of data={config.data.name} {items}; leave it out.")
