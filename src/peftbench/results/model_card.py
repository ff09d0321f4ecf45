"""A model card in the Hub's format: what a tuned model is, what it reached and cost, and how to have it again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from peftbench.common.amounts import plural
from peftbench.common.readable_names import readable
from peftbench.results.figures import is_figure
from peftbench.results.labels import data_name
from peftbench.results.record import Record
from peftbench.results.run_tables import what_it_cost
from peftbench.results.stats import share_interval
from peftbench.results.task_results import images_of, less_is_better, results_of_record, short, task_name
from peftbench.results.text_table import TextTable

MARK = "<!-- peftbench model card -->"
"""Stands in every card that peftbench wrote."""
_CLASSES = 50  # named in a card
_MARKS = re.compile(r"([\\`*_\[\]<>()#!|~&$@{}])")


@dataclass(frozen=True)
class CardFile:
    """A file that the card is of.

    Attributes:
        name: of the file.
        format: as in `peftbench export format=…`.
        difference: the largest from the model's answers; None where it is not known.
        takes: what the file is given, in words; empty where it holds weights alone.
    """

    name: str
    format: str
    difference: float | None = None
    takes: str = ""


def model_card(
    record: Record, classes: Sequence[str], command: Sequence[str], files: Sequence[CardFile], licence: str | None
) -> str:
    """The card: YAML between two lines of dashes, and Markdown.

    Args:
        record: of a complete run, without places of the machine that it was carried out on.
        classes: what the model tells apart; any text, which is escaped.
        command: the words that repeat the run; none where they are not known.
        files: what the card is of.
        licence: of the data, as the user stated it.
    """
    config = record.config
    name = _named(record)
    parts = [
        f"---\n{_front_matter(record, licence)}---",
        MARK,
        f"# {escaped(record.id)}",
        f"{escaped(name)}, tuned with peftbench "
        f"{escaped(str(_at(record.stamps, 'versions', 'peftbench') or ''))}: task {escaped(task_name(config))}.",
        _table(
            ["file", "format", "takes", "largest difference from the model's answers"], [_row(file) for file in files]
        ),
        "## Data",
        *_data(record, licence),
        "## Intended use",
        *_use(record, classes),
        "## Results",
        *_results(record),
        "## Costs",
        _of(what_it_cost(record)),
        "## To repeat it",
        *_repeated(record, command),
    ]
    return readable("\n\n".join(part for part in parts if part) + "\n")


def escaped(text: str) -> str:
    """Any text as it stands in Markdown: no mark, link, tag or line break of its own."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = _MARKS.sub(r"\\\1", plain)
    return plain.replace("://", r":\//").replace("www.", r"www\.")


def _front_matter(record: Record, licence: str | None) -> str:
    results = results_of_record(record)
    metrics = [m for m in (results.metric, *results.besides) if is_figure(record.metrics.get(f"test/{m}"))]
    backbone = str(_at(record.stamps, "backbone", "name") or "")
    task = task_name(record.config)
    content: dict[str, Any] = {
        "license": "unknown",  # of weights and data together only their owners can say
        "library_name": "peftbench",
        "tags": ["peftbench", str(record.config["method"]["name"]), backbone, task],
        "datasets": [data_name(record.config)],
        "metrics": metrics,
    }
    if results.hub:
        content["pipeline_tag"] = results.hub
    measured = [
        {"type": metric, "name": f"test {metric}", "value": record.metrics[f"test/{metric}"]} for metric in metrics
    ]
    if measured:
        data = {"type": data_name(record.config), "name": data_name(record.config), "split": "test"}
        kind = {"type": results.hub or task}
        content["model-index"] = [
            {"name": record.id, "results": [{"task": kind, "dataset": data, "metrics": measured}]}
        ]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=False, width=10_000)


def _named(record: Record) -> str:
    chosen = _at(record.config, "choices") or {}
    method, backbone = (chosen.get(g) or record.config[g]["name"] for g in ("method", "backbone"))
    return f"{backbone} with method={method} on {data_name(record.config)}"


def _row(file: CardFile) -> list[str]:
    return [file.name, file.format, file.takes, "" if file.difference is None else f"{file.difference:.1g}"]


def _data(record: Record, licence: str | None) -> list[str]:
    data = _at(record.stamps, "data")
    images = _at(data, "images")
    counts = (
        ", ".join(f"{images[role]:,} to {word}" for role, word in _ROLES if isinstance(images.get(role), int))
        if isinstance(images, Mapping)
        else ""
    )
    lines = [
        f"- data set: {escaped(data_name(record.config))} (split {escaped(str(_at(data, 'split') or 'unknown'))}, hash "
        f"{escaped(str(_at(data, 'hash') or '')[:12])})",
        f"- images: {counts}" if counts else "",
        f"- licence: {escaped(licence) if licence else 'not stated'}",
    ]
    return ["\n".join(line for line in lines if line)]


_ROLES = (("train", "train on"), ("val", "validate on"), ("test", "test on"))


def _use(record: Record, classes: Sequence[str]) -> list[str]:
    outputs = results_of_record(record).outputs
    shown = ", ".join(map(escaped, classes[:_CLASSES]))
    more = f" and {len(classes) - _CLASSES:,} more" if len(classes) > _CLASSES else ""
    told = f" Its {outputs}: {shown}{more}." if classes else ""
    return [
        f"For images like those that it was trained and tested on, prepared as the `.preprocess.json` beside the file "
        f"says.{told}",
        "The figures below are of the test images of this data set alone. Nothing is known of other cameras, places, "
        "times or people, nor of harm that a wrong answer does; test it on your own images before you rely on it.",
    ]


def _results(record: Record) -> list[str]:
    results = results_of_record(record)
    rows = []
    for name, value in record.metrics.items():
        role, _, metric = name.partition("/")
        if role not in ("test", "val") or "/" in metric or not is_figure(value):
            continue
        rows.append((role != "test", metric != results.metric, [name, _figure(name, value), _interval(record, name)]))
    rows.sort(key=lambda row: row[:2])
    if not rows:
        return ["The run measured nothing."]
    return [
        _table(["metric", "value", "95 % interval"], [row for _, _, row in rows]),
        "Intervals are Wilson's, of shares that are counted on so many images; they say nothing of another seed. "
        "`peftbench evaluate` gives those of other metrics.",
    ]


def _figure(name: str, value: float) -> str:
    return f"{value:.4g}" if less_is_better(name) or value > 1 else f"{100 * value:.1f} %"


def _interval(record: Record, name: str) -> str:
    role = name.partition("/")[0]
    images = _at(record.stamps, "data", "images", role)
    results = results_of_record(record)
    if short(name) not in results.counted or short(name) in results.averaged:
        return ""
    if not isinstance(images, int) or images < 1:
        return ""
    low, high = share_interval(record.metrics[name], images)
    return f"{100 * low:.1f} to {100 * high:.1f} % of {plural(images, images_of(name))}"


def _repeated(record: Record, command: Sequence[str]) -> list[str]:
    made = f"The run's id is `{record.id}`; weights, data, versions and machine are in `result.json`."
    if not command:
        return ["The command is not known: the run's YAML is in `config.yaml`.", made]
    text = " ".join(readable(word) for word in command).replace("\n", " ")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}\n{text}\n{fence}", made]


def _of(table: TextTable) -> str:
    return _table([name for name, _ in table.columns], table.rows) if table.rows else "The record holds none."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _at(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
