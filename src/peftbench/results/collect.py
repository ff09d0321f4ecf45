"""Any number of records, read for a report: of each only what a report needs is kept."""

from __future__ import annotations

import gc
import json
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.results.primary import primary, task_of
from peftbench.results.record import FILE, Record, read

Setting = tuple[tuple[str, str], ...]  # (key, value as JSON), sorted
LIVE, KEPT, TOGETHER = "", "from kept taps", "trained together"
OWN = "as listed"
_POINTS = 60  # of a learning curve


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one run; None where the record has none. Seconds, bytes, counts.

    `fill` is what computing the taps took, in no other time. `measure` says what `memory` counts.
    """

    parameters: float | None
    head: float | None
    train: float | None
    step: float | None
    fill: float | None
    validate: float | None
    latency: float | None
    memory: float | None
    measure: str
    flops: float | None
    delta: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """What a report keeps of a record.

    `primary` is the metric that its task is judged by. `basis` is what runs must share to stand in one table. `setting`
    holds what was chosen for method, optimizer and training, `batch` what was chosen for the data; `tuned` says which
    protocol chose some of it.
    """

    id: str
    folder: str
    status: str
    reason: str
    method: str
    backbone: str
    task: str
    seed: int
    primary: str
    basis: Setting
    split: str
    setting: Setting
    batch: Setting
    tuned: str
    times: str
    machine: str
    metrics: Mapping[str, float]
    costs: Costs
    curve: tuple[array[float], array[float], array[float]]
    layers: tuple[tuple[str, str, int], ...]


@dataclass
class Collected:
    """`skipped` are files that are no records of ours, `repeated` further records of a run id, each with the reason."""

    runs: list[Run] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)


def collect(places: Sequence[Path]) -> Collected:
    """Every record below the given folders; hidden folders (replaced runs, lists of sweeps) are left out.

    What is no record, or of another version, is skipped and named. Of two records of one run the complete one counts,
    or else the first.

    Raises:
        UserError: a folder that does not exist, or no record at all.
    """
    found = Collected()
    running = gc.isenabled()
    gc.disable()  # what is parsed has no cycles, and there is much of it
    try:
        _read_all(places, found)
    finally:
        if running:
            gc.enable()
    if not found.runs:
        tried = ", ".join(str(p) for p in places)
        bad = f" ({len(found.skipped)} files called {FILE} are none: {found.skipped[0][1]})" if found.skipped else ""
        raise UserError(f"{tried}: holds no record of a run{bad}; a run leaves one in <output_dir>/<run id>/{FILE}.")
    return found


def _read_all(places: Sequence[Path], found: Collected) -> None:
    index: dict[str, int] = {}
    shared = _Shared()
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: there is no such folder; give one with run folders in it, such as outputs.")
        for folder in _folders(place):
            try:
                record = read(folder)
                assert record is not None
                run = _slim(record, shared)
            except UserError as problem:
                found.skipped.append((str(folder / FILE), str(problem).partition(": ")[2]))
                continue
            except OSError as problem:
                found.skipped.append((str(folder / FILE), f"cannot be read ({problem.strerror})."))
                continue
            _add(found, index, run)


def _add(found: Collected, index: dict[str, int], run: Run) -> None:
    at = index.get(run.id)
    if at is None:
        index[run.id] = len(found.runs)
        found.runs.append(run)
        return
    first = found.runs[at]
    if run.folder == first.folder:  # the same folder was given twice
        return
    if run.status == "complete" and first.status != "complete":
        found.runs[at], run, first = run, first, run
    same = "the same figures" if run.metrics == first.metrics else "other figures"
    found.repeated.append((run.folder, f"is of run {run.id} like {first.folder}, with {same}; the latter counts."))


def _folders(place: Path) -> Iterator[Path]:
    """Folders with a record, in order of their names."""
    if place.is_file():
        if place.name == FILE:
            yield place.resolve().parent
        return
    for root, folders, files in os.walk(place, followlinks=False):
        if FILE in files:
            folders.clear()
            yield Path(root).resolve()
        folders[:] = sorted(f for f in folders if not f.startswith("."))


class _Shared:
    """Equal values kept once: ten thousand records share a handful of settings."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        return self._known.setdefault(value, value)


def _slim(record: Record, shared: _Shared) -> Run:
    """Raises UserError where a part that every record has is missing or of another type."""
    where = f"{record.folder}/{FILE}"
    try:
        return _run(record, shared)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        part = f" ({problem})" if str(problem) else ""
        raise UserError(f"{where}: is not a whole record{part}.") from None


