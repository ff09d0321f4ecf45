"""The schema of a run: what may be configured, of which type, checked without importing torch.

The YAML files choose, these dataclasses say what exists. A method or a data set adds options of its own: the fields
of the class that its YAML names by import path. They are read from the class's source (`declared_fields.py`), because
importing a class that lives beside torch code takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from peftbench.config.backbone_entry import check_backbone_entry
from peftbench.config.bounds import (
    AboveZero,
    AboveZeroOrNull,
    Amount,
    BetweenZeroAndOne,
    Count,
    Decay,
    FromZeroToOne,
    LayerDecay,
    Momentum,
    Positive,
    Share,
)
from peftbench.config.logger_schema import Logger, logger_section
from peftbench.config.sections import checked_section, mapping_of
from peftbench.config.task_schema import STRICT, TaskSection, task_schema


@checked(config=STRICT, frozen=True)
class Method:
    """An adaptation method: `options` are the fields of the class at `path`."""

    name: str
    path: str
    options: dict[str, Any]


@checked(config=STRICT, frozen=True)
class Backbone:
    name: str
    family: Literal["vit", "cnn", "hybrid", "hierarchical_vit"] | None = None
    weights: str = "hub"
    pretrained: bool = True
    args: dict[str, Any] = field(default_factory=dict)
    cfg: dict[str, Any] = field(default_factory=dict)
    drop_path: Share = 0.0
    stream: bool = False
    quantize: Literal["int8", "nf4"] | None = None

    def __post_init__(self) -> None:
        check_backbone_entry(self.args, self.cfg)


@checked(config=STRICT, frozen=True)
class Pruning:
    """What is taken from the backbone before any task: single weights (`unstructured`) or channels (`structured`).

    `scope` and `merge` are of unstructured pruning, `round_to` and `heads` of structured; `images` are what
    `criterion: taylor` looks at. With a `target` each layer keeps as many channels as leave that share of the latency
    in `runtime`; they go in so many `rounds`, over which the rest is trained for so many `recovery` steps to give the
    whole backbone's taps on the images.
    """

    name: Literal["none", "unstructured", "structured"] = "none"
    ratio: Share = 0.0
    criterion: Literal["magnitude", "taylor"] = "magnitude"
    images: str | None = None
    scope: Literal["global", "layer"] = "global"
    merge: Literal["auto", "unmerged", "masked", "dense"] = "auto"
    round_to: Positive = 8
    heads: Share = 0.0
    target: str | None = None
    runtime: Literal["onnx", "torch"] = "onnx"
    rounds: Positive = 4
    recovery: Count = 400

    @property
    def latency(self) -> float | None:
        """The share of the latency that `target` leaves; None where there is none.

        Raises:
            ValueError: the target is not written as latency:0.7 is.
        """
        if self.target is None:
            return None
        kind, _, share = self.target.partition(":")
        if kind != "latency" or not 0 < float(share) < 1:
            raise ValueError(self.target)
        return float(share)


@checked(config=STRICT, frozen=True)
class Data:
    """A data set: `options` are the fields of the class at `path`; the rest is common to all.

    `tasks` are those that it serves, its default first. `jitter` and `erase` change each training image by itself;
    `mixup` and `cutmix` mix two, and are the parameters of the Beta distribution that shares are drawn from.
    With `augment_on: device` what was drawn for each image is applied there to a whole batch. `draft` has JPEGs decoded
    in about the size that is needed.
    The classes are cut into `class_groups`, so many or as named, which `protocol=continual` has learned one after the
    other; a run is of one, `class_group`, counted from 1. It learns the classes of this group, with `replay` images of
    each class of the groups before, and tells apart those of all groups so far, or of its own (`class_scope`).
    `licence` is what model cards say of the data.
    """

    name: str
    path: str
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    options: dict[str, Any]
    stage: Literal["fit", "tune", "final"] = "fit"
    batch_size: Positive = 64
    eval_batch_size: Positive = 64
    size: Positive | tuple[Positive, Positive] | None = None
    interpolation: Literal["model", "bicubic", "bilinear", "nearest", "lanczos"] = "model"
    normalize: Literal["model", "imagenet", "none"] = "model"
    augment: str = "none"
    on_error: Literal["refuse", "skip"] = "refuse"
    memory_gb: Amount = 4.0
    workers: Count | Literal["auto"] = "auto"
    order_seed: int | None = None
    ood: tuple[str, ...] = ()
    range: Literal["auto"] | tuple[float, float] = "auto"
    resize: Literal["squash", "crop", "pad"] = "squash"
    jitter: FromZeroToOne = 0.0
    erase: FromZeroToOne = 0.0
    mixup: Amount = 0.0
    cutmix: Amount = 0.0
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    tta: Literal["none", "flip"] = "none"
    augment_on: Literal["host", "device"] = "host"
    draft: bool = False
    class_groups: Positive | tuple[tuple[str, ...], ...] | None = None
    class_group: Positive | None = None
    class_seed: Count = 0
    class_scope: Literal["seen", "own"] = "seen"
    replay: Count | Literal["all"] = 0
    licence: str | None = None

    @property
    def groups(self) -> int:
        """How many groups the classes are cut into; 0 where they are not."""
        return self.class_groups if isinstance(self.class_groups, int) else len(self.class_groups or ())

    @property
    def mixing(self) -> str:
        """The first key that has training images mixed, with its value; empty where none does."""
        return next((f"data.{key}={value}" for key in ("mixup", "cutmix") if (value := getattr(self, key))), "")

    @property
    def changing(self) -> str:
        """The first key that changes training images one by one, with its value; empty where none does."""
        if self.augment != "none":
            return f"data.augment={self.augment}"
        return next((f"data.{key}={value}" for key in ("jitter", "erase") if (value := getattr(self, key))), "")


@checked(config=STRICT, frozen=True)
class Optimizer:
    """`name` is one of adamw, sgd, ftp and spd, or, with `library: timm`, any that timm's factory knows, which takes
    `args` and none of betas, momentum, nesterov and inner.

    `ftp` projects after each step of `inner`, and `spd` decays towards the start, with `strength`; `exclude` are
    patterns over the names that they leave alone.
    `layer_decay` scales the rate of each layer of the backbone by its depth, `head_lr` that of the task's parameters;
    `decay_norms` has weight decay act on vectors and scalars too. With `find_lr` a run looks for its rate around `lr`.
    """

    name: str
    lr: AboveZero
    weight_decay: Amount = 0.0
    betas: tuple[Decay, Decay] | None = None
    momentum: Momentum | None = None
    nesterov: bool | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Share = 0.1
    min_lr: Amount = 0.0
    inner: Literal["adamw", "sgd"] | None = None
    kappa: FromZeroToOne = 1.0
    gamma_lr: AboveZero = 1e-2
    norm: Literal["mars", "l2"] = "mars"
    exclude: tuple[str, ...] = ()
    layer_decay: LayerDecay = None
    head_lr: AboveZero = 1.0
    decay_norms: bool = False
    library: Literal["own", "timm"] = "own"
    args: dict[str, Any] = field(default_factory=dict)
    find_lr: bool = False
    strength: Amount = 1.0

    @property
    def anchored(self) -> bool:
        """Whether it steps with `inner` and then stays near where each tensor began."""
        return self.library == "own" and self.name in ("ftp", "spd")


@checked(config=STRICT, frozen=True)
class Trainer:
    """`keep` says whose weights a run ends with, its last epoch's or its best's; it stops after `patience` epochs
    without a better one, and after so many `minutes` of training, of which its schedule follows the share. With `ema`
    the weights are the exponential moving average of those that train.

    Images are computed `micro_batch` at a time where it is given, with one optimizer step for the whole batch;
    `accumulate=auto` chooses it. `grad_checkpointing` keeps the inputs of blocks alone for backward. `consistency`
    weighs how far apart predictions are under two draws of `consistency_noise`, in each step, or with half a batch in
    one of `consistency_every`. With `graphs` steps from kept taps are captured in CUDA graphs. `precision=auto` is what
    the device has; `tf32` is of float32 on a GPU. Processes wait for each other for `meet_seconds` before the run
    begins. `head_from` names a method whose head, worked out from frozen features, is the one to begin from.
    """

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Positive = 1
    nodes: Positive = 1
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    precision: Literal["32", "16", "bf16", "auto"] = "32"
    epochs: Positive = 20
    accumulate: Positive | Literal["auto"] = 1
    clip: AboveZeroOrNull = None
    max_batches: Positive | None = None
    trial: bool = False
    threads: Positive | None = None
    progress: bool = True
    checkpoint_seconds: float = 30.0
    keep: Literal["last", "best"] = "last"
    patience: Positive | None = None
    minutes: AboveZeroOrNull = None
    ema: BetweenZeroAndOne | None = None
    micro_batch: Positive | None = None
    grad_checkpointing: bool = False
    channels_last: bool = False
    tf32: bool = True
    compile: bool = False
    graphs: bool = False
    consistency: Amount = 0.0
    consistency_noise: Amount = 1.0
    consistency_every: Positive = 1
    meet_seconds: AboveZero = 600.0
    head_from: str | None = None

    @property
    def alone(self) -> bool:
        """Whether a run has weights, an end or a part of the batch of its own: then it trains apart from others."""
        own = (self.patience, self.minutes, self.ema, self.micro_batch)
        return self.keep != "last" or self.accumulate == "auto" or self.graphs or any(x is not None for x in own)

    @property
    def chooses_end(self) -> bool:
        """Whether a run has weights or an end of its own choice, of which its record tells."""
        return self.keep != "last" or any(x is not None for x in (self.patience, self.minutes, self.ema))

    @property
    def needs_validation(self) -> str:
        """The first key that asks for images to validate on, with its value; empty where none does."""
        if self.keep == "best":
            return "trainer.keep=best"
        return "" if self.patience is None else f"trainer.patience={self.patience}"


@checked(config=STRICT, frozen=True)
class Taps:
    mode: Literal["auto", "off", "memory", "disk"] = "auto"
    views: Count = 0
    max_gb: Amount = 10.0
    memory_gb: Amount = 2.0
    gpu_gb: Amount | None = None
    dtype: Literal["int8"] | None = None
    dir: str | None = None


@checked(config=STRICT, frozen=True)
class Costs:
    """What a run's figures of cost are worked out by, and no number of the run by: the user's own `price` of an hour,
    and the `watts` of an estimate where the machine measures no energy.
    """

    price: AboveZeroOrNull = None
    watts: AboveZeroOrNull = None


@checked(config=STRICT, frozen=True)
class Sweep:
    """What concerns the runs of a sweep but not their numbers.

    `together`: up to so many runs of a side method in one pass. `retry`: run again what failed. `grid`: values by key,
    over which a protocol tunes.
    """

    together: Positive = 1
    retry: bool = False
    grid: dict[str, list[Any]] | None = None


@checked(config=STRICT, frozen=True)
class Protocol:
    """How a sweep's jobs are carried out; `vtab1k` tunes on validation images, with `trials` points of a grid each.

    `continual` learns groups of classes one after the other: each from the weights `before`, or each `apart`, with a
    net and a head of its own, in which case `told_by` is the method that tells to which group an image belongs. With
    `alone` each group is also learned by itself, which forward transfer is measured against.
    """

    name: Literal["none", "vtab1k", "continual"] = "none"
    trials: Positive = 6
    seeds: Positive = 3
    learn: Literal["before", "apart"] = "before"
    alone: bool = True
    told_by: dict[str, Any] | None = None


@dataclass(frozen=True)
class Config:
    """One run, resolved and checked. `protocol` says how its setting was chosen, if by a protocol.

    `start` is the folder of a run whose delta it begins with.
    """

    method: Method
    backbone: Backbone
    data: Data
    task: TaskSection
    optimizer: Optimizer
    trainer: Trainer
    taps: Taps
    logger: Logger
    seed: int = 0
    force: bool = False
    output_dir: str = "outputs"
    data_dir: str = "data"
    choices: Mapping[str, str] = field(default_factory=dict)
    pruning: Pruning = field(default_factory=Pruning)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    page: bool = False
    costs: Costs = field(default_factory=Costs)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, fit for JSON and for `from_dict`."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`; every section is checked again. Raises UserError."""
        parts = {f.name: values[f.name] for f in fields(Config) if f.name in values}
        for name in SECTIONS:
            if name in parts:
                section = mapping_of(parts[name], name)
                if name == "data":
                    section = with_tasks(section)
                parts[name] = checked_part(name, section)
        return Config(**parts)


SECTIONS: dict[str, type] = {
    "method": Method,
    "backbone": Backbone,
    "pruning": Pruning,
    "data": Data,
    "task": TaskSection,
    "optimizer": Optimizer,
    "trainer": Trainer,
    "taps": Taps,
    "logger": Logger,
    "costs": Costs,
}
TOP = {"seed": int, "force": bool, "page": bool, "output_dir": str, "data_dir": str, "start": str}
"""Key outside the sections -> its type."""
MAY_BE_NULL = ("start",)


def with_tasks(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section `data` of a YAML or a run of version 0.1.0, in which a data set had one task, as it is today."""
    if "task" not in data:
        return data
    return {**{key: value for key, value in data.items() if key != "task"}, "tasks": [data["task"]]}


def checked_part(name: str, values: Mapping[str, Any]) -> Any:
    """A section, checked against its schema. Raises UserError."""
    return logger_section(values) if name == "logger" else checked_section(section_schema(name, values), values, name)


def section_schema(name: str, values: Mapping[str, Any]) -> type:
    """The dataclass of a section; for the section `task`, that of the task which it names. Raises UserError."""
    return task_schema(values).section if name == "task" else SECTIONS[name]
