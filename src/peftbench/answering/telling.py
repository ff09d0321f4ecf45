"""What the user is told of an answer."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.answering.finding import Answered


def lines_of(answered: Answered) -> list[str]:
    """What the user wants to know, and three commands, a line each; of an answer that there is."""
    answer, folder = answered.answer, answered.folder
    assert answer is not None
    lines = [f"the answer: {answer['name']}"]
    if answered.was_there:
        lines[0] += " (answered before; more minutes go on)"
    tried = answer["tried"]
    best = f"chosen from {tried}, so that the figure is rather too high" if tried > 1 else "the only one that was tried"
    lines.append(f"validation: {_figure(answer, 'val')}, {best}")
    looks = answer["looks"]
    times = "looked at once" if looks == 1 else f"looked at {looks} times: {looks} answers were tested"
    if answer["whole"]:
        lines.append("learned from: training and validation images")
        lines.append(f"test: {_figure(answer, 'test')}, {times}")
    else:
        lines.append("learned from: training images alone, since no time was left to train on all")
        lines.append("test: no time was left for it; the same command goes on there")
    place = folder / "answer"
    if not place.exists():  # on a system without links
        place = folder / "runs" / answer["run"]
    asked = answered.asked
    own = [shlex.quote(word) for word in asked.words if not word.startswith("hydra.searchpath=")]
    more = " ".join(["peftbench auto", *own, *map(shlex.quote, asked.written), f"minutes={asked.minutes + 10:g}"])
    lines.append(f"use it: peftbench predict run={place} images=FOLDER")
    lines.append(f"repeat it: peftbench {answer['repeat']}")
    lines.append(f"ten more minutes: {more}")
    lines.append(f"what was decided: {folder / 'page.html'}")
    return lines


def _figure(answer: dict[str, Any], role: str) -> str:
    """`94.2 % accuracy (95 % interval 91.0 to 96.4; 200 validation images)`."""
    value, interval = answer[role], answer[f"{role}_interval"]
    if value is None:
        return "no figure"
    images = f"{answer[f'{role}_images']:,} {'validation' if role == 'val' else 'test'} images"
    images += f" in {answer['folds']} folds" if role == "val" and answer["folds"] > 1 else ""
    within = f"95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}; " if interval else ""
    return f"{100 * value:.1f} % {answer['metric']} ({within}{images})"
