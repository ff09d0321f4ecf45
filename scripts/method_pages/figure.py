"""A drawing of ViT-S/16 with what a method trains: computed from the adapted model, not drawn by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from torch import nn

import peftbench
from peftbench.methods.base import Plan
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible

BACKBONE = "vit_s"
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
"""What a block has weights in, in their order."""
WIDTH, ROW, LEFT, BOX = 700, 26, 96, 150


class Row(NamedTuple):
    """A box of the drawing: its name, whether its own weights train, and what was added to it."""

    name: str
    trains: bool
    added: tuple[str, ...]


def figure(method: str) -> str | None:
    """An SVG: what trains filled, what was added named; None where it refuses the backbone, or decides by data."""
    config = peftbench.compose(f"method={method}", f"backbone={BACKBONE}")
    built = instantiate(config.method)
    try:
        backbone = refuse_incompatible(config, built)
    except peftbench.Refusal:
        return None
    plain = {name for name, _ in backbone.net.named_parameters()}
    try:
        side = built.adapt(backbone, Plan())
    except peftbench.UserError:  # a look at the data decides what trains
        return None
    trained = {n: p for n, p in backbone.net.named_parameters() if p.requires_grad}
    rows: list[Row | list[Row] | str] = [_row("patch_embed", trained, plain), _row("tokens", _tokens(trained), plain)]
    count = len(backbone.net.blocks)
    blocks = [tuple(_block(i, trained, plain)) for i in range(count)]
    for same, group in groupby(range(count), key=lambda i: blocks[i]):
        members = list(group)
        span = f"block {members[0] + 1}" if len(members) == 1 else f"blocks {members[0] + 1} to {members[-1] + 1}"
        rows += [span, list(same)]
    rows.append(_row("norm", trained, plain))
    return _draw(method, rows, _side(side), _elsewhere(trained, plain))


def _tokens(trained: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Class token and positions, under the name of one box."""
    return {n: p for n, p in trained.items() if n in ("cls_token", "pos_embed", "reg_token")}


def _row(name: str, trained: dict[str, nn.Parameter], plain: set[str], prefix: str | None = None) -> Row:
    prefix = f"{name}." if prefix is None else prefix
    mine = trained if name == "tokens" else {n: p for n, p in trained.items() if n.startswith(prefix)}
    own = any(n in plain for n in mine)
    added = tuple(_label(n[len(prefix) :], p) for n, p in mine.items() if n not in plain)
    return Row(name, own, added)


def _block(index: int, trained: dict[str, nn.Parameter], plain: set[str]) -> list[Row]:
    """The boxes of one block, and one more for what was added to the block itself."""
    stem = f"blocks.{index}."
    rows = [_row(part, trained, plain, f"{stem}{part}.") for part in PARTS]
    known = tuple(f"{stem}{part}." for part in PARTS)
    rest = {n: p for n, p in trained.items() if n.startswith(stem) and not n.startswith(known)}
    if rest:
        added = tuple(_label(n[len(stem) :], p) for n, p in rest.items() if n not in plain)
        rows.append(Row("block", any(n in plain for n in rest), added))
    return rows


def _elsewhere(trained: dict[str, nn.Parameter], plain: set[str]) -> tuple[str, ...]:
    """What was added outside of the blocks, the embedding and the final norm."""
    known = ("blocks.", "patch_embed.", "norm.")
    return tuple(_label(n, p) for n, p in trained.items() if n not in plain and not n.startswith(known))


def _label(name: str, parameter: nn.Parameter) -> str:
    return f"{name} {' × '.join(map(str, parameter.shape))}"


def _side(side: nn.Module | None) -> tuple[str, ...]:
    """The tensors of a side net, those of equal layers once."""
    if side is None:
        return ()
    labels: dict[str, int] = {}
    for name, parameter in side.named_parameters():
        label = _label(re.sub(r"\.\d+\.", ".*.", f".{name}")[1:], parameter)
        labels[label] = labels.get(label, 0) + 1
    return tuple(f"{label}{f', {n} times' if n > 1 else ''}" for label, n in labels.items()) or ("no parameters",)


