"""The second step, its first half: backbones whose weights are here, within the limits, and how quick they are."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.answering.choices import choices
from peftbench.answering.fetching import fetch_backbones
from peftbench.answering.search import Search, carried_out
from peftbench.answering.time_left import ended_after
from peftbench.common.amounts import milliseconds, plural, size
from peftbench.common.config_files import names, roots
from peftbench.common.errors import UserError, nearest
from peftbench.common.regular_files import text_in
from peftbench.common.yaml_text import yaml_of

TIMING = 0.125
"""The share of the time for timing backbones."""
QUICK = 0.25
"""A pass over all images that takes more of what is left than this is long: loading, head and test come on top."""
BATCH = 8
"""Images of the steps that are timed: fewer than a run's, because timing takes time too."""
LONGEST, SHORTEST = 0.25, 10.0
"""Timing one backbone is ended after this share of what is left, and not before so many seconds."""
_STEP = "backbones"


@dataclass(frozen=True)
class Candidate:
    """A backbone that may be taken.

    Attributes:
        name: of its YAML file.
        image: seconds of a frozen forward pass of one image, reading it not among them.
        timing: seconds that it took to time that.
    """

    name: str
    image: float
    timing: float


def ordered_names(asked: Sequence[str], words: Sequence[str]) -> list[str]:
    """The backbones to try, the first one first: those asked for, else those listed, then those of the user's own.

    Raises:
        UserError: one that was asked for is not there.
    """
    files = names("backbone", roots(words))
    for name in asked:
        if name not in files:
            raise UserError(
                f"backbones: there is no backbone '{name}'{nearest(name, files)}; peftbench list backbones names all."
            )
    if asked:
        return list(asked)
    listed = [name for name in choices().backbones if name in files]
    return [*(name for name in files if name not in (*listed, *choices().unasked)), *listed]


def at_hand(every: Sequence[str], words: Sequence[str]) -> list[str]:
    """Those whose weights are on this machine."""
    from peftbench.backbones.weights import weights_at_hand

    files = names("backbone", roots(words))
    return [name for name in every if weights_at_hand(*_named(files[name]))]


def _named(file: Path) -> tuple[str, str]:
    """(timm's name, where the weights come from) of a backbone's file."""
    content = yaml_of(text_in(file))
    content = content.get("backbone", content) if isinstance(content, dict) else {}
    return str(content.get("name", "")), str(content.get("weights", "hub"))


def find_candidates(search: Search) -> list[Candidate]:
    """The backbones that fit the limits, each timed, as many as there is time for; at least one.

    Raises:
        UserError: no weights are here, or nothing fits the limits.
    """
    every = ordered_names(search.asked.backbones, search.asked.words)
    here = at_hand(every, search.asked.words)
    if search.asked.download:
        files = names("backbone", roots(search.asked.words))
        absent = [name for name in every if name not in here]
        of_hub = {name: timm_name for name in absent for timm_name, source in [_named(files[name])] if source == "hub"}
        came = fetch_backbones(search, absent, of_hub)
        here = [name for name in every if name in here or name in came]
    if not here:
        raise UserError(
            f"auto: the weights of {', '.join(every[:5])}{' and others' if len(every) > 5 else ''} are not on this "
            f"machine, and {_not_fetched(search)}; give "
            f"backbones=[vit_nano,resnet_nano], whose weights are installed."
        )
    if absent := [name for name in every if name not in here]:
        more = " and others" if len(absent) > 6 else ""
        search.decide(_STEP, f"the weights of {', '.join(absent[:6])}{more} are not here; {_not_fetched(search)}")
    fitting: list[Candidate] = []
    over: list[tuple[float, str]] = []
    unusable: list[str] = []
    rest = first_tried(search, here)
    while rest:
        late = rest[0] not in search.state.timed and not search.clock.is_within(TIMING)
        if late and fitting:
            left = f"{plural(len(rest), 'backbone')} from {rest[0]} on"
            search.decide(_STEP, f"{left} left out: no time to time them")
            fitting += _quick_one(search, fitting, sorted(rest, key=here.index))
            break
        name = max(rest, key=here.index) if late else rest[0]  # the list's last is the smallest: there must be time
        rest.remove(name)
        measured = search.state.timed.get(name) or _timed(search, name, not late)
        if (problem := _over(search, name, measured)) is not None:
            over.append(problem)
        elif "why" in measured:
            unusable.append(str(measured["why"]).rstrip("."))
        else:
            fitting.append(Candidate(name, float(measured["image"]), float(measured["took"])))
    if not fitting:
        if over:
            raise UserError(
                f"{min(over)[1]}; it is the smallest of {plural(len(here), 'backbone')} whose weights are here."
            )
        raise UserError(f"auto: no backbone can be used with these data: {unusable[0]}.")
    return fitting


