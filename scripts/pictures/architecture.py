"""How a config becomes a run and a run's folder a model again, as an SVG in the style of the methods' figures."""

from __future__ import annotations

import importlib.util
from html import escape
from pathlib import Path

from sources import FOLDER, ROOT

WIDTH, HIGH, STEP = 980, 54, 18
BOXES = {
    # name: (column, row, kind, title, what stands below it)
    "config": (0, 0, "frozen", "config", "words → one Config"),
    "data": (1, 0, "frozen", "data", "splits, with a hash"),
    "backbones": (2, 0, "frozen", "backbones", "any of timm's, in taps"),
    "pruning": (3, 0, "frozen", "pruning", "a smaller backbone"),
    "prepare": (0, 1, "added", "method.prepare", "looks at the data"),
    "adapt": (1, 1, "added", "method.adapt", "what is added and trains"),
    "tasks": (2, 1, "added", "tasks", "head, loss, metrics"),
    "training": (3, 1, "trains", "training", "meters time and memory"),
    "deltas": (2, 2, "frozen", "deltas", "what was learned, alone"),
    "record": (3, 2, "frozen", "results", "record: accuracy and cost"),
    "tuned": (1, 3, "trains", "tuned", "the model, made again"),
    "report": (3, 3, "frozen", "report, choose", "tables, pages"),
    "use": (0, 3, "frozen", "evaluate, predict, export", "many tasks"),
}
WAYS = [
    *(("config", "data"), ("data", "backbones"), ("backbones", "pruning"), ("pruning", "prepare")),
    *(("prepare", "adapt"), ("adapt", "tasks"), ("tasks", "training"), ("training", "record"), ("training", "deltas")),
    *(("record", "report"), ("deltas", "tuned"), ("tuned", "use")),
]
COLUMN, ROW, LEFT, TOP = 246, 96, 10, 34
BOX = 220


def flow(name: str, work: Path) -> None:
    """`architecture.svg`.

    Raises:
        SystemExit: the package has no part of a name that is drawn.
    """
    packages = {title for *_, title, _ in BOXES.values() if title.isalpha() and title.islower()}
    lost = sorted(part for part in packages if not (ROOT / "src" / "peftbench" / part).is_dir())
    if lost:
        raise SystemExit(f"pictures: the architecture shows {', '.join(lost)}, which the package has not")
    parts = [_way(start, end) for start, end in WAYS]
    for column, row, kind, title, below in BOXES.values():
        x, y = LEFT + column * COLUMN, TOP + row * ROW
        middle = x + BOX / 2
        parts.append(f'<g><rect class="{kind}" x="{x}" y="{y}" width="{BOX}" height="{HIGH}" rx="4"/>')
        parts.append(f'<text x="{middle}" y="{y + 23}" text-anchor="middle" font-weight="600">{escape(title)}</text>')
        parts.append(f'<text x="{middle}" y="{y + 41}" text-anchor="middle">{escape(below)}</text></g>')
    parts.append(f'<text x="{LEFT}" y="20">a run, from its words to its folder</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP + 3 * ROW - 12}">a finished run in use</text>')
    high = TOP + 3 * ROW + HIGH + 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" role="img">'
    title = "<title>From a config to a run, and from its folder to a model</title>"
    style = f"<style>{_style()}g text {{ fill: var(--ink) }} g .trains ~ text {{ fill: var(--on) }}\n</style>"
    arrow = '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    arrow += '<path d="M0 0L8 4L0 8z" fill="var(--line)"/></marker></defs>'
    (FOLDER / name).write_text("\n".join([head, title, style, arrow, *parts, "</svg>"]) + "\n", encoding="utf-8")


def _way(start: str, end: str) -> str:
    """A line with an arrow, along a row, down a column, or from the end of a row to the beginning of the next."""
    (c1, r1, *_), (c2, r2, *_) = BOXES[start], BOXES[end]
    x1, y1, x2, y2 = (n for c, r in ((c1, r1), (c2, r2)) for n in (LEFT + c * COLUMN, TOP + r * ROW))
    if r1 == r2:
        path = f"M{x1 + BOX} {y1 + HIGH / 2}H{x2}" if c2 > c1 else f"M{x1} {y1 + HIGH / 2}H{x2 + BOX}"
    else:
        half = y2 - (ROW - HIGH) / 2
        path = f"M{x1 + BOX / 2} {y1 + HIGH}V{half}H{x2 + BOX / 2}V{y2}"
    return f'<path class="way" marker-end="url(#end)" d="{path}"/>'


def _style() -> str:
    """That of the methods' figures."""
    spec = importlib.util.spec_from_file_location("figure", ROOT / "scripts" / "method_pages" / "figure.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._STYLE
