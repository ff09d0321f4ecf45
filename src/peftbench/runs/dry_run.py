"""What a run would do, without weights: layer by layer, in parameters, memory and arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from peftbench import backbones, costs, optim
from peftbench.backbones import Backbone
from peftbench.backbones.layers import layers
from peftbench.common.precisions import HALF
from peftbench.config import Config
from peftbench.costs.simulated import Step, simulate_flops, simulate_step
from peftbench.data.base import Splits
from peftbench.methods.base import Method, Plan, unfreeze
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.runs.data_sets import Outlined, outline_data
from peftbench.runs.planned_taps import PlannedTaps, plan_taps
from peftbench.runs.probe import Probe, probe_run
from peftbench.tasks.base import task_class


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
    """

    rows: tuple[Row, ...]
    parameters: Mapping[str, Any]
    step: Step | None
    full: int
    notes: tuple[str, ...] = field(default=())
    weights: int = 0
    taps: PlannedTaps | None = None
    probe: Probe | None = None

    @property
    def relative_time(self) -> float | None:
        return None if self.step is None else self.step.flops / self.full


def plan_run(config: Config, probe: bool = False, outlined: Outlined | None = None) -> Planned:
    """What `peftbench.run(config)` would do. Nothing is trained, no weights and no images are read.

    With `probe` the model is built with its weights, and a few steps on noise are timed. `outlined` is the run's data
    set where it has been looked at already.

    Raises:
        UserError: what the run would say of this config; a method that decides by looking at data what it trains.
    """
    method: Method = instantiate(config.method)
    backbone = refuse_incompatible(config, method)
    outlined = outlined or outline_data(config)
    splits, notes = outlined.splits, list(outlined.notes)
    task_class(config.task).refuse_classes(config.task, splits.classes)
    before = copy.deepcopy(backbone)  # a copy of shapes takes a quarter of the time that building takes
    model, skipped = _model(config, method, splits, backbone)
    rows = _rows(config, method, model, skipped, before)
    parameters, masks = costs.parameters(model), model.backbone.masks
    batch = min(config.data.batch_size, len(splits.roles(config.data.stage)[0]))
    weights = _bytes(model)
    taps = plan_taps(config, model, splits.roles(config.data.stage)[:2])
    taken, full = None, 0
    if model.task.blank_targets(1) is not None:
        taken = simulate_step(
            model, lambda: _batch(model, splits, batch), lambda: _optimizer(config, model), _half(config)
        )
        whole = _fully_tuned(config, splits, before)
        full = simulate_flops(whole, lambda: _batch(whole, splits, batch))
    else:
        notes.append(f"memory and time: not foretold, since {model.task.unforeseen}; a run measures them")
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
    if method.own_optimizer or config.optimizer.name == "ftp":
        notes.append("memory: without the anchors and differences that its optimizer keeps")
    if config.trainer.ema is not None or config.trainer.keep == "best":
        notes.append("memory: without the copies that trainer.ema and trainer.keep=best keep of what trains")
    if taps is not None and taps.mode != "off":
        notes.append("memory and time: of a step without kept taps; with them no backbone runs")
    if config.backbone.stream:
        notes.append("weights: of the backbone in its file; a block at a time is in memory (backbone.stream=true)")
    probed = None
    if probe and taken is None:
        notes.append(f"probe: nothing is timed, since {model.task.unforeseen}; a run measures it")
    elif probe:
        probed = probe_run(config, method, splits, taps)
        if probed.weights == "random" and config.backbone.pretrained:
            notes.append(
                f"probe: with random weights, which take as long, since those of {config.backbone.name} are not on "
                f"this machine"
            )
    return Planned(tuple(rows), parameters, taken, full, tuple(notes), weights, taps, probed)


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
    if spec.name == "ftp":
        spec = type(spec)(**{**vars(spec), "name": spec.inner or "adamw"})
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
    base, left = _counts(whole.net.named_parameters()), _counts(model.backbone.net.named_parameters())
    known = {n for n, _ in whole.net.named_parameters()}
    added = {n: p for n, p in model.backbone.net.named_parameters() if n not in known}
    stays = _after_merging(method, copy.deepcopy(before)) if added else set()
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
    beside = _counts(model.side.named_parameters(), 1) if model.side is not None else {}
    return [*rows.values(), *(Row(f"side.{n}" if n else "side", "side", added=c) for n, c in beside.items())]


def _after_merging(method: Method, backbone: Backbone) -> set[str]:
    """The names of the backbone's parameters when the method has merged what it can."""
    with torch.device("meta"):
        method.adapt(backbone, Plan())
        method.merge(backbone)
    return {n for n, _ in backbone.net.named_parameters()}


def _own(net: nn.Module, name: str) -> Iterable[tuple[str, nn.Parameter]]:
    module = net.get_submodule(name)
    return ((f"{name}.{n}" if name else n, p) for n, p in module.named_parameters(recurse=False))


def _counts(named: Iterable[tuple[str, nn.Parameter]], depth: int | None = None) -> dict[str, int]:
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


def _sum(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