def _not_fetched(search: Search) -> str:
    if not search.asked.download:
        return "nothing is downloaded without download=true"
    last = [str(entry["says"]) for entry in search.state.decisions if entry.get("step") == "download"]
    return last[-1].rstrip(".") if last else "the hub has none of them"


def first_tried(search: Search, here: list[str]) -> list[str]:
    """The backbones in the order in which they are tried: as the user or the list has them, or as earlier runs say."""
    if search.asked.backbones:
        return list(here)
    ordered = search.prior.ordered(here, "backbone")
    if ordered != here:
        search.decide("prior", f"earlier runs on other data put {', '.join(ordered[:3])} first, of the backbones")
    return ordered


def _quick_one(search: Search, fitting: Sequence[Candidate], rest: Sequence[str]) -> list[Candidate]:
    """The last of the list, which is the smallest, where a pass of none that was timed ends within the time."""
    if any(one.image * search.looked.images < QUICK * search.clock.left for one in fitting):
        return []
    for name in reversed(rest):
        measured = search.state.timed.get(name) or _timed(search, name)
        if "why" not in measured and _over(search, name, measured) is None:
            search.decide(_STEP, f"{name} is taken too: a pass of what comes before would take most of the time")
            return [Candidate(name, float(measured["image"]), float(measured["took"]))]
    return []


def _timed(search: Search, name: str, hurried: bool = True) -> dict[str, float | str]:
    """What was measured of a backbone, and remembered: seconds of an image, of its latency, and bytes.

    `hurried` ends what takes too long.
    """
    from peftbench.common.status_line import doing
    from peftbench.runs.data_sets import Outlined
    from peftbench.runs.dry_run import plan_run

    doing(f"timing {name}")
    begun = time.monotonic()
    measured: dict[str, float | str]
    try:
        config = search.config(name, choices().timed_by, [f"data.batch_size={BATCH}"], "fit")
        with ended_after(max(LONGEST * search.clock.left, SHORTEST) if hurried else math.inf):
            planned = plan_run(config, True, Outlined(search.looked.splits), search.asked.latency < float("inf"))
        probe, step = planned.probe, planned.step
        image = _image_of_trial(search, name) if probe is None else probe.evaluating / len(search.looked.test)
        measured = {"image": image}
        measured["took"] = time.monotonic() - begun
        measured["bytes"] = float(planned.weights + (0 if step is None else step.peak))
        if probe is not None and probe.latency is not None:
            measured["latency"] = probe.latency
    except Exception as problem:  # one that timm cannot build here, say: the others go on
        measured = {"why": str(problem) or type(problem).__name__}
        search.decide(_STEP, f"{name} is left out: {measured['why']}")
        return measured  # it is tried again by the next command
    search.state.timed[name] = measured
    search.keep()
    return measured


def _image_of_trial(search: Search, name: str) -> float:
    """Seconds of a prediction by two batches of validation images, of a task whose steps depend on what is in them.

    Raises:
        UserError: no run can be made.
    """
    words = ["trainer.epochs=1", "trainer.max_batches=2", "trainer.trial=true", f"data.eval_batch_size={BATCH}"]
    config = search.config(name, choices().timed_by, [*words, f"data.batch_size={BATCH}"])
    (record,) = carried_out([config], search.looked.splits, search.folder)
    seconds = (record.costs.get("time") or {}).get("validate")
    if record.status != "complete" or not seconds:
        raise UserError(record.reason or f"a trial on {name} told no time")
    return float(seconds) / min(2 * BATCH, len(search.looked.val))


def _over(search: Search, name: str, measured: dict[str, float | str]) -> tuple[float, str] | None:
    """(by how much, the sentence) where a backbone is above a limit."""
    asked = search.asked
    taken, latency = float(measured.get("bytes", 0)), float(measured.get("latency", 0))
    if taken > asked.memory:
        sentence = f"memory: {name} takes {size(taken)}, more than the {size(asked.memory)} that are given"
        search.decide(_STEP, f"{name} is left out: it takes {size(taken)} of memory")
        return taken, sentence
    if latency > asked.latency:
        search.decide(_STEP, f"{name} is left out: an image takes {milliseconds(latency)}")
        given = milliseconds(asked.latency)
        return latency, f"max_latency: {name} takes {milliseconds(latency)} for an image, more than {given}"
    return None
