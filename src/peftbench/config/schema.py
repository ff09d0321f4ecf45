"""The schema of a run: what may be configured, of which type, checked without importing torch.

The YAML files choose, these dataclasses say what exists. A method or a data set adds options of its own: the fields
of the class that its YAML names by import path. They are read from the class's source (`declared.py`), because
importing a class that lives beside torch code takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError, nearest
from peftbench.config.task_schema import STRICT, TaskSection, task_schema

CONFIGS = Path(__file__).parents[1] / "configs"


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
    drop_path: float = 0.0
    stream: bool = False


@checked(config=STRICT, frozen=True)
class Pruning:
    """What is taken from the backbone before any task: single weights (`unstructured`) or channels (`structured`).

    `scope` and `merge` are of unstructured pruning, `round_to` and `heads` of structured; `images` are what
    `criterion: taylor` looks at.
    """

    name: Literal["none", "unstructured", "structured"] = "none"
    ratio: float = 0.0
    criterion: Literal["magnitude", "taylor"] = "magnitude"
    images: str | None = None
    scope: Literal["global", "layer"] = "global"
    merge: Literal["auto", "unmerged", "masked", "dense"] = "auto"
    round_to: int = 8
    heads: float = 0.0


@checked(config=STRICT, frozen=True)
class Data:
    """A data set: `options` are the fields of the class at `path`; the rest is common to all.

    `tasks` are those that it serves, its default first.
    """

    name: str
    path: str
    tasks: tuple[str, ...]
    options: dict[str, Any]
    stage: Literal["fit", "tune", "final"] = "fit"
    batch_size: int = 64
    eval_batch_size: int = 64
    size: int | tuple[int, int] | None = None
    interpolation: Literal["model", "bicubic", "bilinear", "nearest", "lanczos"] = "model"
    normalize: Literal["model", "imagenet", "none"] = "model"
    augment: str = "none"
    on_error: Literal["refuse", "skip"] = "refuse"
    memory_gb: float = 4.0
    workers: int = 0
    order_seed: int | None = None
    ood: tuple[str, ...] = ()


@checked(config=STRICT, frozen=True)
class Optimizer:
    """`ftp` projects after each step of `inner`; `exclude` are patterns over the names that it leaves alone."""

    name: Literal["adamw", "sgd", "ftp"]
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    min_lr: float = 0.0
    inner: Literal["adamw", "sgd"] | None = None
    kappa: float = 1.0
    gamma_lr: float = 1e-2
    norm: Literal["mars", "l2"] = "mars"
    exclude: tuple[str, ...] = ()


@checked(config=STRICT, frozen=True)
class Trainer:
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    precision: Literal["32", "16", "bf16"] = "32"
    epochs: int = 20
    accumulate: int = 1
    clip: float | None = None
    max_batches: int | None = None
    threads: int | None = None
    progress: bool = True
    checkpoint_seconds: float = 30.0


@checked(config=STRICT, frozen=True)
class Taps:
    mode: Literal["auto", "off", "memory", "disk"] = "auto"
    views: int = 0
    max_gb: float = 10.0
    memory_gb: float = 2.0
    dir: str | None = None


@checked(config=STRICT, frozen=True)
class Logger:
    name: Literal["none", "csv", "wandb"]
    project: str = "peftbench"
    group: str | None = None
    tags: tuple[str, ...] = ()


@checked(config=STRICT, frozen=True)
class Sweep:
    """What concerns the runs of a sweep but not their numbers.

    `together`: up to so many runs of a side method in one pass. `retry`: run again what failed. `grid`: values by key,
    over which a protocol tunes.
    """

    together: int = 1
    retry: bool = False
    grid: dict[str, list[Any]] | None = None


@checked(config=STRICT, frozen=True)
class Protocol:
    """How a sweep's jobs are carried out; `vtab1k` tunes on validation images, with `trials` points of a grid each."""

    name: Literal["none", "vtab1k"] = "none"
    trials: int = 6
    seeds: int = 3


@dataclass(frozen=True)
class Config:
    """One run, resolved and checked. `protocol` says how its setting was chosen, if by a protocol."""

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

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, fit for JSON and for `from_dict`."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`; every section is checked again. Raises UserError."""
        parts = {f.name: values[f.name] for f in fields(Config) if f.name in values}
        for name in SECTIONS:
            if name in parts:
                section = _mapping(parts[name], name)
                if name == "data" and "task" in section:  # a run of a version in which a data set had one
                    section = {**section, "tasks": [section["task"]]}
                    del section["task"]
                parts[name] = _validate(_schema(name, section), section, name)
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
}
TOP = {"seed": int, "force": bool, "output_dir": str, "data_dir": str}


def _schema(name: str, values: Mapping[str, Any]) -> type:
    """What a section may hold; of a task, what the task itself says."""
    return SECTIONS[name] if name != "task" else task_schema(values).section


def _mapping(values: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise UserError(f"{name}={values!r}: expected a mapping of keys, or the name of a file in configs/{name}/.")
    return values


def _known(values: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for key in values:
        if key not in known:
            raise UserError(
                f"{prefix}{key}: there is no such key{nearest(str(key), known)}; "
                f"known here: {', '.join(sorted(known))}."
            )


_KINDS: dict[type, str] = {int: "a whole number", bool: "true or false", str: "a string", float: "a number"}


def _validate(schema: Any, values: Mapping[str, Any], section: str) -> Any:
    """Strict validation over JSON, where a list may be a tuple and 1 a float, but 'abc' or true is no number."""
    try:
        return TypeAdapter(schema).validate_json(json.dumps(dict(values)))
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = [f.name for f in fields(schema)] if is_dataclass(schema) else list(schema.model_fields)
            _known({str(first["loc"][0]): None}, known, f"{section}.")
        key = ".".join([section, *(str(part) for part in first["loc"] if str(part) in values)][:2])
        found = values.get(key.split(".")[-1], "nothing")
        if first["type"] == "missing" and key.split(".")[-1] in values:
            raise UserError(f"{key}={found!r}: expected a longer list.") from None
        lengths = {"too_long": "a shorter list", "too_short": "a longer list", "missing": "a longer list"}
        every = [
            lengths.get(e["type"], e["msg"]) if len(e["loc"]) > 1 else e["msg"]
            for e in problem.errors()
            if e["loc"][:1] == first["loc"][:1]
        ]
        expected = (
            " or ".join(dict.fromkeys(every)).replace("Input should be ", "").replace("Field required", "a value")
        )
        for theirs, ours in (
            ("valid integer", "whole number"),
            ("valid array", "list"),
            ("valid number", "number"),
        ):
            expected = expected.replace(theirs, ours)
        raise UserError(f"{key}={found!r}: expected {expected}.") from None
