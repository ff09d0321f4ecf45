"""The schema of a run: what may be configured, of which type, checked without importing torch.

The YAML files choose, these dataclasses say what exists. A method or a data set adds options of its own: the fields
of the class that its YAML names by import path. They are read from the class's source (`declared.py`), because
importing a class that lives beside torch code takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.dataclasses import dataclass as checked

from peftbench.declared import Declared, declared
from peftbench.errors import UserError, nearest

CONFIGS = Path(__file__).parent / "configs"
FAMILIES = ("vit", "cnn", "hybrid", "hierarchical_vit")
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@checked(config=_STRICT, frozen=True)
class Method:
    """An adaptation method: `options` are the fields of the class at `path`."""

    name: str
    path: str
    options: dict[str, Any]


@checked(config=_STRICT, frozen=True)
class Backbone:
    name: str
    family: Literal["vit", "cnn", "hybrid", "hierarchical_vit"] | None = None
    weights: str = "hub"
    pretrained: bool = True
    args: dict[str, Any] = field(default_factory=dict)
    cfg: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.0
    stream: bool = False


@checked(config=_STRICT, frozen=True)
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


@checked(config=_STRICT, frozen=True)
class Data:
    """A data set: `options` are the fields of the class at `path`; the rest is common to all."""

    name: str
    path: str
    task: Literal["classification", "detection"]
    options: dict[str, Any]
    stage: Literal["fit", "tune", "final"] = "fit"
    batch_size: int = 64
    eval_batch_size: int = 64
    size: int | tuple[int, int] | None = None
    interpolation: Literal["model", "bicubic", "bilinear", "nearest", "lanczos"] = "model"
    normalize: Literal["model", "imagenet", "none"] = "model"
    augment: Literal["none", "flip", "crop", "rrc", "trivial", "multiscale", "lsj", "ssd"] = "none"
    on_error: Literal["refuse", "skip"] = "refuse"
    memory_gb: float = 4.0
    workers: int = 0
    order_seed: int | None = None
    ood: tuple[str, ...] = ()


@checked(config=_STRICT, frozen=True)
class Classification:
    name: Literal["classification"]
    label_smoothing: float = 0.0


@checked(config=_STRICT, frozen=True)
class Detection:
    """A detector of torchvision over the backbone's maps.

    `weights`: a whole detector to start from, backbone included: `coco` (torchvision's), `package:<name>` or a file.
    `neck`, `rpn` and `head` say what of it trains besides the method; `rpn` is Faster R-CNN's alone. `width`: channels
    of the pyramid; `hidden`: of Faster R-CNN's box head, which learns from `rois` regions an image. `anchor_scale`:
    side of an anchor in strides of its level.
    """

    name: Literal["detection"]
    detector: Literal["fasterrcnn", "retinanet", "fcos"] = "fasterrcnn"
    weights: str | None = None
    neck: bool = True
    rpn: bool = True
    head: Literal["all", "predictor"] = "all"
    width: int = 256
    hidden: int = 1024
    rois: int = 512
    anchor_scale: float | None = None
    score_threshold: float = 0.05
    nms_threshold: float = 0.5


Task = Classification | Detection
TASKS: dict[str, type] = {"classification": Classification, "detection": Detection}


@checked(config=_STRICT, frozen=True)
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


@checked(config=_STRICT, frozen=True)
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


@checked(config=_STRICT, frozen=True)
class Taps:
    mode: Literal["auto", "off", "memory", "disk"] = "auto"
    views: int = 0
    max_gb: float = 10.0
    memory_gb: float = 2.0
    dir: str | None = None


@checked(config=_STRICT, frozen=True)
class Logger:
    name: Literal["none", "csv", "wandb"]
    project: str = "peftbench"
    group: str | None = None
    tags: tuple[str, ...] = ()


@checked(config=_STRICT, frozen=True)
class Sweep:
    """What concerns the runs of a sweep but not their numbers.

    `together`: up to so many runs of a side method in one pass. `retry`: run again what failed. `grid`: values by key,
    over which a protocol tunes.
    """

    together: int = 1
    retry: bool = False
    grid: dict[str, list[Any]] | None = None


@checked(config=_STRICT, frozen=True)
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
    task: Task
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
                parts[name] = _validate(_schema(name, section), section, name)
        return Config(**parts)


SECTIONS: dict[str, type] = {
    "method": Method,
    "backbone": Backbone,
    "pruning": Pruning,
    "data": Data,
    "task": Classification,
    "optimizer": Optimizer,
    "trainer": Trainer,
    "taps": Taps,
    "logger": Logger,
}
TOP = {"seed": int, "force": bool, "output_dir": str, "data_dir": str}
# What cannot change a run's numbers stays out of its id.
_NOT_IDENTITY: dict[str, set[str]] = {
    "backbone": {"stream"},
    "trainer": {"progress", "checkpoint_seconds", "threads"},
    "data": {"workers", "memory_gb", "eval_batch_size"},
    "taps": {"max_gb", "memory_gb", "dir"},
}


def check(values: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> Config:
    """The resolved mapping that Hydra composed, checked section by section.

    Raises:
        UserError: an unknown key, a wrong type, a value outside its choices or a combination that cannot work;
            one sentence that names the key, what was found and what was expected.
    """
    values = dict(values)
    _known(values, [*SECTIONS, *TOP], "")
    for key, kind in TOP.items():
        if type(values.get(key)) is not kind:
            raise UserError(f"{key}={values.get(key)!r}: expected {_KINDS[kind]}.")
    data = _data(values.get("data"))
    if (task := _mapping(values.get("task"), "task").get("name")) in TASKS and task != data.task:
        raise UserError(  # before the task's own keys, some of which the data set chooses
            f"task={task}: data={data.name} is made for task={data.task}; leave task= out, the data set chooses it."
        )
    sections = {
        "method": _method(values.get("method")),
        "data": data,
        **{n: _section(n, values.get(n)) for n in SECTIONS if n not in ("method", "data")},
    }
    config = Config(**sections, **{k: values[k] for k in TOP}, choices=dict(choices or {}))
    _combinations(config)
    return config


def restored(path: Path, folders: Iterable[Path] = ()) -> Config:
    """The config in a run's `config.yaml`, checked again.

    The method's class is the one that the YAML of its name gives, in peftbench's configs or in `folders`: an import
    path that the file holds is never followed.

    Raises:
        UserError: the file is missing or damaged, or no method is called so.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; give the folder of a run as it was left.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise UserError(f"{path}: cannot be read as YAML ({str(problem).splitlines()[0]}).") from None
    if not isinstance(values, Mapping):
        found = "is empty" if values is None else f"holds {str(values)[:40]!r}"
        raise UserError(f"{path}: {found}; expected the mapping of sections that the run wrote.")
    try:
        values = dict(values)
        _known(values, [f.name for f in fields(Config)], "")
        needed = [f.name for f in fields(Config) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [n for n in needed if n not in values]:
            raise UserError(f"{missing[0]}: is missing.")
        method = dict(_mapping(values["method"], "method"))
        method["path"] = _class_of(method.get("name"), [CONFIGS, *folders])
        config = Config.from_dict({**values, "method": method})
        declared_ = declared(method["path"], "method.path")
        if foreign := [n for n in config.method.options if n not in declared_.fields]:
            known = ", ".join(sorted(declared_.fields)) or "none"
            raise UserError(
                f"method.options.{foreign[0]}: method.name={config.method.name} has no such option; its options "
                f"are {known}."
            )
        options = _options(declared_, config.method.options, "method")
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
    return replace(config, method=replace(config.method, options=options))


def _class_of(name: Any, folders: Iterable[Path]) -> str:
    """The import path of the class of the method called `name`."""
    import yaml

    found: dict[str, str] = {}
    for file in (f for folder in folders for f in sorted((folder / "method").glob("**/*.yaml"))):
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            raise UserError(f"{file}: cannot be read as YAML ({str(problem).splitlines()[0]}).") from None
        if isinstance(given, Mapping) and isinstance(given.get("method"), Mapping):  # under @package _global_
            given = given["method"]
        if isinstance(given, Mapping) and "name" in given and isinstance(given.get("path"), str):
            found.setdefault(str(given["name"]), given["path"])
    if name not in found:
        raise UserError(
            f"method.name={name}: there is no YAML of this method{nearest(str(name), found)}; a method of your own "
            f"needs --config-dir DIR, in Python config_dir=DIR."
        )
    return found[str(name)]


def replaced(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with other values under dotted keys, such as `optimizer.lr` or `method.rank`, checked again.

    Raises:
        UserError: a key that is not there, or a value that its section refuses.
    """
    values = config.to_dict()
    choices, protocol = values.pop("choices"), values.pop("protocol")
    for section in ("method", "data"):  # as the YAML files have them
        values[section] |= values[section].pop("options")
    for key, value in changes.items():
        section, _, name = key.partition(".")
        place = values.get(section) if name else values
        if not isinstance(place, dict) or (name or section) not in place:
            known = [f"{s}.{k}" if k else s for s, v in values.items() for k in (v if isinstance(v, dict) else [""])]
            raise UserError(f"{key}: there is no such key{nearest(key, known)}.")
        place[name or section] = value
    return replace(check(values, choices), protocol=protocol)


def study(sweep: Any, protocol: Any) -> tuple[Sweep, Protocol]:
    """The sections `sweep` and `protocol`, checked. Raises UserError."""
    found = []
    for name, schema, values in (("sweep", Sweep, sweep), ("protocol", Protocol, protocol)):
        values = _mapping(values, name)
        _known(values, [f.name for f in fields(schema)], f"{name}.")
        found.append(_validate(schema, values, name))
    chosen, rule = found
    for key, value in {
        "sweep.together": chosen.together,
        "protocol.trials": rule.trials,
        "protocol.seeds": rule.seeds,
    }.items():
        if value < 1:
            raise UserError(f"{key}={value}: expected at least 1.")
    return chosen, rule


def identity(config: Config) -> dict[str, Any]:
    """The part of a config that can change its numbers: what a run's id is a hash of."""
    whole = config.to_dict()
    for key in ("logger", "force", "output_dir", "data_dir", "choices", "protocol"):
        del whole[key]
    for section, keys in _NOT_IDENTITY.items():
        for key in keys:
            del whole[section][key]
    # Where taps are kept changes nothing; without them a run costs more, so it is another one.
    whole["taps"]["mode"] = "off" if config.taps.mode == "off" else "kept"
    # Where files lie does not matter; what is in them is stamped by fingerprint and split hash.
    files = ("train", "val", "test", "images") if config.task.name == "detection" else ()
    for key in ("root", "labels", *files):
        whole["data"]["options"].pop(key, None)
    if Path(whole["backbone"]["weights"]).suffix:
        del whole["backbone"]["weights"]
    if Path(whole["task"].get("weights") or "").suffix:  # stamped by the hash of its file
        del whole["task"]["weights"]
    del whole["pruning"]["images"]
    if config.pruning.name == "none":
        del whole["pruning"]
    return whole


def run_id(config: Config, fingerprint: str, split_hash: str) -> str:
    """A readable prefix and ten hex digits over everything that can change the result."""
    stamp = json.dumps([identity(config), fingerprint, split_hash], sort_keys=True)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:10]
    names = (config.method.name, _short(config, "backbone"), _short(config, "data"), f"s{config.seed}")
    return "-".join([*(n.replace("/", "_").replace("-", "_") for n in names), digest])


def _short(config: Config, group: str) -> str:
    chosen = config.choices.get(group)
    if chosen and chosen != "timm":
        return chosen
    return Path(getattr(config, group).name).name.split(".")[0]


def _method(values: Any) -> Method:
    values = _mapping(values, "method")
    declared_ = _own(values, "method")
    options = {k: v for k, v in values.items() if k not in ("name", "path", "lr", "grid")}
    if "lr" in values and not isinstance(values["lr"], int | float):
        raise UserError(f"method.lr={values['lr']!r}: expected a number.")
    _known(options, [*declared_.fields, "lr", "grid", "name", "path"], "method.")
    return Method(name=values["name"], path=values["path"], options=_options(declared_, options, "method"))


def _data(values: Any) -> Data:
    values = _mapping(values, "data")
    declared_ = _own(values, "data")
    common = [f.name for f in fields(Data) if f.name != "options"]
    _known(values, [*common, *declared_.fields], "data.")
    own = {k: v for k, v in values.items() if k in declared_.fields and k not in common}
    rest = {k: v for k, v in values.items() if k in common}
    return _validate(Data, rest | {"options": _options(declared_, own, "data")}, "data")


def _own(values: Mapping[str, Any], section: str) -> Declared:
    for key in ("name", "path"):
        if not isinstance(values.get(key), str):
            raise UserError(f"{section}.{key}={values.get(key)!r}: expected a string.")
    return declared(values["path"], f"{section}.path")


def _options(declared_: Declared, values: Mapping[str, Any], section: str) -> dict[str, Any]:
    model = create_model("options", __config__=_STRICT, **declared_.fields)  # type: ignore[call-overload]
    return _validate(model, values, section).model_dump(mode="json")


def _schema(name: str, values: Mapping[str, Any]) -> type:
    """What a section may hold; of a task, by its name."""
    if name != "task":
        return SECTIONS[name]
    if (task := values.get("name")) not in TASKS:
        raise UserError(f"task.name={task!r}: expected {' or '.join(TASKS)}.")
    return TASKS[task]


def _section(name: str, values: Any) -> Any:
    values = _mapping(values, name)
    schema = _schema(name, values)
    _known(values, [f.name for f in fields(schema)], f"{name}.")
    if isinstance(values.get("precision"), int):  # YAML reads precision=16 as a number
        values = {**values, "precision": str(values["precision"])}
    return _validate(schema, values, name)


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


def _combinations(config: Config) -> None:
    """What no single section can know."""
    trainer, data, optimizer = config.trainer, config.data, config.optimizer
    positive = {
        "trainer.epochs": trainer.epochs,
        "trainer.devices": trainer.devices,
        "trainer.nodes": trainer.nodes,
        "trainer.accumulate": trainer.accumulate,
        "pruning.round_to": config.pruning.round_to,
        "data.batch_size": data.batch_size,
        "data.eval_batch_size": data.eval_batch_size,
        **{
            k: v
            for k, v in (
                ("trainer.max_batches", trainer.max_batches),
                ("trainer.threads", trainer.threads),
                ("data.frames", data.options.get("frames")),  # before a method that mixes them names its own key
            )
            if isinstance(v, int)
        },
    }
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"{key}={value}: expected at least 1.")
    shares = {
        "backbone.drop_path": config.backbone.drop_path,
        "task.label_smoothing": getattr(config.task, "label_smoothing", 0.0),
        "optimizer.warmup": optimizer.warmup,
        "pruning.ratio": config.pruning.ratio,
        "pruning.heads": config.pruning.heads,
    }
    for key, share in shares.items():
        if not 0 <= share < 1:
            raise UserError(f"{key}={share}: expected a share, at least 0 and below 1.")
    if optimizer.lr <= 0:
        raise UserError(f"optimizer.lr={optimizer.lr}: expected a number above 0.")
    for key, amount in {
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.min_lr": optimizer.min_lr,
        "data.workers": data.workers,
        "data.memory_gb": data.memory_gb,
        "taps.views": config.taps.views,
        "taps.max_gb": config.taps.max_gb,
        "taps.memory_gb": config.taps.memory_gb,
    }.items():
        if amount < 0:
            raise UserError(f"{key}={amount}: expected 0 or more.")
    if config.taps.views and data.augment == "none":
        raise UserError(
            f"taps.views={config.taps.views}: there is one view without augmentation; give data.augment=flip, say."
        )
    if trainer.clip is not None and trainer.clip <= 0:
        raise UserError(f"trainer.clip={trainer.clip}: expected a number above 0, or null.")
    if any(not 0 <= beta < 1 for beta in optimizer.betas or ()):
        raise UserError(f"optimizer.betas={list(optimizer.betas or ())}: expected numbers at least 0 and below 1.")
    if optimizer.momentum is not None and not 0 <= optimizer.momentum < 1:
        raise UserError(f"optimizer.momentum={optimizer.momentum}: expected at least 0 and below 1.")
    if not 0 <= optimizer.kappa <= 1:
        raise UserError(f"optimizer.kappa={optimizer.kappa}: expected a number from 0 to 1.")
    if optimizer.gamma_lr <= 0:
        raise UserError(f"optimizer.gamma_lr={optimizer.gamma_lr}: expected a number above 0.")
    pruned = config.pruning.name != "none"
    if pruned and config.pruning.images is not None and config.pruning.criterion != "taylor":
        raise UserError(
            f"pruning.images={config.pruning.images}: pruning.criterion={config.pruning.criterion} looks at no images; "
            f"leave it out, or give pruning.criterion=taylor."
        )
    if pruned and (config.backbone.stream or trainer.strategy == "fsdp"):
        found = "backbone.stream=true" if config.backbone.stream else "trainer=fsdp"
        raise UserError(f"pruning={config.pruning.name}: needs whole weights in memory, unlike {found}.")
    if optimizer.name == "ftp" and trainer.strategy == "fsdp":
        raise UserError("optimizer=ftp: needs whole tensors, which trainer=fsdp has not; use trainer=ddp.")
    if optimizer.nesterov and optimizer.momentum == 0:
        raise UserError("optimizer.momentum=0: Nesterov momentum needs some; give optimizer.nesterov=false.")
    if data.ood and data.stage == "tune":
        raise UserError("data.ood: is tested, and data.stage=tune leaves test images alone; leave one of them out.")
    _sizes(config)
    if isinstance(config.task, Detection):
        _detection(config, config.task)
    if trainer.devices * trainer.nodes > 1 and trainer.strategy == "single":
        raise UserError(f"trainer.devices={trainer.devices}: more than one needs trainer=ddp or trainer=fsdp.")
    if config.backbone.stream and not config.backbone.pretrained:
        raise UserError(
            "backbone.stream=true: weights are read from a file, and with backbone.pretrained=false there is none; "
            "give one in backbone.weights, or backbone.stream=false."
        )
    if config.backbone.stream and trainer.strategy == "fsdp":
        raise UserError(
            "trainer=fsdp: shards the weights that backbone.stream=true leaves in their file; take trainer=ddp."
        )
    if trainer.precision == "16" and trainer.accelerator == "cpu":
        raise UserError("trainer.precision='16': half precision needs a GPU; on a CPU use 'bf16' or '32'.")


_AUGMENTATIONS = {
    "classification": ("none", "flip", "crop", "rrc", "trivial"),
    "detection": ("none", "flip", "multiscale", "lsj", "ssd"),
}


def _sizes(config: Config) -> None:
    """What images are made into, which each task does in its own way."""
    data, task = config.data, config.task.name
    if isinstance(data.size, tuple) and task != "detection":
        raise UserError(f"data.size={list(data.size)}: task={task} takes square images; give one number.")
    for side in (data.size,) if isinstance(data.size, int) else data.size or ():
        if side < 1:
            found = list(data.size) if isinstance(data.size, tuple) else data.size
            raise UserError(f"data.size={found}: expected at least 1.")
    if data.augment not in _AUGMENTATIONS[task]:
        raise UserError(
            f"data.augment={data.augment}: is not for task={task}; expected {', '.join(_AUGMENTATIONS[task])}."
        )


def _detection(config: Config, task: Detection) -> None:
    """What only detection asks for, and what it does not offer."""
    for key, value in (("width", task.width), ("hidden", task.hidden), ("rois", task.rois)):
        if value < 1:
            raise UserError(f"task.{key}={value}: expected at least 1.")
    for key in ("min_size", "max_size"):
        found = config.data.options.get(key, 1)
        if min(found if isinstance(found, list | tuple) else [found], default=0) < 1:
            raise UserError(f"data.{key}={found}: expected at least 1 pixel.")
    if task.detector == "fcos" and (task.width % 32 or task.width < 64):
        raise UserError(
            f"task.width={task.width}: FCOS norms its channels in 32 groups; expected a multiple of 32, at least 64."
        )
    if task.anchor_scale is not None and task.detector == "fcos":
        raise UserError("task.anchor_scale: FCOS has points instead of anchors; leave it out.")
    if task.weights is not None and not config.backbone.pretrained:
        raise UserError(
            f"task.weights={task.weights}: holds the backbone too, and backbone.pretrained=false wants a random one; "
            f"leave one of them out."
        )
    if task.anchor_scale is not None and task.anchor_scale <= 0:
        raise UserError(f"task.anchor_scale={task.anchor_scale}: expected a number above 0, or null.")
    for key, share in (("score_threshold", task.score_threshold), ("nms_threshold", task.nms_threshold)):
        if not 0 <= share <= 1:
            raise UserError(f"task.{key}={share}: expected a number from 0 to 1.")
    refused = {
        "data.ood": (config.data.ood, "shifted test sets are of classification; leave it out"),
        "taps.views": (config.taps.views, "boxes of augmented views are not kept; give taps.views=0"),
        "trainer.strategy": (
            config.trainer.strategy == "fsdp" and "fsdp",
            "a detector is not sharded; use trainer=ddp",
        ),
        "backbone.stream": (
            config.backbone.stream and "true",
            "detection reads all of the backbone at once; leave it out",
        ),
    }
    for key, (found, why) in refused.items():
        if found:
            raise UserError(f"{key}={list(found) if isinstance(found, tuple) else found}: with task=detection, {why}.")
    if config.taps.mode in ("memory", "disk") and config.data.size is None:
        raise UserError(
            f"taps={config.taps.mode}: images of different sizes have no taps of one shape; give data.size=[H,W]."
        )