def _run(record: Record, shared: _Shared) -> Run:
    config, stamps = record.config, record.stamps
    chosen = config.get("choices") or {}
    method, data, backbone = config["method"], config["data"], config["backbone"]
    named = chosen.get("backbone")
    protocol = config.get("protocol") or {}
    costs = _costs(record.costs or {})
    return Run(
        id=str(record.id),
        folder=record.folder,
        status=str(record.status),
        reason=str(record.reason or ""),
        method=shared(str(chosen.get("method") or method["name"])),
        backbone=shared(str(backbone["name"] if named in (None, "timm") else named)),
        task=shared(str(chosen.get("data") or data["name"])),
        seed=int(config.get("seed", 0)),
        primary=primary(config),
        basis=shared(_basis(config, stamps)),
        split=shared(_split(stamps)),
        setting=shared(_setting(config, protocol)),
        batch=shared(_batch(config)),
        tuned=shared(_tuned(protocol)),
        times=_times(record.costs or {}),
        machine=shared(_machine(config, stamps)),
        metrics=_metrics(record.metrics or {}, shared),
        costs=costs,
        curve=_curve(record.history or [], f"val_{primary(config)}"),
        layers=_layers(record.plan or {}, shared),
    )


def _basis(config: Mapping[str, Any], stamps: Mapping[str, Any]) -> Setting:
    """What two runs must have in common for their accuracies to be compared."""
    backbone, data = stamps.get("backbone") or {}, stamps.get("data") or {}
    transform = data.get("transform") or {}
    random = backbone.get("pretrained") is False  # then the weights are drawn from the seed
    split = str(data.get("split")).partition("@")[2]  # `vtab/cifar@tfds-order`: what lists do not name is computed
    whole = (backbone.get("pruning") or {}).get("origin") or backbone.get("fingerprint", "unknown")
    found = {
        "backbone": backbone.get("name", config["backbone"]["name"]),
        "weights": "random" if random else backbone.get("weights", "unknown"),
        "fingerprint": "" if random else str(whole)[:12],
        "input": f"{_size(transform)} px, {transform.get('interpolation', '?')}",
        "normalisation": f"mean {_numbers(transform.get('mean'))}, std {_numbers(transform.get('std'))}",
        "split": split or OWN,
        "trained on": {"final": "train and val"}.get(data.get("stage", ""), "train"),
        "data": "VTAB-1k" if str(config["data"]["name"]).startswith("vtab/") else "other data sets",
        "task": task_of(config),
    }
    return tuple((k, str(v)) for k, v in found.items())


def _size(transform: Mapping[str, Any]) -> str:
    """`224`; of a detector the canvas, `512x512`, or the shorter side and the most of the longer: `800 to 1333`."""
    size = transform.get("size", "?")
    if isinstance(size, Sequence) and not isinstance(size, str):
        return "x".join(map(str, size))
    return str(size) if size is not None else f"{transform['min_size'][-1]} to {transform['max_size']}"


def _numbers(values: Any) -> str:
    return "/".join(f"{v:.4g}" for v in dict.fromkeys(values)) if values else "?"


def _split(stamps: Mapping[str, Any]) -> str:
    data = stamps.get("data") or {}
    return f"{data.get('split', '?')} ({str(data.get('hash', '?'))[:12]})"


_TRAINER = ("precision", "epochs", "accumulate", "clip", "max_batches")


def _setting(config: Mapping[str, Any], protocol: Mapping[str, Any]) -> Setting:
    """What was chosen for a run, without what a protocol chose for it on validation images."""
    trainer = config.get("trainer") or {}
    found = [
        *_flat(config["method"].get("options") or {}, "method."),
        *_flat(config.get("optimizer") or {}, "optimizer."),
        *_flat({k: trainer.get(k) for k in _TRAINER}, "trainer."),
        *_flat(_task(config), "task."),
        *_flat(_pruning(config), "pruning."),
        *_flat({"drop_path": config["backbone"].get("drop_path", 0.0)}, "backbone."),
    ]
    return tuple((k, v) for k, v in found if k not in (protocol.get("grid") or {}))


def _task(config: Mapping[str, Any]) -> Mapping[str, Any]:
    task = config.get("task") or {}
    if task_of(config) == "classification":
        return {"label_smoothing": task.get("label_smoothing", 0.0)}
    return {k: v for k, v in task.items() if k != "name"}


