"""What `peftbench benchmark` measured of the files of a run: `benchmark.json` in its folder, and the tables of it."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from peftbench.common.amounts import plural
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import Refusal, UserError
from peftbench.common.json_text import json_of
from peftbench.common.machine import processor_name
from peftbench.common.readable_names import readable, readable_in
from peftbench.common.regular_files import content_of
from peftbench.results.text_table import TextTable

FILE, TABLE = "benchmark.json", "benchmark.csv"
SCHEMA = 1
_MB = 10**6


@dataclass(frozen=True)
class Shipped:
    """What was measured of a file with a number of threads.

    Attributes:
        format: as it was asked for, such as `onnx-int8`; `torch` is the model itself.
        threads: of the runtime.
        size: bytes of the file; of `torch` those of the model's tensors.
        score: the run's main metric on the images.
        agreement: the share of images whose largest logit is the one of torch; None where there is one logit.
        logit_difference: the largest difference of a logit from torch's, as a share of torch's largest one.
        latency, p95: milliseconds of a batch, by its size: the median, and what 95 of 100 stay below.
        throughput: images a second in the larger batch.
        memory: bytes of the process at its peak, from its start until both batches have been timed.
        load: seconds from the file to a model that answers, libraries imported before.
        library: what ran it.
        measured: the date, in UTC.
    """

    format: str
    threads: int
    size: int
    score: float
    agreement: float | None
    logit_difference: float
    latency: Mapping[str, float]
    p95: Mapping[str, float]
    throughput: float
    memory: int
    load: float
    library: str
    measured: str


@dataclass(frozen=True)
class Benchmark:
    """What was measured of the files of one run on one machine.

    Attributes:
        run: its id.
        metric: the name of `Shipped.score`.
        machine: where it was measured.
        images: on what: their name, their number and a hash.
        rows: one for each format and number of threads.
    """

    run: str
    metric: str
    machine: Mapping[str, Any]
    images: Mapping[str, Any]
    rows: Sequence[Shipped]


def this_machine() -> dict[str, Any]:
    """What latencies are compared within."""
    return {"system": platform.platform(), "processor": processor_name()}


def named(machine: Mapping[str, Any]) -> str:
    """A machine in words."""
    return (
        ", ".join(str(machine[part]) for part in ("processor", "system") if machine.get(part)) or "an unknown machine"
    )


def read_benchmark(folder: Path) -> Benchmark | None:
    """What lies in the folder of a run, None where nothing does. Raises UserError where it is damaged."""
    path = folder / FILE
    try:
        content = json_of(content_of(path))
        if content["schema"] != SCHEMA:
            raise ValueError
        names = {f.name for f in fields(Shipped)}
        rows = [Shipped(**{k: v for k, v in row.items() if k in names}) for row in content["rows"]]
        kinds = all(isinstance(content[key], kind) for key, kind in (("run", str), ("machine", dict), ("images", dict)))
        numbers = all(isinstance(row.score, int | float) and isinstance(row.threads, int) for row in rows)
        if not (kinds and numbers and all(isinstance(row.latency, dict) for row in rows)):
            raise ValueError
        return Benchmark(content["run"], content["metric"], content["machine"], content["images"], rows)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(f"{path}: is no record of peftbench benchmark; move it, and measure again.") from None


def refuse_others(folder: Path, machine: Mapping[str, Any], images: Mapping[str, Any], force: bool) -> Benchmark | None:
    """What was measured here before on these images, to which new rows may be added; None where there is nothing.

    Raises:
        Refusal: it is of another machine or of other images, and `force` does not replace it.
    """
    before = None if force else read_benchmark(folder)
    if before is None:
        return None
    if dict(before.machine) != dict(machine):
        raise Refusal(
            f"{folder / FILE}: holds figures of another machine ({named(before.machine)}; this is {named(machine)}), "
            f"and no table shows two together; move it, or replace it with force=true."
        )
    if dict(before.images) != dict(images):
        raise Refusal(
            f"{folder / FILE}: holds figures of other images ({before.images.get('name')}, "
            f"{plural(before.images.get('number', 0), 'image')}), and no table shows both; move it, or replace it with "
            f"force=true."
        )
    return before


def with_new(before: Benchmark | None, new: Benchmark) -> Benchmark:
    """The new rows in the place of older ones of the same format and threads, beside the others."""
    if before is None:
        return new
    fresh = {(row.format, row.threads) for row in new.rows}
    rows = [*(row for row in before.rows if (row.format, row.threads) not in fresh), *new.rows]
    return Benchmark(new.run, new.metric, new.machine, new.images, sorted(rows, key=lambda r: (r.threads, r.format)))


def write_benchmark(folder: Path, benchmark: Benchmark) -> None:
    """Writes `benchmark.json` and `benchmark.csv`, each whole or not at all. Raises UserError."""
    content = readable_in({"schema": SCHEMA, **asdict(benchmark)})
    columns = ["run", "format", "threads", "metric", *_CSV]
    with io.StringIO(newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, "processor", "system"])
        for row in benchmark.rows:
            values = [pick(row) for pick in _CSV.values()]
            machine = [benchmark.machine.get("processor"), benchmark.machine.get("system")]
            writer.writerow([benchmark.run, row.format, row.threads, benchmark.metric, *values, *machine])
        table = readable(text.getvalue())
    with replacing(folder / TABLE) as part:
        part.write_text(table, encoding="utf-8", newline="")
    with replacing(folder / FILE) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_CSV: dict[str, Any] = {
    "score": lambda r: r.score,
    "agreement": lambda r: r.agreement,
    "logit_difference": lambda r: r.logit_difference,
    "size_bytes": lambda r: r.size,
    "latency_ms_1": lambda r: r.latency.get("1"),
    "p95_ms_1": lambda r: r.p95.get("1"),
    "latency_ms_32": lambda r: r.latency.get("32"),
    "p95_ms_32": lambda r: r.p95.get("32"),
    "images_per_s": lambda r: r.throughput,
    "memory_bytes": lambda r: r.memory,
    "load_s": lambda r: r.load,
    "library": lambda r: r.library,
    "measured": lambda r: r.measured,
}


def tables_of(benchmarks: Sequence[Benchmark], title: str = "As shipped") -> list[TextTable]:
    """A table for each machine and metric: figures of two machines stand in no table together."""
    groups: dict[tuple[str, str], list[Benchmark]] = {}
    for one in benchmarks:
        groups.setdefault((named(one.machine), one.metric), []).append(one)
    tables = []
    for (machine, metric), members in groups.items():
        several = len(members) > 1
        columns = [
            *([("run", False)] if several else []),
            ("format", False),
            *((name, True) for name in _columns(metric)),
        ]
        rows = [[*([one.run] if several else []), *_cells(row)] for one in members for row in one.rows]
        on = sorted({f"{one.images.get('name')}, {plural(one.images.get('number', 0), 'image')}" for one in members})
        runs = "" if several else f"; run {members[0].run}"
        notes = [
            f"Measured on {machine}{runs}; {metric} on {'; '.join(on)}. Latency is a median, each format in a process "
            f"of its own, in turns. Size of torch: the model's tensors."
        ]
        tables.append(TextTable(title, columns, rows, notes, repeated=2 if several else 1))
    return tables


def _columns(metric: str) -> list[str]:
    return [
        "threads",
        metric,
        "as torch",
        "logits off",
        "MB",
        "ms at 1",
        "p95",
        "ms at 32",
        "p95 at 32",
        "images/s",
        "peak MB",
        "load s",
    ]


def _cells(row: Shipped) -> list[str]:
    agreement = "–" if row.agreement is None else f"{100 * row.agreement:.1f} %"
    return [
        row.format,
        str(row.threads),
        f"{row.score:.4f}",
        agreement,
        f"{row.logit_difference:.2g}",
        f"{row.size / _MB:.2f}",
        *(f"{figures.get(size, float('nan')):.2f}" for size in ("1", "32") for figures in (row.latency, row.p95)),
        f"{row.throughput:.0f}",
        f"{row.memory / _MB:.0f}",
        f"{row.load:.2f}",
    ]
