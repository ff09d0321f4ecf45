"""The charts of an answer's page, as SVG that needs no script: figures against a cost, and against images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from peftbench.results.pareto import pareto_front

WIDTH, HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 40
_TICKS = 5


@dataclass(frozen=True)
class Point:
    """One run: what it cost, its share of right images or whatever its task is judged by, and what to tell of it."""

    cost: float
    value: float
    name: str
    answer: bool = False


def cost_chart(cost: str, points: Sequence[Point], words: Callable[[float], str]) -> str:
    """Figures against a cost, on a scale of ratios; those that none beats in both are joined by steps.

    Args:
        cost: what it is called.
        points: at least one; a cost of 0 stands at the left of all.
        words: writes a cost.
    """
    across = _Ratios([point.cost for point in points])
    up = _Shares([point.value for point in points])
    front = pareto_front([(point.cost, point.value) for point in points])
    steps = ""
    for before, index in zip([None, *front], front, strict=False):
        x, y = across.at(points[index].cost), up.at(points[index].value)
        steps += f"M{x:.1f},{y:.1f}" if before is None else f"H{x:.1f}V{y:.1f}"
    steps += f"H{WIDTH - _RIGHT}"
    drawn = [*_frame(across.ticks(), up.ticks(), across.at, up.at, words, cost)]
    drawn.append(f'<path d="{steps}" fill="none" stroke="var(--mark)" stroke-width="1.5"/>')
    for index, point in sorted(enumerate(points), key=lambda pair: pair[1].answer):
        x, y = across.at(point.cost), up.at(point.value)
        told = escape(f"{point.name}: {100 * point.value:.1f}, {words(point.cost)}")
        fill = "var(--mark)" if index in front else "var(--edge)"
        ring = ' stroke="var(--ink)" stroke-width="2"' if point.answer else ""
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if point.answer else 4}" fill="{fill}"{ring}>'
        drawn.append(f"{circle}<title>{told}</title></circle>")
    return _figure(f"validation against {cost}", drawn)


def curve_chart(
    title: str, points: Sequence[tuple[float, float]], to: float, band: tuple[float, float, float], unit: str
) -> str:
    """Measured points joined by a line, and where they lead, dashed, with its band.

    Args:
        title: of the chart.
        points: (images, share), by rising images.
        to: images of the extrapolation.
        band: (low, middle, high) share there.
        unit: of the lower axis.
    """
    across = _Ratios([*(at for at, _ in points), to])
    up = _Shares([*(value for _, value in points), *band])
    places = [(across.at(at), up.at(value)) for at, value in points]
    low, middle, high = map(up.at, band)
    (x, y), end = places[-1], across.at(to)
    line = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in places)
    drawn = [
        *_frame([*(at for at, _ in points), to], up.ticks(), across.at, up.at, lambda v: f"{v:,.0f}", unit),
        f'<path d="M{x:.1f},{y:.1f}L{end:.1f},{low:.1f}V{high:.1f}Z" fill="var(--mark)" fill-opacity=".18"/>',
        f'<path d="{line}" fill="none" stroke="var(--mark)" stroke-width="1.5"/>',
        f'<path d="M{x:.1f},{y:.1f}L{end:.1f},{middle:.1f}" fill="none" stroke="var(--mark)" stroke-dasharray="4 4"/>',
        *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="var(--mark)"/>' for a, b in places),
    ]
    return _figure(title, drawn)


class _Ratios:
    """Places of costs of which equal ratios are equally far apart; 0 stands at the left of all."""

    def __init__(self, values: Sequence[float]) -> None:
        above = [value for value in values if value > 0] or [1.0]
        self._zero = any(value <= 0 for value in values)
        low, high = math.log10(min(above)), math.log10(max(above))
        self._low, self._high = low - 0.1, max(high, low + 0.3) + 0.1
        if self._zero:
            self._low -= 0.2 * (self._high - self._low)

    def at(self, value: float) -> float:
        place = 0.04 if value <= 0 else (math.log10(value) - self._low) / (self._high - self._low)
        return _LEFT + place * (WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[float]:
        """Round numbers, at most five, and 0 where there is one."""
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        first = self._low + (0.2 * (self._high - self._low) if self._zero else 0)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [s * 10.0**d for d in decades for s in steps if first <= math.log10(s * 10.0**d) <= self._high]
            if len(ticks) <= _TICKS:
                break
        else:
            ticks = ticks[:: math.ceil(len(ticks) / _TICKS)]
        return [0.0, *ticks] if self._zero else ticks


class _Shares:
    """Places of shares, from round per cent below the least to round ones above the greatest."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = 100 * min(values), 100 * max(values)
        wanted = max(high - low, 2.0) / (_TICKS - 1)
        self._step = next(s for s in (0.5, 1, 2, 5, 10, 20, 25, 50) if s >= wanted or s == 50)
        self._low = math.floor(low / self._step) * self._step
        self._high = max(math.ceil(high / self._step) * self._step, self._low + self._step)

    def at(self, value: float) -> float:
        place = (100 * value - self._low) / (self._high - self._low)
        return HEIGHT - _BOTTOM - place * (HEIGHT - _BOTTOM - _TOP)

    def ticks(self) -> list[float]:
        count = round((self._high - self._low) / self._step)
        return [(self._low + n * self._step) / 100 for n in range(count + 1)]


def _frame(
    across: Sequence[float],
    up: Sequence[float],
    x: Callable[[float], float],
    y: Callable[[float], float],
    words: Callable[[float], str],
    unit: str,
) -> list[str]:
    floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    drawn = []
    for tick in up:
        at = y(tick)
        drawn.append(f'<path class="grid" d="M{_LEFT},{at:.1f}H{right}"/>')
        drawn.append(
            f'<text class="soft" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{round(100 * tick, 1):g}</text>'
        )
    for tick in across:
        at = x(tick)
        drawn.append(f'<path class="axis" d="M{at:.1f},{floor}v4"/>')
        drawn.append(
            f'<text class="soft" x="{at:.1f}" y="{floor + 16}" text-anchor="middle">{escape(words(tick))}</text>'
        )
    drawn.append(f'<path class="axis" d="M{_LEFT},{_TOP}V{floor}H{right}"/>')
    drawn.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(unit)}</text>')
    return drawn


def _figure(title: str, drawn: Sequence[str]) -> str:
    label = f'role="img" aria-label="{escape(title)}"'
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" {label}>{"".join(drawn)}</svg>'
    return f"<figure class=plain><figcaption>{escape(title)}</figcaption>{svg}</figure>"
