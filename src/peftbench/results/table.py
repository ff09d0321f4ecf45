"""The table at the end of a run or a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from peftbench.results.primary import task_of
from peftbench.results.record import Record


def render(records: Sequence[Record], console: Console | None = None) -> None:
    """Prints how good runs are beside what they cost: one as a list, several as a table; then what is not complete."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=200, file=console.file)
    done = [r for r in records if r.status == "complete"]
    if len(done) == 1 and len(records) == 1:
        console.print(_list(done[0]))
    elif done:
        console.print(_table(done, console))
    own = differences(records)
    for record in records:
        if record.status != "complete":
            which = escape(" ".join([label(record), own[id(record)]]).strip())
            text = f"[bold]{record.status}[/bold] {which}: {escape(record.reason or '')}"
            console.print(text, soft_wrap=True, highlight=False)


def _list(record: Record) -> Table:
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, _, show in _columns([record]):
        table.add_row(name, show(record))
    return table


def _table(records: Sequence[Record], console: Console) -> Table:
    """As many columns as fit, the most telling ones first to stay."""
    columns = _columns(records)
    while True:
        table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
        for name, justify, _ in columns:
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for record in records:
            table.add_row(*(show(record) for _, _, show in columns))
        fits = Measurement.get(console, console.options.update(max_width=1000), table).maximum <= console.width
        extra = next((c for name in _FIRST_TO_GO for c in columns if c[0] == name), None)
        if fits or extra is None:
            return table
        columns.remove(extra)


def _columns(records: Sequence[Record]) -> list[tuple[str, str, Callable[[Record], str]]]:
    """All, but for metrics of other tasks, the accuracy on shifted test sets and the taps where no run had any; and
    what runs differ in that bear the same names.
    """
    own, tasks = differences(records), {task_of(r.config) for r in records}
    some = {"ood %": any("ood/accuracy" in r.metrics for r in records), "taps": any(_taps(r) != "–" for r in records)}
    some |= {"top-1 %": tasks != {"detection"}, "AP %": "detection" in tasks, "AP50 %": "detection" in tasks}
    columns = [c for c in _COLUMNS if some.get(c[0], True)]
    if any(own.values()):
        columns.insert(4, ("with", "left", lambda r: own[id(r)] or "–"))
    return columns


def differences(records: Sequence[Record]) -> dict[int, str]:
    """By id of the record object: the options in which it differs from others of its method, backbone, data and seed.

    "rank=4 pruning=none", say; the empty string where no other bears the same names. A record of a job that came to no
    config is compared, by what the job was given, with others of that kind.
    """
    alike: dict[tuple[str, bool], list[Record]] = {}
    for record in records:
        alike.setdefault((label(record), "given" in record.config), []).append(record)
    found: dict[int, str] = {}
    for group in alike.values():
        flat = [_options(r.config) for r in group]
        keys = list(dict.fromkeys(k for one in flat for k in one))
        keys = [k for k in keys if len({str(one.get(k)) for one in flat}) > 1]
        names = [k.removesuffix(".name").removeprefix("method.options.") for k in keys]
        for record, one in zip(group, flat, strict=True):
            off = [f"{k.removesuffix('.name')}." for k, v in one.items() if k.endswith(".name") and v == "none"]
            values = (None if k.startswith(tuple(off)) and not k.endswith(".name") else one.get(k) for k in keys)
            pairs = zip(names, values, strict=True)
            found[id(record)] = " ".join(f"{n}={_word(v)}" for n, v in pairs if v is not None)
    return found


def _word(value: Any) -> str:
    """As it is given on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted key."""
    if "given" in config:
        return {word.partition("=")[0]: word.partition("=")[2] for word in config["given"]}
    return dict(_flat({k: v for k, v in config.items() if k not in _PLACES}))


_PLACES = ("choices", "output_dir", "data_dir", "force", "logger")


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, dict):
        return [(prefix.rstrip("."), values)]
    return [pair for name, value in values.items() for pair in _flat(value, f"{prefix}{name}.")]


def label(record: Record) -> str:
    """method backbone data seed, as the user named them."""
    config = record.config
    chosen = config.get("choices") or {}
    names = [chosen.get(g) or config.get(g, {}).get("name", "?") for g in ("method", "backbone", "data")]
    return f"method={names[0]} backbone={names[1]} data={names[2]} seed={config.get('seed', '?')}"


def _name(group: str) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        chosen = (record.config.get("choices") or {}).get(group)
        return str(record.config[group]["name"] if chosen in (None, "timm") else chosen)

    return show


def _reached(metric: str) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        for role, mark in (("test", ""), ("val", " (val)")):
            value = record.metrics.get(f"{role}/{metric}", math.nan)
            if math.isfinite(value):
                return f"{100 * value:.1f}{mark}"
        return "–"

    return show


def _shifted(record: Record) -> str:
    found = record.metrics.get("ood/accuracy")
    return "–" if found is None else f"{100 * found:.1f}"


def _cost(path: str, form: Callable[[Any], str]) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        value: Any = record.costs
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return "–" if value is None else form(value)

    return show


def _peak(record: Record) -> str:
    memory = record.costs.get("memory", {}).get("peak", {})
    value = memory.get("allocated", memory.get("resident"))
    return "–" if value is None else size(value)


def count(value: float) -> str:
    """1234 -> 1,234; 1234567 -> 1.23 M."""
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{int(value):,}"


def size(value: float) -> str:
    """Bytes with a unit: 1500 -> 2 kB."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def seconds(value: float) -> str:
    """12.3 s, or minutes from two on."""
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _shared(record: Record) -> str:
    """A step of several runs at once is no step of one."""
    return f" / {record.costs['together']}" if record.costs.get("together", 1) > 1 else ""


def _taps(record: Record) -> str:
    """Whether the run trained from kept taps, and what computing them took."""
    taps = record.costs.get("taps") or {"mode": "off"}
    if taps["mode"] == "off":
        return "–"
    return f"{taps['mode']}, {seconds(taps['seconds'])} to fill" if taps["computed"] else f"{taps['mode']}, filled"


_COLUMNS: list[tuple[str, str, Callable[[Record], str]]] = [
    ("method", "left", _name("method")),
    ("backbone", "left", _name("backbone")),
    ("data", "left", _name("data")),
    ("seed", "right", lambda r: str(r.config["seed"])),
    ("top-1 %", "right", _reached("accuracy")),
    ("AP %", "right", _reached("AP")),
    ("AP50 %", "right", _reached("AP50")),
    ("ood %", "right", _shifted),
    ("params", "right", _cost("parameters.method", count)),
    ("head", "right", _cost("parameters.head", count)),
    ("train", "right", _cost("time.train", seconds)),
    ("step", "right", lambda r: _cost("time.step.median", lambda v: f"{1000 * v:.1f} ms")(r) + _shared(r)),
    ("taps", "right", lambda r: _taps(r)),
    ("images/s", "right", _cost("time.images_per_second", lambda v: f"{v:.0f}")),
    ("peak mem", "right", _peak),
    ("saved/step", "right", _cost("memory.saved_for_backward", size)),
    ("delta", "right", _cost("delta_bytes", size)),
]
_FIRST_TO_GO = ("saved/step", "images/s", "delta", "seed", "head", "train", "peak mem")
