"""What a record says of how it was made: what runs must share to be compared, and what was chosen for each.

Records of older versions have no `task.path`, and `data.task` where there is `data.tasks` now: none of them is here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from peftbench.common.amounts import plural
from peftbench.results.task_results import TaskResults, results_of, task_name

Setting = tuple[tuple[str, str], ...]  # (key, value as JSON), sorted
OWN = "as listed"  # a split that lists of its data set name
_TRAINER = ("precision", "epochs", "accumulate", "clip", "max_batches")
_DATA = ("batch_size", "augment", "on_error", "order_seed")
_LATER: Mapping[str, Mapping[str, Any]] = {
    "backbone": {"quantize": None},
    "optimizer": {
        "layer_decay": None,
        "head_lr": 1.0,
        "decay_norms": False,
        "library": "own",
        "args": {},
        "find_lr": False,
        "strength": 1.0,
    },
    "taps": {"dtype": None},
    "data": {
        "jitter": 0.0,
        "erase": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "sampler": "shuffle",
        "augment_on": "host",
    },
    "trainer": {
        "keep": "last",
        "patience": None,
        "minutes": None,
        "ema": None,
        "micro_batch": None,
        "grad_checkpointing": False,
        "channels_last": False,
        "tf32": True,
        "compile": False,
        "graphs": False,
        "consistency": 0.0,
        "consistency_noise": 1.0,
        "consistency_every": 1,
        "head_from": None,
    },
}
"""Keys that came after the first version, with what runs without them did: a setting names them where they differ."""


def basis_of(config: Mapping[str, Any], stamps: Mapping[str, Any]) -> Setting:
    """What two runs must have in common for their accuracies to be compared."""
    backbone, data = stamps.get("backbone") or {}, stamps.get("data") or {}
    transform = data.get("transform") or {}
    random = backbone.get("pretrained") is False  # then the weights are drawn from the seed
    split = str(data.get("split")).partition("@")[2]  # `vtab/cifar@tfds-order`: what lists do not name is computed
    made = backbone.get("pruning") or backbone.get("quantize") or {}
    whole = made.get("origin") or backbone.get("fingerprint", "unknown")
    basis = {
        "backbone": backbone.get("name", config["backbone"]["name"]),
        "weights": "random" if random else backbone.get("weights", "unknown"),
        "fingerprint": "" if random else str(whole)[:12],
        "input": f"{_input_size(transform)} px, {transform.get('interpolation', '?')}{_more(transform, data)}",
        "normalisation": f"mean {_numbers(transform.get('mean'))}, std {_numbers(transform.get('std'))}",
        "split": split or OWN,
        "trained on": {"final": "train and val"}.get(data.get("stage", ""), "train"),
        "data": "other data sets",
        "task": task_name(config) + _apart(config),
    }
    if groups := _groups(config):
        basis["learned"] = f"{groups} groups of classes"
        basis["trained on"] += f", {groups} groups of classes one after the other"
    elif str(config["data"]["name"]).startswith("vtab/"):
        basis["data"] = "VTAB-1k"
    return tuple((key, str(value)) for key, value in basis.items())


def _groups(config: Mapping[str, Any]) -> int:
    """How many groups of classes were learned one after the other; 0 where all were learned at once."""
    groups = config["data"].get("class_groups")
    return groups if isinstance(groups, int) else len(groups or ())


def _apart(config: Mapping[str, Any]) -> str:
    """` (masks=true)`: options that make another task of it, where a run has them."""
    section = config.get("task") or {}
    differing = _differing(section, results_of(config).apart)
    return f" ({', '.join(f'{key}={_as_json(value)}' for key, value in differing.items())})" if differing else ""


def _input_size(transform: Mapping[str, Any]) -> str:
    """`224`; a detector has a canvas, `512x512`, or the shorter side and the most of the longer, `800 to 1333`."""
    size = transform.get("size", "?")
    if isinstance(size, Sequence) and not isinstance(size, str):
        return "x".join(map(str, size))
    return str(size) if size is not None else f"{transform['min_size'][-1]} to {transform['max_size']}"


def _range(transform: Mapping[str, Any]) -> str:
    """`, values 0 to 4095`, where a range was given; older records have none."""
    limits = transform.get("range", "auto")
    return "" if limits == "auto" else f", values {limits[0]:.9g} to {limits[1]:.9g}"


def _more(transform: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The range, `, crop` or `, pad`, and how often tests look at an image, each where that is not usual."""
    resize, tta = transform.get("resize", "squash"), data.get("tta", "none")
    shape, mirrored = "" if resize == "squash" else f", {resize}", "" if tta == "none" else ", with mirror images"
    drafted = ", draft" if transform.get("draft") else ""
    return _range(transform) + shape + drafted + mirrored + _windows(data)


def _windows(data: Mapping[str, Any]) -> str:
    """`, windows of 256x256 every 171x171`, and `, scales 0.5/1`, where tests look at an image so."""
    sides = {key: "x".join(map(str, data[key])) for key in ("window", "stride") if data.get(key)}
    windows = f", windows of {sides['window']} every {sides['stride']}" if len(sides) == 2 else ""
    scales = "/".join(f"{scale:g}" for scale in data.get("scales") or ())
    return windows + (f", scales {scales}" if scales else "")