def _pruning(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was chosen for pruning: a pruned backbone is part of a method's setting, and compared with the whole one."""
    chosen = config.get("pruning") or {}
    return {} if chosen.get("name", "none") == "none" else chosen


def _batch(config: Mapping[str, Any]) -> Setting:
    data = _flat({k: config["data"].get(k) for k in ("batch_size", "augment", "on_error", "order_seed")}, "data.")
    return data + _flat({"views": (config.get("taps") or {}).get("views", 0)}, "taps.")


def _tuned(protocol: Mapping[str, Any]) -> str:
    if not protocol:
        return ""
    grid = ", ".join(f"{k} in {json.dumps(v)}" for k, v in sorted((protocol.get("grid") or {}).items()))
    return f"{protocol['name']}: {protocol['trials']} trials a task ({grid})"


def _flat(values: Mapping[str, Any], prefix: str) -> Setting:
    return tuple(sorted((prefix + k, _text(v)) for k, v in values.items()))


def _text(value: Any) -> str:
    kind: Any = type(value)
    return _plain(kind, value) if kind in _SCALARS else json.dumps(value)


_SCALARS = {str, int, float, bool, type(None)}


@lru_cache(4096)
def _plain(kind: Any, value: Any) -> str:
    """As JSON; `kind` tells True from 1."""
    return json.dumps(value)


def _times(costs: Mapping[str, Any]) -> str:
    """What kind of times these are; only equal kinds are compared."""
    if costs.get("together", 1) > 1:
        return TOGETHER
    return LIVE if (costs.get("taps") or {"mode": "off"})["mode"] == "off" else KEPT


def _machine(config: Mapping[str, Any], stamps: Mapping[str, Any]) -> str:
    machine, trainer = stamps.get("machine") or {}, config.get("trainer") or {}
    count = trainer.get("devices", 1) * trainer.get("nodes", 1)
    gpus = machine.get("devices") or []
    if gpus and trainer.get("accelerator") != "cpu":
        return f"{count} x {gpus[0]}"
    return f"{machine.get('processor') or '?'}, {machine.get('threads', '?')} threads" + f" x {count}" * (count > 1)


def _metrics(metrics: Mapping[str, Any], shared: _Shared) -> Mapping[str, float]:
    return {shared(k): float(v) for k, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}


def _costs(costs: Mapping[str, Any]) -> Costs:
    def at(*path: str) -> float | None:
        value: Any = costs
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    measure = next((m for m in ("allocated", "resident") if at("memory", "peak", m) is not None), "")
    return Costs(
        parameters=at("parameters", "method"),
        head=at("parameters", "head"),
        train=at("time", "train"),
        step=at("time", "step", "median"),
        fill=at("taps", "seconds"),
        validate=at("time", "validate"),
        latency=at("time", "latency"),
        memory=at("memory", "peak", measure) if measure else None,
        measure={"allocated": "allocated on the GPU", "resident": "resident, above the set-up's"}.get(measure, ""),
        flops=at("flops"),
        delta=at("delta_bytes"),
    )


def _curve(history: Sequence[Mapping[str, Any]], metric: str) -> tuple[array[float], array[float], array[float]]:
    """Epochs, training losses and the metric on validation images; NaN where there is none."""
    every = max(1, math.ceil(len(history) / _POINTS))
    rows = [r for i, r in enumerate(history) if i % every == 0 or i == len(history) - 1]
    epochs, losses, values = (_column(rows, k) for k in ("epoch", "train_loss", metric))
    return epochs, losses, values


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> array[float]:
    try:
        return array("f", [r[name] for r in rows])
    except (KeyError, TypeError, OverflowError):
        return array("f", [_number(r.get(name)) for r in rows])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e38 else math.nan


def _layers(plan: Mapping[str, Any], shared: _Shared) -> tuple[tuple[str, str, int], ...]:
    """(layer, kind, parameters), summed over the tensors of each layer."""
    found: dict[tuple[str, str], int] = {}
    for row in plan.get("layers") or []:
        key = (layer(str(row["name"])), str(row["kind"]))
        found[key] = found.get(key, 0) + int(row["parameters"])
    return shared(tuple((name, kind, n) for (name, kind), n in found.items()))


def layer(tensor: str) -> str:
    """The layer of a tensor: `blocks.0.attn.qkv` of `blocks.0.attn.qkv.weight[:128]`, its third kept."""
    stem, _, last = tensor.rpartition(".")
    third = f"[{last.partition('[')[2]}" if "[" in last else ""
    return (stem or last) + third
