"""What a report keeps of a record: ten thousand of them fit in memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.results.figures import is_figure
from peftbench.results.labels import data_name
from peftbench.results.layers import layer_parameters
from peftbench.results.overfitting import Overfit, overfit_of
from peftbench.results.peaks import MEASURES, compared_peak
from peftbench.results.per_image import PerImage, stamped
from peftbench.results.record import FILE, Record
from peftbench.results.settings import (
    Setting,
    basis_of,
    data_setting_of,
    options_of_data,
    protocol_of,
    setting_of,
    split_of,
    trial_of,
)
from peftbench.results.task_results import results_of_record

LIVE, KEPT, TOGETHER = "", "from kept taps", "trained together"
_POINTS = 60  # of a learning curve
_MOST_IMAGES = 10**12  # a record that names more is wrong


@dataclass(frozen=True, slots=True)
class Costs:
    """What one run cost, in seconds, bytes and counts; None where the record has no figure.

    `inside` are the parameters of the method that change what the backbone computes. `fill` is what computing
    the taps took, in no other time. `measure` says what `memory` counts. Energies are in joules, and `energy_by` says
    how they were come by; `amount` is what the run cost in money, at the `price` of an hour. Of runs that trained
    together they are shares.
    """

    parameters: float | None
    inside: float | None
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
    energy_train: float | None
    energy_test: float | None
    energy_by: str
    amount: float | None
    price: float | None

    @property
    def energy(self) -> float | None:
        """Of training and test."""
        return None if self.energy_train is None else self.energy_train + (self.energy_test or 0.0)


@dataclass(frozen=True, slots=True)
class Run:
    """What a report keeps of a record.

    `primary` is the metric that its task is judged by, and `beside` those to show next to it. `basis` is what runs
    must share to stand in one table. `setting` holds what was chosen for method, optimizer and training, `batch` what
    was chosen for the data; `tuned` says which protocol chose some of it, and `trial` what that trial reached on
    validation images. `solved` says that its head was solved, not trained. `counted` are the metrics that count
    images, and `images` is how many were read, by role. `ended` is the day (YYYY-MM-DD) and `code` the commit or the
    version that ran; empty where the record does not say it.
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
    beside: tuple[str, ...]
    basis: Setting
    split: str
    setting: Setting
    batch: Setting
    source: str
    tuned: str
    trial: tuple[tuple[str, float], ...]
    solved: bool
    times: str
    machine: str
    metrics: Mapping[str, float]
    counted: tuple[str, ...]
    images: tuple[tuple[str, int], ...]
    right: PerImage | None
    costs: Costs
    curve: tuple[array[float], array[float], array[float]]
    overfits: Overfit | None
    layers: tuple[tuple[str, str, int], ...]
    ended: str
    code: str

    def counts(self, metric: str) -> bool:
        """Whether the metric, such as `test/accuracy`, is a share of images."""
        return metric.rpartition("/")[2] in self.counted

    def images_behind(self, metric: str) -> int | None:
        """How many images the metric was counted on; of a mean over sets the fewest, None where no record says it."""
        role = metric.rpartition("/")[0]
        numbers = (n for name, n in self.images if name == role or name.startswith((f"{role}/", f"{role}:")))
        return min(numbers, default=None)

    def validated(self, metric: str) -> float | None:
        """What the run, or the trial by which a protocol chose its setting, reached on validation images."""
        return self.metrics.get(metric, dict(self.trial).get(metric))


