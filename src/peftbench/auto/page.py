"""The page of an answer: what it is, the path of decisions, and all that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from peftbench.common.atomic_files import replacing
from peftbench.common.readable_names import HANDLER
from peftbench.results.data_page import data_page

if TYPE_CHECKING:
    from peftbench.auto.finding import Answered
    from peftbench.auto.state import Tried

PAGE = "page.html"
_HEADINGS = ("step", "method", "backbone", "with", "validation", "parameters", "seconds", "how it ended")


def write_page(answered: Answered, lines: Sequence[str]) -> None:
    """Writes `page.html` into the answer's folder, whole or not at all. Raises UserError."""
    state = answered.state
    decided = [
        (f"{entry.get('at', 0):.0f} s", entry.get("step", ""), entry.get("says", "")) for entry in state.decisions
    ]
    tried = [_row(one) for one in state.tried]
    plain = data_page(answered.folder.name, lines, [])
    tables = _table("The path of decisions", ("at", "step", "what"), decided)
    tables += _table("All that was tried", _HEADINGS, tried)
    with replacing(answered.folder / PAGE) as part:
        part.write_text(plain.replace("</body>", f"{tables}</body>"), encoding="utf-8", errors=HANDLER)


def _row(one: Tried) -> tuple[str, ...]:
    value = "–" if one.value is None else f"{100 * one.value:.1f}"
    count = "–" if one.parameters is None else f"{one.parameters:,}"
    ended = one.status if one.reason is None else f"{one.status}: {one.reason}"
    return (one.step, one.method, one.backbone, " ".join(one.words), value, count, f"{one.seconds:.1f}", ended)


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<section><h2>{escape(heading)}</h2><table><tr>{head}</tr>{body}</table></section>\n"
