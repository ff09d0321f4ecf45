"""What a run would do, without weights: layer by layer, in parameters, memory and arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftbench import backbones, costs, optim
from peftbench.backbones import Backbone
from peftbench.backbones.coded_weights import plain_parameters
from peftbench.backbones.layers import layers
from peftbench.common.amounts import plural
from peftbench.common.amounts import size as size_in_words
from peftbench.common.gpus import torch_build
from peftbench.common.precisions import HALF
from peftbench.config import Config
from peftbench.costs.simulated import Step, simulate_flops, simulate_step
from peftbench.data.base import Splits
from peftbench.methods.base import Method, Plan, unfreeze
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.arithmetic import settled_arithmetic
from peftbench.runs.build import instantiate, transform_of
from peftbench.runs.compatibility import choose_ways_of_computing, refuse_incompatible
from peftbench.runs.data_sets import Outlined, outline_data
from peftbench.runs.frozen_prefix import choose_prefix
from peftbench.runs.planned_taps import PlannedTaps, plan_taps
from peftbench.runs.probe import Probe, probe_run
from peftbench.runs.solved_heads import settled_for_solving
from peftbench.tasks.base import task_class
from peftbench.training.micro_batches import sizes_of_parts

if TYPE_CHECKING:
    from peftbench.runs.memory_ways import Way


@dataclass(frozen=True)
class Row:
    """One layer. Parameters: `base` of the backbone as it is, `pruned` of these taken out or set to zero, `trained`
    of what is left, `added` by the method. `merges`: what is added is folded into the layer in the end.
    """

    name: str
    kind: str
    base: int = 0
    pruned: int = 0
    trained: int = 0
    added: int = 0
    merges: bool = False
    skipped: str = ""


@dataclass(frozen=True)
class Planned:
    """What a run would train and what a step of it would take.

    Attributes:
        rows: every layer of the backbone with parameters, then what stands beside it.
        parameters: as in a record: `method`, `head`, `backbone` and shares.
        step: of the run, without kept taps; None where what a step needs depends on the images.
        full: arithmetic of a step of full fine-tuning of the same backbone, which `relative_time` is against.
        weights: bytes of the model, which a step's memory comes on top of; of a streamed backbone they lie in its file.
        taps: what a side method keeps; None of a method that changes the backbone.
        probe: what two batches took here; None unless it was asked for.
        ways: what a step would take in ways that need less memory; empty unless they were asked for.
    """

    rows: tuple[Row, ...]
    parameters: Mapping[str, Any]
    step: Step | None
    full: int
    notes: tuple[str, ...] = field(default=())
    weights: int = 0
    taps: PlannedTaps | None = None
    probe: Probe | None = None
    ways: tuple[Way, ...] = ()

    @property
    def relative_time(self) -> float | None:
        return None if self.step is None else self.step.flops / self.full


def plan_run(config: Config, probe: bool = False, outlined: Outlined | None = None, latency: bool = False) -> Planned:
    """What `peftbench.run(config)` would do. Nothing is trained, no weights and no images are read.

    With `probe` the model is built with its weights, and a few steps on noise are timed, with `latency` a prediction
    for one image too. `outlined` is the run's data set where it has been looked at already.

    Raises:
        UserError: what the run would say of this config; a method that decides by looking at data what it trains.
    """
    method: Method = instantiate(config.method)
    config, _ = settled_arithmetic(settled_for_solving(config, method))
    backbone = refuse_incompatible(config, method)
    outlined = outlined or outline_data(config)
    splits, notes = outlined.splits, list(outlined.notes)
    task_class(config.task).refuse_classes(config.task, splits.classes)
    before = _plain(config, backbone)
    model, skipped = _model(config, method, splits, backbone)
    rows = _rows(config, method, model, skipped, before)
    parameters, masks = costs.parameters(model), model.backbone.masks
    batch = images_of_step(config, splits)
    weights = _bytes(model)
    taps = plan_taps(config, model, splits.roles(config.data.stage)[:2])
    taken, full = None, 0
    if method.solves:
        notes.append(
            f"memory and time: method={config.method.name} has no steps; it looks at each training image once, and its "
            f"head is worked out from at most 1 GB besides a chunk of features and the head itself"
        )
    elif model.task.blank_targets(1) is not None:
        taken = _simulated(config, splits, model, sizes_of_parts(batch, config.trainer.micro_batch))
        whole = _fully_tuned(config, splits, before)
        full = simulate_flops(whole, lambda: _batch(whole, splits, batch))
    else:
        notes.append(f"memory and time: not foretold, since {model.task.unforeseen}; a run measures them")
    if config.pruning.target is not None:
        notes.append(
            "pruning: how many channels and heads go is measured when it runs; until then the backbone is shown whole"
        )
    if masks and config.pruning.name == "none":
        notes.append(
            f"pruning: the weights given are pruned; their zeros are in the file, merging is {model.backbone.merging}"
        )
    elif masks:
        every = sum(m.numel() for m in masks.values())
        notes.append(
            f"pruning: {round(every * config.pruning.ratio):,} of {every:,} weights become zero; merging is "
            f"{model.backbone.merging}"
        )
    if config.trainer.head_from is not None:
        notes.append(
            f"first: the head is worked out (trainer.head_from={config.trainer.head_from}), from kept taps where they "
            f"can be kept; parameters, memory and time are of what comes after"
        )
    elif method.phased:
        phase = method.first_phase()
        notes.append(
            f"first: {plural(phase.epochs, 'epoch')} of a {phase.name} at rate {phase.lr:g}, from kept taps where they "
            f"can be kept; parameters, memory and time are of what comes after"
        )
    if config.optimizer.find_lr:
        notes.append("first: a few dozen steps that look for the learning rate; time is without them")
    if method.own_optimizer or config.optimizer.anchored:
        notes.append("memory: without the anchors and differences that its optimizer keeps")
    if config.optimizer.library == "timm":
        notes.append(
            f"memory: with the two moments of AdamW; what optimizer.name={config.optimizer.name} keeps may differ"
        )
    if config.trainer.ema is not None or config.trainer.keep == "best":
        notes.append("memory: without the copies that trainer.ema and trainer.keep=best keep of what trains")
    if taken is not None and taps is not None and taps.mode != "off":
        rest = "no backbone runs"
        if model.prefix is not None:
            rest = f"the backbone runs from behind {model.places_of_kept_taps[-1][0]} alone"
        notes.append(f"memory and time: of a step without kept taps; with them {rest}")
    if config.trainer.consistency:
        notes.append(f"memory and time: {_second_pass(config)}")
    if config.trainer.compile:
        notes.append("memory: of the plain model; compiled blocks (trainer.compile=true) keep other tensors")
    if config.backbone.stream:
        notes.append("weights: of the backbone in its file; a block at a time is in memory (backbone.stream=true)")
    if backbone.quantized:
        few, plain = backbones.bytes_of_weights(backbone)
        notes.append(
            f"weights: those of convolutions and linear layers are kept in {backbone.quantized}, {size_in_words(few)} "
            f"instead of {size_in_words(plain)} (backbone.quantize={backbone.quantized})"
        )
    if config.trainer.accelerator in ("auto", "gpu"):
        notes.append(torch_build())
    probed = None
    if probe and method.solves:
        notes.append("probe: nothing is timed, since there are no steps; a run measures what it takes")
    elif probe and taken is None:
        notes.append(f"probe: nothing is timed, since {model.task.unforeseen}; a run measures it")
    elif probe:
        probed = probe_run(config, method, splits, taps, latency)
        if latency:
            notes.append(
                "time: an estimate from one step and one prediction, as if all took as long; without reading images, "
                "start-up and checkpoints"
            )
        if probed.weights == "random" and config.backbone.pretrained:
            notes.append(
                f"probe: with random weights, which take as long, since those of {config.backbone.name} are not on "
                f"this machine"
            )
    return Planned(tuple(rows), parameters, taken, full, tuple(notes), weights, taps, probed)


def _second_pass(config: Config) -> str:
    """What `trainer.consistency` adds to a step that is simulated without it."""
    if (every := config.trainer.consistency_every) == 1:
        return "without the second pass of trainer.consistency, which takes as much again"
    return (
        f"of a step without noise; one of trainer.consistency_every={every} steps computes half of its batch twice, "
        f"which takes about as much"
    )


def plan_step(config: Config, splits: Splits, images: int | None = None, parts: int = 1) -> tuple[Step, int] | None:
    """A step of this run, and the bytes of its weights; None where there is none, or the images decide what it takes.

    `images` are those that are computed at a time, `parts` times for a step; by default as the config says.

    Raises:
        UserError: as `plan_run`.
    """
    method: Method = instantiate(config.method)
    model, _ = _model(config, method, splits, refuse_incompatible(config, method))
    if method.solves or model.task.blank_targets(1) is None:
        return None
    sizes = sizes_of_parts(images_of_step(config, splits), config.trainer.micro_batch)
    return _simulated(config, splits, model, sizes if images is None else [images] * parts), _bytes(model)


def images_of_step(config: Config, splits: Splits) -> int:
    """How many images a batch of this run has."""
    return min(config.data.batch_size, len(splits.roles(config.data.stage)[0]))


def _simulated(config: Config, splits: Splits, model: Model, sizes: Sequence[int]) -> Step:
    """A step of the model, which is used up, for a batch in parts of these sizes, the largest first."""
    return simulate_step(
        model, lambda: _batch(model, splits, sizes[0]), lambda: _optimizer(config, model), _half(config), len(sizes)
    )


def _plain(config: Config, backbone: Backbone) -> Backbone:
    """The backbone as the method finds it, with plain weights, which full fine-tuning would train.

    A copy of shapes takes a quarter of the time that building takes.
    """
    if backbone.quantized:
        return backbones.build_on_meta(config.backbone, starting_backbone.input_size(config))
    return copy.deepcopy(backbone)


def _bytes(model: Model) -> int:
    """Of its parameters and buffers, each counted once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _model(config: Config, method: Method, splits: Splits, backbone: Backbone) -> tuple[Model, Mapping[str, str]]:
    """The model, of a backbone on the meta device that is adapted in place; and why layers are left as they are."""
    with torch.device("meta"):
        task = task_class(config.task).build(config.task, backbone, splits.classes)
        model = Model(backbone, task)
        skipped = method.skipped(backbone)
        model.adapted(method.adapt(backbone, Plan()))
        if method.solves:
            learned_from = len(splits.roles(config.data.stage)[0])
            task.put_head(lambda linear: method.head(linear, learned_from))
        choose_ways_of_computing(config, model)
        choose_prefix(config, method, model, transform_of(config, backbone).size is not None)
    return model, skipped


