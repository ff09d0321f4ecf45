"""What a record says of its own run, as tables and curves of the run's page. A record may come from anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from peftbench.common import amounts
from peftbench.results.advice import CURE
from peftbench.results.figures import is_figure
from peftbench.results.overfitting import overfit_of
from peftbench.results.page_parts import Chart, PagePart
from peftbench.results.peaks import peaks_of
from peftbench.results.record import Record
from peftbench.results.spending import WAYS
from peftbench.results.task_results import images_of, less_is_better, results_of_record, short
from peftbench.results.text_table import TextTable

_MOST = 60  # metrics of one kind, or points of a curve


def what_was_trained(record: Record) -> TextTable:
    """The settings of the run, a row each, and what it was made with."""
    config, stamps = record.config, record.stamps
    pairs: list[tuple[str, Any]] = []
    for section in ("method", "backbone", "pruning", "data", "task", "optimizer", "trainer", "taps"):
        values = _at(config, section)
        if not isinstance(values, Mapping) or values.get("name") == "none":
            continue
        options = values.get("options")
        plain = {**values, **(options if isinstance(options, Mapping) else {})}
        left_out = ("name", "options", "path", "tasks", "progress", "checkpoint_seconds", "meet_seconds")
        rest = (f"{k}={_word(v)}" for k, v in plain.items() if k not in left_out and v not in (None, "", [], {}))
        pairs.append((section, " ".join([str(plain.get("name") or ""), *rest]).strip()))
    pairs.append(("seed", config.get("seed")))
    backbone, data = _at(stamps, "backbone"), _at(stamps, "data")
    pairs += [
        ("weights", _joined(_at(backbone, "weights"), _at(backbone, "fingerprint"))),
        ("split", _joined(_at(data, "split"), _at(data, "hash"))),
        ("images", _counts(_at(data, "images"))),
        (results_of_record(record).outputs, _at(data, "classes")),
        ("left out as damaged", ", ".join(map(str, _at(data, "skipped") or ()))),
        ("kept", _words(_at(stamps, "kept"))),
        ("commit", _at(stamps, "commit")),
        ("versions", _words(_at(stamps, "versions"))),
        ("machine", _words(_at(stamps, "machine"))),
        ("ended", _at(stamps, "ended")),
    ]
    return _pairs("What was trained", pairs)


def what_it_reached(record: Record) -> TextTable:
    """Its metrics: those that it is judged by first, and none of single classes."""
    metrics = {n: v for n, v in record.metrics.items() if is_figure(v) and n.count("/") == 1}
    first = results_of_record(record).metric
    names = sorted(metrics, key=lambda n: ("test", "val", "train").index(n.split("/")[0]) if _role(n) else 9)
    names.sort(key=lambda n: short(n) != first)
    pairs = [(name, _figure(name, metrics[name], record)) for name in names[:_MOST]]
    return _pairs("Reached", pairs)


def what_it_cost(record: Record) -> TextTable:
    """Parameters, times, memory and sizes, of those that the record has."""
    rows: list[tuple[str, tuple[str, ...], Any]] = [
        ("trainable parameters of the method", ("parameters", "method"), amounts.count),
        ("of the head", ("parameters", "head"), amounts.count),
        ("of the backbone, frozen or not", ("parameters", "backbone"), amounts.count),
        ("training", ("time", "train"), amounts.seconds),
        ("a step", ("time", "step", "median"), amounts.seconds),
        ("validation", ("time", "validate"), amounts.seconds),
        ("test", ("time", "test"), amounts.seconds),
        ("one image, tuned model", ("time", "latency"), amounts.milliseconds),
        ("saved for backward", ("memory", "saved_for_backward"), amounts.size),
        ("what it learned, on disk", ("delta_bytes",), amounts.size),
        ("computing taps", ("taps", "seconds"), amounts.seconds),
        (f"energy of training{_how(record)}", ("energy", "train"), amounts.joules),
        (f"energy of the test{_how(record)}", ("energy", "test"), amounts.joules),
        (f"price{_at_price(record)}", ("money", "amount"), lambda value: amounts.plain(value, 3)),
    ]
    pairs = []
    for name, path, written in rows:
        value: Any = record.costs
        for step in path:
            value = _at(value, step)
        if is_figure(value):
            pairs.append((name, written(value)))
    pairs += [(name, amounts.size(bytes_)) for name, bytes_ in peaks_of(record.costs)]
    if is_figure(flops := _at(record.costs, "flops")):
        pairs.append(("operations, one image", f"{amounts.plain(flops / 1e9)} GFLOP"))
    return _pairs("Cost", pairs)


def _how(record: Record) -> str:
    """`, an estimate, costs.watts times seconds`, or how it was measured; and of how many runs it is a share."""
    energy = _at(record.costs, "energy")
    way = WAYS.get(str(_at(energy, "measure")), "")
    return "".join(f", {part}" for part in (way, _share(energy)) if part)


def _at_price(record: Record) -> str:
    money = _at(record.costs, "money")
    price = _at(money, "price")
    hour = f" at {price:g} an hour" if is_figure(price) else ""
    return f"{hour}{', ' if (share := _share(money)) else ''}{share}"


def _share(part: Any) -> str:
    return f"an equal share of {runs} runs" if is_figure(runs := _at(part, "share_of")) else ""


def curves_of(record: Record) -> PagePart | None:
    """Training loss and the metric on validation images by epoch; None where there is one epoch, or no history."""
    metric = results_of_record(record).metric
    history = [row for row in record.history if isinstance(row, Mapping) and is_figure(row.get("epoch"))]
    every = max(1, math.ceil(len(history) / _MOST))
    rows = [row for i, row in enumerate(history) if i % every == 0 or i == len(history) - 1]
    charts = []
    for title, key, scale, share in (
        ("Training loss", "train_loss", 1, False),
        (f"{metric} on validation images, %", f"val_{metric}", 100, True),
        ("Loss on validation images", "val_loss", 1, False),
    ):
        points = [[row["epoch"], scale * row[key]] for row in rows if is_figure(row.get(key))]
        if len(points) > 1:
            charts.append(Chart("curve", title, {"points": points, "share": share}))
    overfits = overfit_of(record.config, record.history)
    notes = [f"It overfits: {overfits}: {CURE}."] if overfits else []
    return PagePart("Curves", notes, charts) if charts else None


def _at(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, Mapping) else None


def _role(name: str) -> bool:
    return name.split("/")[0] in ("test", "val", "train")


def _figure(name: str, value: float, record: Record) -> str:
    if less_is_better(name) or value > 1:
        return amounts.plain(value, 4)
    counts, role = _at(_at(record.stamps, "data"), "images"), name.split("/")[0]
    if role == "ood" and isinstance(counts, Mapping):
        sets = [n for of, n in counts.items() if str(of).startswith("ood/") and isinstance(n, int)]
        total = amounts.plural(sum(sets), images_of(name))
        return f"{100 * value:.1f} %, a mean over {amounts.plural(len(sets), 'shifted set')} of {total} in all"
    images = _at(counts, role)
    behind = f" of {amounts.plural(images, images_of(name))}" if isinstance(images, int) else ""
    return f"{100 * value:.1f} %{behind}"


def _pairs(title: str, pairs: Iterable[tuple[str, Any]]) -> TextTable:
    rows = [[name, str(value)] for name, value in pairs if value not in (None, "", [], {})]
    return TextTable(title, [("", False), ("", False)], rows)


def _counts(images: Any) -> str:
    return _words({k: f"{v:,}" for k, v in images.items() if isinstance(v, int)}) if isinstance(images, Mapping) else ""


def _words(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    return ", ".join(f"{key} {_word(value)}" for key, value in values.items() if value not in (None, "", [], {}))


def _joined(*values: Any) -> str:
    return " ".join(str(value) for value in values if value)


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