class Shared:
    """Equal values kept once: ten thousand records share a handful of settings."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        """The equal value that came first."""
        return self._known.setdefault(value, value)


def summarise(record: Record, shared: Shared) -> Run:
    """What a report needs of the record.

    Raises:
        UserError: a part that every record has is missing or of another type.
    """
    try:
        return _summary(record, shared)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as problem:
        part = f" ({shortened(str(problem))})" if str(problem) else ""
        raise UserError(f"{record.folder}/{FILE}: is not a whole record{part}.") from None


def _summary(record: Record, shared: Shared) -> Run:
    config, stamps = record.config, record.stamps
    chosen = config.get("choices") or {}
    method, backbone = config["method"], config["backbone"]
    metrics, costs = record.metrics or {}, record.costs or {}
    task = results_of_record(record)
    backbone_name = chosen.get("backbone")
    return Run(
        id=str(record.id),
        folder=record.folder,
        status=str(record.status),
        reason=str(record.reason or ""),
        method=shared(str(chosen.get("method") or method["name"])),
        backbone=shared(str(backbone["name"] if backbone_name in (None, "timm") else backbone_name)),
        task=shared(data_name(config)),
        seed=int(config.get("seed", 0)),
        primary=task.metric,
        beside=shared(task.besides),
        basis=shared(basis_of(config, stamps)),
        split=shared(split_of(stamps)),
        setting=shared(setting_of(config, task, bool(stamps.get("solved")))),
        batch=shared(data_setting_of(config)),
        source=shared(options_of_data(config)),
        tuned=shared(protocol_of(config)),
        trial=shared(trial_of(config)),
        solved=bool(stamps.get("solved")),
        times=_kind_of_times(costs),
        machine=shared(_machine(config, stamps)),
        metrics={shared(name): float(value) for name, value in metrics.items() if is_figure(value)},
        counted=shared(tuple(task.counted)),
        images=shared(_images(config, stamps, costs)),
        right=stamped(stamps),
        costs=_costs(costs),
        curve=_curve(record.history or [], f"val_{task.metric}"),
        overfits=overfit_of(config, record.history or []),
        layers=shared(tuple((name, kind, n) for (name, kind), n in layer_parameters(record.plan or {}).items())),
        ended=shared(_text(stamps.get("ended"))[:10]),
        code=shared(_code(stamps)),
    )


def _code(stamps: Mapping[str, Any]) -> str:
    """`commit 0123456789ab`, with a `+` where the checkout had changes; of an installed package `version 0.1.0`."""
    commit, version = _text(stamps.get("commit")), _text((stamps.get("versions") or {}).get("peftbench"))
    if commit:
        return f"commit {commit[:12]}{'+' if commit.endswith('+') else ''}"
    return f"version {version}" if version else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _kind_of_times(costs: Mapping[str, Any]) -> str:
    """Only times of one kind are compared."""
    if costs.get("together", 1) > 1:
        return TOGETHER
    return LIVE if (costs.get("taps") or {"mode": "off"})["mode"] == "off" else KEPT


def _machine(config: Mapping[str, Any], stamps: Mapping[str, Any]) -> str:
    machine, trainer = stamps.get("machine") or {}, config.get("trainer") or {}
    processes = trainer.get("devices", 1) * trainer.get("nodes", 1)
    gpus = machine.get("devices") or []
    if gpus and trainer.get("accelerator") != "cpu":
        return f"{processes} x {gpus[0]}"
    name = f"{machine.get('processor') or '?'}, {machine.get('threads', '?')} threads"
    return f"{name} x {processes}" if processes > 1 else name


def _images(config: Mapping[str, Any], stamps: Mapping[str, Any], costs: Mapping[str, Any]) -> tuple[Any, ...]:
    """How many images were read, by role. Records of before tell of the test what it took, whole and for an image."""
    numbers = (stamps.get("data") or {}).get("images")
    if isinstance(numbers, Mapping):
        return tuple((str(role), n) for role, n in numbers.items() if type(n) is int and 0 < n < _MOST_IMAGES)
    trainer = config.get("trainer") or {}
    test, image = (_figure(costs, "time", key) for key in ("test", "test_image"))
    alone = trainer.get("devices", 1) * trainer.get("nodes", 1) == 1  # each process timed its own share
    if alone and test is not None and image is not None and 0 < image <= test < _MOST_IMAGES * image:
        return (("test", round(test / image)),)
    return ()


def _part(costs: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = costs.get(name)
    return part if isinstance(part, Mapping) else {}


def _figure(costs: Mapping[str, Any], *path: str) -> float | None:
    value: Any = costs
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if is_figure(value) else None


def _costs(costs: Mapping[str, Any]) -> Costs:
    def at(*path: str) -> float | None:
        return _figure(costs, *path)

    kept = costs.get("memory")
    memory, measure = compared_peak(kept.get("peak") if isinstance(kept, Mapping) else None)
    return Costs(
        parameters=at("parameters", "method"),
        inside=at("parameters", "in_backbone"),
        head=at("parameters", "head"),
        train=at("time", "train"),
        step=at("time", "step", "median"),
        fill=at("taps", "seconds"),
        validate=at("time", "validate"),
        latency=at("time", "latency"),
        memory=memory,
        measure=MEASURES.get(measure, ""),
        flops=at("flops"),
        delta=at("delta_bytes"),
        energy_train=at("energy", "train"),
        energy_test=at("energy", "test"),
        energy_by=_text(_part(costs, "energy").get("measure")),
        amount=None if (price := at("money", "price")) is None else at("money", "amount"),
        price=price,
    )


def _curve(history: Sequence[Mapping[str, Any]], metric: str) -> tuple[array[float], array[float], array[float]]:
    """Epochs, training losses and the metric on validation images; NaN where there is none."""
    every = max(1, math.ceil(len(history) / _POINTS))
    rows = [row for i, row in enumerate(history) if i % every == 0 or i == len(history) - 1]
    epochs, losses, values = (_column(rows, name) for name in ("epoch", "train_loss", metric))
    return epochs, losses, values


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> array[float]:
    try:
        return array("f", [row[name] for row in rows])
    except (KeyError, TypeError, OverflowError):
        return array("f", [_number(row.get(name)) for row in rows])


def _number(value: Any) -> float:
    return float(value) if is_figure(value) and abs(value) < 1e38 else math.nan
