"""The page of an answer: what it is, the path of decisions, what it took, what more would bring, all that was tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from html import escape
from typing import TYPE_CHECKING

from peftbench.answering.charts import Point, cost_chart, curve_chart
from peftbench.common.amounts import count, plural, seconds, size
from peftbench.common.atomic_files import replacing
from peftbench.common.readable_names import HANDLER
from peftbench.results.data_page import data_page

if TYPE_CHECKING:
    from peftbench.answering.finding import Answered
    from peftbench.answering.state import State, Tried

PAGE = "page.html"
_HEADINGS = ("step", "method", "backbone", "with", "validation", "parameters", "memory", "time", "how it ended")
_NUMBERS = {4, 5, 6, 7}
_STYLE = """<style>
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
figure.plain { background: none; border: 0; padding: 0; }
th, td { vertical-align: top; }
td.long { white-space: normal; min-width: 16rem; max-width: 70rem; }
pre { white-space: pre-wrap; background: var(--band); padding: .6rem .8rem; border-radius: 4px; margin: .2rem 0 .8rem; }
</style>"""
_FRONT = (
    "Each point is a run of the search, by validation images; none beats those on the line in both. The ring is the "
    "answer. Time and memory are of training on this machine, the time of runs that trained together a share of it; "
    "parameters are the method's own, head apart."
)
_COMMANDS = ("use it", "repeat it", "ten more minutes")


def write_page(answered: Answered, lines: Sequence[str]) -> None:
    """Writes `page.html` into the answer's folder, whole or not at all. Raises UserError."""
    state = answered.state
    said = [line for line in lines if not line.startswith((*_COMMANDS, "what was decided"))]
    plain = data_page(answered.folder.name, said, [])
    decided = [
        (f"{entry.get('at', 0):.0f} s", entry.get("step", ""), entry.get("says", "")) for entry in state.decisions
    ]
    sections = [
        _section("Three commands", _commands(lines)),
        _section("The front", f'<p class="note">{escape(_FRONT)}</p>{_front(state)}'),
        _section("What more would bring", _more(state)),
        _section("The path of decisions", _table(("at", "step", "what"), decided, long={2})),
        _section("All that was tried", _table(_HEADINGS, [_row(one) for one in state.tried], _NUMBERS, {3, 8})),
    ]
    with replacing(answered.folder / PAGE) as part:
        whole = plain.replace("</head>", f"{_STYLE}</head>").replace("</body>", f"{''.join(sections)}</body>")
        part.write_text(whole, encoding="utf-8", errors=HANDLER)


def _commands(lines: Sequence[str]) -> str:
    parts = []
    for what in _COMMANDS:
        command = next((line.partition(": ")[2] for line in lines if line.startswith(f"{what}: ")), "")
        parts.append(f"<p>{what}</p><pre>{escape(command)}</pre>")
    return "".join(parts)


def _front(state: State) -> str:
    """The charts of all that was tried that has a figure."""
    judged = [one for one in state.tried if one.status == "complete" and one.value is not None]
    name = (state.answer or {}).get("name")
    axes: list[tuple[str, Callable[[Tried], float | None], Callable[[float], str]]] = [
        ("time of training", lambda one: one.seconds, seconds),
        ("memory of training", lambda one: one.memory, size),
        ("parameters of the method", lambda one: one.parameters, count),
    ]
    charts = []
    for title, cost_of, words in axes:
        points = [
            Point(
                float(cost),
                one.value or 0.0,
                one.name,
                one.name == name and one.step in ("probes", "side nets", "weights"),
            )
            for one in judged
            if (cost := cost_of(one)) is not None
        ]
        if points:
            charts.append(cost_chart(title, points, words))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else "<p>Nothing that was tried has a figure.</p>"


def _more(state: State) -> str:
    """What more minutes and more images would probably bring."""
    parts = [f"<p>{escape(sentence)}</p>" for sentence in minutes_told(state)]
    curve = state.curve
    if curve is None:
        parts.append("<p>More images: there was no time for a learning curve.</p>")
        return "".join(parts)
    low, middle, high = curve["band"]
    (first, _), (last, value) = curve["points"][0], curve["points"][-1]
    parts.append(
        f"<p>{escape(curve['name'])}, from {first:,} to {last:,} training images: {100 * value:.1f} % with all; "
        f"{curve['images']:,} would bring about {100 * middle:.1f} % ({100 * low:.1f} to {100 * high:.1f}). That is an "
        f"extrapolation by a power law, no measurement.</p>"
    )
    points = [(float(at), float(share)) for at, share in curve["points"]]
    band = (float(low), float(middle), float(high))
    title = f"{curve['name']}: measured, and led on (dashed, with its band of 95 %)"
    parts.append(
        f'<div class="charts">{curve_chart(title, points, float(curve["images"]), band, "training images")}</div>'
    )
    return "".join(parts)


def minutes_told(state: State) -> list[str]:
    """What the search says of more minutes: when the best figure came, and what there was no time for."""
    told = []
    best = -1.0
    steps: list[tuple[float, float]] = []
    for one in state.tried:
        if one.status == "complete" and one.value is not None and one.value > best:
            best = one.value
            steps.append((one.at, one.value))
    if steps:
        half = state.spent / 2
        early = max((value for at, value in steps if at <= half), default=None)
        told.append(
            f"More minutes: the best validation figure, {100 * best:.1f}, was there after {seconds(steps[-1][0])} of "
            f"{seconds(state.spent)}."
        )
        if early is not None:
            told[-1] += f" The second half of the time brought {100 * (best - early):.1f} points."
    left = [entry for entry in state.decisions if "left out" in str(entry.get("says")) and "time" in str(entry["says"])]
    if left:
        told.append(
            f"{plural(len(left), 'thing')} had no time or too little, as the path of decisions says; the last command "
            f"goes on with them."
        )
    return told


def _row(one: Tried) -> tuple[str, ...]:
    value = "–" if one.value is None else f"{100 * one.value:.1f}"
    parameters = "–" if one.parameters is None else f"{one.parameters:,}"
    memory = "–" if one.memory is None else size(one.memory)
    ended = one.status if one.reason is None else f"{one.status}: {one.reason}"
    words = " ".join(one.words)
    return (one.step, one.method, one.backbone, words, value, parameters, memory, seconds(one.seconds), ended)


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>\n"


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: AbstractSet[int] = frozenset(),
    long: AbstractSet[int] = frozenset(),
) -> str:
    kinds = ["number" if i in numbers else "long" if i in long else "" for i in range(len(columns))]
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(str(cell))}</td>' for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