def _fully_tuned(config: Config, splits: Splits, backbone: Backbone) -> Model:
    """The model with every parameter of the backbone training."""
    with torch.device("meta"):
        task = task_class(config.task).build(config.task, backbone, splits.classes)
        model = Model(backbone, task)
        unfreeze(backbone)
        model.adapted(None)
    return model


def _batch(model: Model, splits: Splits, images: int) -> tuple[Tensor, Any]:
    clip = () if splits.train.frames is None else (splits.train.frames,)
    blank = torch.zeros(images, *clip, 3, *model.backbone.facts.canvas, dtype=torch.uint8)
    return blank, model.task.blank_targets(images)


def _optimizer(config: Config, model: Model) -> torch.optim.Optimizer:
    spec = config.optimizer
    if spec.anchored:
        spec = replace(spec, name=spec.inner or "adamw")
    if spec.library == "timm":  # some of them look at values, and nothing has any here
        spec = replace(spec, library="own", name="adamw", args={})
    return optim.optimizer(spec, model.trainable(), fused=True)


def _half(config: Config) -> torch.dtype | None:
    return HALF[config.trainer.precision]


def _rows(config: Config, method: Method, model: Model, skipped: Mapping[str, str], before: Backbone) -> list[Row]:
    """A row for each layer; `before` is the backbone as the method found it."""
    size, pruned = starting_backbone.input_size(config), config.pruning.name != "none"
    whole = backbones.build_on_meta(config.backbone, size) if pruned else before
    kinds = {x.name: x.kind for x in layers(whole)}
    each = config.pruning.scope == "layer"  # else the zeros are chosen over all layers together, by their values
    masks = {n: round(m.numel() * config.pruning.ratio) for n, m in model.backbone.masks.items() if each}
    base, left = _counts(whole.net.named_parameters()), _counts(plain_parameters(model.backbone.net))
    known = {n for n, _ in whole.net.named_parameters()}
    added = {n: p for n, p in plain_parameters(model.backbone.net) if n not in known}
    stays = set(added) if model.backbone.quantized else set()  # beside the codes
    if added and not stays:
        stays = _after_merging(method, copy.deepcopy(before))
    rows = {}
    for name, count in base.items():
        own = {n for n in added if n.startswith(f"{name}.") and _owner(n, base) == name}
        trained = _sum(p for n, p in _own(model.backbone.net, name) if p.requires_grad and n not in added)
        gone = count - (left.get(name, 0) - _sum(added[n] for n in own if _last(n) == name))
        rows[name] = Row(
            name=name,
            kind=kinds.get(name, "other"),
            base=count,
            pruned=gone + masks.get(f"{name}.weight", 0),
            trained=trained,
            added=_sum(added[n] for n in own),
            merges=bool(own) and not own & stays,
            skipped=skipped.get(name, ""),
        )
    for name, parameter in added.items():
        if not _owner(name, base):  # of the whole net
            place = _last(name) or name
            earlier = rows[place].added if place in rows else 0
            rows[place] = Row(place, "shared", added=earlier + parameter.numel(), merges=name not in stays)
    beside = _counts(model.side.named_parameters(), 1) if model.side is not None else {}
    other = [(n, p) for n, p in model.backbone.named_parameters() if not n.startswith("net.")]
    within = (Row(name, "side", added=count) for name, count in _counts(other, 1).items())  # what hooks call
    return [*rows.values(), *within, *(Row(f"side.{n}" if n else "side", "side", added=c) for n, c in beside.items())]


def _after_merging(method: Method, backbone: Backbone) -> set[str]:
    """The names of the backbone's parameters when the method has merged what it can."""
    with torch.device("meta"):
        method.adapt(backbone, Plan())
        method.merge(backbone)
    return {n for n, _ in backbone.net.named_parameters()}


def _own(net: nn.Module, name: str) -> Iterable[tuple[str, nn.Parameter]]:
    module = net.get_submodule(name)
    return ((f"{name}.{n}" if name else n, p) for n, p in module.named_parameters(recurse=False))


def _counts(named: Iterable[tuple[str, Tensor]], depth: int | None = None) -> dict[str, int]:
    """Parameters by the module that owns them, or by the first words of their names."""
    counts: dict[str, int] = {}
    for name, parameter in named:
        owner = _last(name) if depth is None else ".".join(name.split(".")[:depth])
        counts[owner] = counts.get(owner, 0) + parameter.numel()
    return counts


def _last(name: str) -> str:
    return name.rpartition(".")[0]


def _owner(name: str, owners: Mapping[str, Any]) -> str:
    """The innermost of `owners` that holds a parameter."""
    while name and name not in owners:
        name = _last(name)
    return name


def _sum(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)
