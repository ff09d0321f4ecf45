"""`peftbench auto data=… minutes=…`: from labelled images and some minutes to the best model that they allow."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.config_files import search_path
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing
from peftbench.common.terminal import visible

if TYPE_CHECKING:
    from peftbench.auto.finding import Answered

_BYTES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SECONDS = {"": 1e-3, "ms": 1e-3, "s": 1}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def print_answer(words: Words) -> int:
    """Prints each decision and the answer; 130 where it was stopped before there was one. Raises UserError."""
    begun = time.monotonic()
    doing("reading the configuration")
    from peftbench.auto.asked import Asked
    from peftbench.auto.finding import find_model
    from peftbench.auto.page import write_page

    asked = Asked(
        words=(*words.overrides, *search_path(words["config_dir"])),
        minutes=words["minutes"],
        memory=_amount(words, "memory", _BYTES, "bytes, such as 8GB"),
        latency=_amount(words, "max_latency", _SECONDS, "milliseconds, such as 20ms"),
        parameters=_amount(words, "max_params", _COUNTS, "a count, such as 1M"),
        backbones=_listed(words["backbones"]),
        methods=_listed(words["methods"]),
        force=words["force"],
    )
    answered = find_model(asked, begun, _say)
    if answered.answer is None:
        _say("stopped before anything was judged; the same command goes on from here.")
        return 130
    lines = _lines(answered, words)
    write_page(answered, lines)
    _say("\n" + "\n".join(lines))
    return 0


def _say(text: str) -> None:
    print(visible(text), flush=True)


def _amount(words: Words, key: str, units: dict[str, float], expected: str) -> float:
    from peftbench.results.choice import amount

    return float("inf") if words[key] is None else amount(f"{key}={words[key]}", words[key], units, expected)


def _listed(text: str | None) -> tuple[str, ...]:
    """The names of `[a,b]` or `a,b`."""
    if text is None:
        return ()
    names = tuple(name.strip(" '\"") for name in text.strip().strip("[]").split(","))
    if not all(names):
        raise UserError(f"{text}: expected names, such as [vit_nano,resnet_nano].")
    return names


def _lines(answered: Answered, words: Words) -> list[str]:
    """What the user wants to know, and three commands."""
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
    data = " ".join(map(shlex.quote, words.overrides))
    more = f"{answered.state.minutes + 10:g}"
    limits = " ".join(shlex.quote(words.written[key]) for key in _LIMITS if key in words.written)
    lines.append(f"use it: peftbench predict run={place} images=FOLDER")
    lines.append(f"repeat it: peftbench {answer['repeat']}")
    lines.append(f"ten more minutes: {' '.join(filter(None, ['peftbench auto', data, limits, f'minutes={more}']))}")
    lines.append(f"what was decided: {folder / 'page.html'}")
    return lines


_LIMITS = ("memory", "max_latency", "max_params", "backbones", "methods")


def _figure(answer: dict[str, Any], role: str) -> str:
    """`94.2 % accuracy (95 % interval 91.0 to 96.4; 200 validation images)`."""
    value, interval = answer[role], answer[f"{role}_interval"]
    if value is None:
        return "no figure"
    images = f"{answer[f'{role}_images']:,} {'validation' if role == 'val' else 'test'} images"
    within = f"95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}; " if interval else ""
    return f"{100 * value:.1f} % {answer['metric']} ({within}{images})"


COMMAND = Command(
    "auto",
    "from labelled images and minutes to the best model that they allow",
    print_answer,
    (
        Argument("minutes", "that the answer may take, all of it", kind="number", needed=True, placeholder="30"),
        Argument("memory", "that a step and the weights may take", placeholder="8GB"),
        Argument("max_latency", "of predicting for one image", placeholder="20ms"),
        Argument("max_params", "parameters of the method, head apart", placeholder="1M"),
        Argument("backbones", "the only ones to try", placeholder="[…]"),
        Argument("methods", "the only ones to try", placeholder="[…]"),
        Argument("force", "begin anew; the answer that was there is kept aside", kind="flag", default=False),
        CONFIG_DIR,
    ),
    takes_overrides=True,
    described_overrides=("data=…",),
    overrides_help="and other keys of the data, the task, the trainer, seed= and output_dir=",
    description="Looks at the images, probes the backbones whose weights are here, trains side nets and, with time,\n"
    "the backbone, and tests the winner once. The same command goes on after it was ended.",
    examples=(
        "peftbench auto data=photos minutes=3",
        "peftbench auto data=folder data.root=~/photos minutes=30 memory=8GB max_latency=20ms max_params=1M",
    ),
)