_STYLE = """
svg { font: 12px system-ui, sans-serif;
  --ink: #1f2328; --line: #8c959f; --fill: #0969da; --on: #fff; --soft: #ddf4ff; --paper: #fff }
@media (prefers-color-scheme: dark) { svg {
  --ink: #e6edf3; --line: #6e7681; --fill: #388bfd; --on: #0d1117; --soft: #0c2d6b; --paper: #0d1117 } }
text { fill: var(--ink) } .way { stroke: var(--line); fill: none }
.frozen { fill: var(--paper); stroke: var(--line) } .added { fill: var(--soft); stroke: var(--fill) }
.trains { fill: var(--fill); stroke: var(--fill) } .trains + text { fill: var(--on) }
"""


def _draw(method: str, rows: Sequence[Row | list[Row] | str], side: tuple[str, ...], elsewhere: tuple[str, ...]) -> str:
    parts: list[str] = []
    taps: list[float] = []
    y = top = 20
    for row in rows:
        if isinstance(row, str):
            parts.append(f'<text x="8" y="{y + 17}">{escape(row)}</text>')
            continue
        for box in row if isinstance(row, list) else [row]:
            shown = "class token, positions" if box.name == "tokens" else box.name
            kind = "trains" if box.trains else "frozen"
            parts.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{BOX}" height="20" rx="4"/>')
            parts.append(f'<text x="{LEFT + BOX / 2}" y="{y + 14}" text-anchor="middle">{escape(shown)}</text>')
            if box.added:
                parts.append(_tag(y, _joined(box.added)))
            y += ROW
        if isinstance(row, list):
            taps.append(y - 3)
        y += 8
    if side:
        parts += _beside(taps, y, side)
    way = f'<path class="way" d="M{LEFT + BOX / 2} {top - 12}V{y + 2}"/>'
    parts.append(f'<text x="{LEFT + BOX / 2}" y="{y + 14}" text-anchor="middle">pooled features, head</text>')
    y += ROW
    if elsewhere:
        parts.append(f'<text x="8" y="{y + 14}">also added</text>')
        for label in elsewhere:
            y += 18
            parts.append(f'<text x="24" y="{y + 14}">{escape(label)}</text>')
        y += ROW
    y = max(y, 70 + 18 * len(side))
    for kind, left, more in (("trains", 8, ""), ("frozen", 84, ""), ("added", 160, ", with its shape; ViT-S/16")):
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="14" height="12" rx="3"/><text/>')
        parts.append(f'<text x="{left + 20}" y="{y + 11}">{kind}{more}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" role="img">'
    title = f"<title>Where {escape(method)} sits in ViT-S/16</title><style>{_STYLE}</style>"
    return "\n".join([head, title, way, *parts, "</svg>"]) + "\n"


def _beside(taps: list[float], bottom: float, labels: tuple[str, ...]) -> list[str]:
    """The box of a side net, which reads the taps and hands on to what is at the bottom."""
    left = LEFT + BOX + 48
    shown = [*labels[:9], *(["…"] if len(labels) > 9 else [])]
    height = 30 + 18 * len(shown)
    top = max(20.0, taps[-1] - height + 8)
    ways = [f'<path class="way" d="M{LEFT + BOX / 2} {tap}H{left}"/>' for tap in taps]
    ways.append(f'<path class="way" d="M{left + 30} {top + height}V{bottom + 9}H{LEFT + BOX + 6}"/>')
    lines = [f'<text x="{left + 10}" y="{top + 20}" font-weight="600">side net over the taps</text>']
    lines += [f'<text x="{left + 10}" y="{top + 40 + 18 * i}">{escape(label)}</text>' for i, label in enumerate(shown)]
    return [
        *ways,
        f'<rect class="added" x="{left}" y="{top}" width="{WIDTH - left - 8}" height="{height}" rx="4"/>',
        *lines,
    ]


def _joined(labels: tuple[str, ...]) -> str:
    text = ", ".join(labels)
    return text if len(text) <= 64 else text[:61].rsplit(",", 1)[0] + ", …"


def _tag(y: float, text: str) -> str:
    left = LEFT + BOX + 16
    width = min(WIDTH - left - 8, 7 * len(text) + 14)
    return (
        f'<path class="way" d="M{LEFT + BOX} {y + 10}H{left}"/>'
        f'<rect class="added" x="{left}" y="{y}" width="{width}" height="20" rx="4"/>'
        f'<text x="{left + 7}" y="{y + 14}">{escape(text)}</text>'
    )