def _numbers(values: Any) -> str:
    return "/".join(f"{v:.4g}" for v in dict.fromkeys(values)) if values else "?"


def split_of(stamps: Mapping[str, Any]) -> str:
    """The name of the split with the beginning of its hash: `digits (0123456789ab)`."""
    data = stamps.get("data") or {}
    return f"{data.get('split', '?')} ({str(data.get('hash', '?'))[:12]})"


def setting_of(config: Mapping[str, Any], task: TaskResults, solved: bool = False) -> Setting:
    """What was chosen for a run's method, optimizer and training, without what a protocol chose for it.

    Where the head was `solved`, nothing was optimised in epochs, and what the config says of that is left out.
    """
    trainer, optimizer = config.get("trainer") or {}, config.get("optimizer") or {}
    training = ("precision", "max_batches") if solved else _TRAINER
    chosen = [
        *_flat(config["method"].get("options") or {}, "method."),
        *_flat({} if solved else _but_later_defaults("optimizer", optimizer), "optimizer."),
        *_flat({**_picked(trainer, training), **_later_choices("trainer", trainer)}, "trainer."),
        *_flat(_task_options(config, task), "task."),
        *_flat(_pruning_options(config), "pruning."),
        *_flat(
            {"drop_path": config["backbone"].get("drop_path", 0.0), **_later_choices("backbone", config["backbone"])},
            "backbone.",
        ),
    ]
    protocol = config.get("protocol") or {}
    if protocol.get("learn", "before") != "before":
        chosen.append(("protocol.learn", _as_json(protocol["learn"])))
    if replay := config["data"].get("replay"):
        chosen.append(("data.replay", _as_json(replay)))
    if config.get("start"):  # the folder of the run that it begins from is named by that run's id
        chosen.append(("start", _as_json(str(config["start"]).rstrip("/").rpartition("/")[2])))
    tuned = protocol.get("grid") or {}
    return tuple((key, value) for key, value in chosen if key not in tuned)


def _but_later_defaults(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    first = {key: value for key, value in values.items() if key not in _LATER[section]}
    return first | _later_choices(section, values)


def _later_choices(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the keys that came later, those with another value than that of runs without them."""
    return _differing(values, _LATER[section])


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key, default in defaults.items() if values.get(key, default) != default}


def _task_options(config: Mapping[str, Any], task: TaskResults) -> Mapping[str, Any]:
    section = config.get("task") or {}
    if task.setting is not None:
        first = {key: section.get(key, default) for key, default in task.setting.items()}
        return first | _differing(section, task.later)
    as_before = {key for key, default in task.later.items() if section.get(key, default) == default}
    return {key: value for key, value in section.items() if key not in ("name", "path") and key not in as_before}


def _pruning_options(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was chosen for pruning: a pruned backbone is part of a method's setting, and compared with the whole one."""
    chosen = config.get("pruning") or {}
    return {} if chosen.get("name", "none") == "none" else chosen


def data_setting_of(config: Mapping[str, Any]) -> Setting:
    """What was chosen for the training images: batches, augmentation, their order, views."""
    taps = config.get("taps") or {}
    chosen = {**_picked(config["data"], _DATA), **_later_choices("data", config["data"])}
    kept = {"views": taps.get("views", 0), **_later_choices("taps", taps)}
    return _flat(chosen, "data.") + _flat(kept, "taps.")


def protocol_of(config: Mapping[str, Any]) -> str:
    """The protocol that chose some of the setting, in words; the empty string where there was none."""
    protocol = config.get("protocol") or {}
    if not protocol.get("grid"):
        return ""
    where = f"on {protocol['tuned_on']}" if "tuned_on" in protocol else "a task"
    grid = ", ".join(f"{k} in {json.dumps(v)}" for k, v in sorted((protocol.get("grid") or {}).items()))
    return f"{protocol['name']}: {plural(protocol['trials'], 'trial')} {where} ({grid})"


def trial_of(config: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """What the trial that a protocol chose reached on validation images, by metric; empty where there was none."""
    protocol = config.get("protocol") or {}
    for trial in protocol.get("tried") or ():
        if trial["point"] == protocol.get("chosen"):
            return tuple((key, float(v)) for key, v in trial.items() if key.startswith("val/") and v is not None)
    return ()


def options_of_data(config: Mapping[str, Any]) -> str:
    """What decides which images a data set gives to whom, as JSON: its options."""
    return json.dumps(config["data"].get("options") or {}, sort_keys=True)


def _picked(section: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, Any]:
    return {key: section.get(key) for key in keys}


def _flat(values: Mapping[str, Any], prefix: str) -> Setting:
    return tuple(sorted((prefix + key, _as_json(value)) for key, value in values.items()))


def _as_json(value: Any) -> str:
    kind: Any = type(value)
    return _scalar_as_json(kind, value) if kind in _SCALARS else json.dumps(value)


_SCALARS = {str, int, float, bool, type(None)}


@lru_cache(4096)
def _scalar_as_json(kind: Any, value: Any) -> str:
    """`kind` tells True from 1."""
    return json.dumps(value)
