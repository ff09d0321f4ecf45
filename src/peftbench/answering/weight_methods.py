"""The fourth step: methods that change the backbone, where time and memory are enough for one.

Each begins from the head of a probe. It is tried at each of its rates for an epoch; the better one climbs rungs of more
epochs, and trains for as many as there is time for unless its rungs say that it cannot overtake the best any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.answering.answer import in_order
from peftbench.answering.candidates import BATCH, Candidate
from peftbench.answering.choices import WeightMethod, choices, wanted
from peftbench.answering.overtaking import can_overtake
from peftbench.answering.probes import best_probes, epoch_of_probe, merit, probed_by, reserve_for
from peftbench.answering.search import Search
from peftbench.answering.state import Tried
from peftbench.answering.time_left import MARGIN, OVERHEAD
from peftbench.common.amounts import plural, seconds, size
from peftbench.common.foreign_text import first_sentence
from peftbench.config import Config
from peftbench.results import read_record

_STEP = "weights"
FIRST_EPOCHS = 1
SHORT = 4
"""A rung is short where so many of it fit into the epochs that there is time for; else these train at once."""
WORTH = 1.5
"""What was trained is trained anew for so many times its epochs at least."""


def train_weights(search: Search, backbone: Candidate) -> None:
    """Tries each method on the best backbone. Raises KeyboardInterrupt, UserError as `Search.carry_out`."""
    entries = {entry.method: entry for entry in choices().weights}
    names = wanted(list(entries), search.asked.methods)
    probe = next((one.value for one in best_probes(search)), None)
    ordered = search.prior.ordered(names, "method", probe)
    if ordered != names:
        search.decide("prior", f"earlier runs on other data order the methods so: {', '.join(ordered)}")
    for name in ordered:
        _try(search, backbone, entries[name])


def _try(search: Search, backbone: Candidate, entry: WeightMethod) -> None:
    word, head = _head(search, backbone)
    words_of = [(*entry.words, *word, f"optimizer.lr={rate:g}") for rate in entry.rates]
    rates = [(entry.method, (*words, _epochs(FIRST_EPOCHS))) for words in words_of]
    known = [search.done(_STEP, backbone.name, *job) for job in rates]
    name = f"{entry.method} on {backbone.name}"
    if None in known:
        if not search.clock.has_room(2 * backbone.timing, search.reserved):
            search.decide(_STEP, f"{name} is left out: no time is left for it")
            return
        try:
            method, words = rates[0]
            config = search.config(backbone.name, method, [*words, f"data.batch_size={BATCH}"])
            planned = search.planned(config)
            taken = _memory(search, search.config(backbone.name, method, words))
        except Exception as problem:  # a method that refuses the backbone, say
            search.decide(_STEP, f"{name} is left out: {first_sentence(problem)}")
            return
        if taken > search.asked.memory:
            search.decide(_STEP, f"{name} is left out: a step takes {size(taken)} of memory")
            return
        if planned.parameters["method"] > search.asked.parameters:
            search.decide(_STEP, f"{name} is left out: it has {planned.parameters['method']:,} parameters")
            return
        if planned.probe is not None:
            epoch = planned.probe.training + planned.probe.validating
        else:  # a step depends on the images: backward takes about twice a forward pass
            epoch = 3 * (epoch_of_probe(search, backbone) or 0.0)
        reading = search.looked.reading * (len(search.looked.train) + len(search.looked.val))
        epoch += reading
        first = search.times * len(rates) * (epoch + head + OVERHEAD)
        if _affordable(search, backbone, epoch, head, first) < choices().least_epochs:
            search.decide(
                _STEP, f"{name} is left out: an epoch takes about {seconds(epoch)}, too much for what is left"
            )
            return
    tried = [one for one in search.carry_out(_STEP, backbone.name, rates) if one.status == "complete"]
    if not tried:
        return
    best = max(tried, key=merit)
    if (best.parameters or 0) > search.asked.parameters:
        return
    _climb(search, backbone, entry.method, best.words[:-1])


def _climb(search: Search, backbone: Candidate, method: str, words: Sequence[str]) -> None:
    """Trains one setting for more and more epochs while there is time, and while it may overtake the best."""
    name, rate = f"{method} on {backbone.name}", words[-1]
    while True:
        curve = _curve(search, backbone, method, words)
        longest, last = curve[-1]
        epoch, head = _measured(search, longest, last)
        if longest >= choices().enough_epochs:
            break
        epochs = _affordable(search, backbone, epoch, head)
        if epochs < max(choices().least_epochs, math.ceil(WORTH * longest)):
            told = f"{seconds(epoch)} for another, too much for what is left"
            search.decide(_STEP, f"{name} ends after {plural(longest, 'epoch')}: {told}")
            break
        may, why = can_overtake(search, curve, epochs)
        if not may:
            search.decide(_STEP, f"{name} ends after {plural(longest, 'epoch')}: it cannot overtake any more; {why}")
            break
        if why:
            search.decide(_STEP, f"{name} goes on after {plural(longest, 'epoch')}: {why}")
        rung = next((r for r in choices().rungs if r > longest and SHORT * r <= epochs), epochs)
        (last,) = search.carry_out(_STEP, backbone.name, [(method, (*words, _epochs(rung)))])
        if last.status != "complete":
            break
        search.decide(_STEP, f"{plural(rung, 'epoch')} of {name}: {search.shown(last)} ({rate})")
        if rung == epochs:
            break
    order = in_order(search)
    for one in (order[0], max(order, key=merit)):  # what would be the answer now, or may become it
        if (one.step, one.method) == (_STEP, method):
            again = MARGIN * one.seconds / search.times * (1 + len(search.looked.val) / len(search.looked.train))
            search.reserved = max(search.reserved, reserve_for(search, backbone) + again)


def _curve(search: Search, backbone: Candidate, method: str, words: Sequence[str]) -> list[tuple[int, Tried]]:
    """(epochs, run) of what was trained of one setting, by an earlier command too, by rising epochs."""
    found = [
        (int(one.words[-1].partition("=")[2]), one)
        for one in search.state.tried
        if (one.step, one.backbone, one.method) == (_STEP, backbone.name, method)
        and one.status == "complete"
        and one.words[:-1] == list(words)
    ]
    return sorted(found, key=lambda pair: pair[0])


def _head(search: Search, backbone: Candidate) -> tuple[tuple[str, ...], float]:
    """The word that has a method begin from the head of a probe, and the seconds that working it out takes."""
    for method in choices().heads:
        if (probe := probed_by(search, backbone, method)) is not None:
            one, share = probe
            record = read_record(search.runs / one.run)
            return (f"trainer.head_from={method}",), _solving({} if record is None else record.costs) / share
    return (), 0.0


def _solving(costs: Mapping[str, Any]) -> float:
    """Seconds that a head took, by the costs of its own; features that lie on the disk now are not computed again."""
    times, taps = costs.get("time") or {}, costs.get("taps") or {}
    filling = 0.0 if taps.get("mode") == "disk" else taps.get("seconds")
    return sum(float(part or 0.0) for part in (times.get("train"), times.get("validate"), filling))


def _measured(search: Search, epochs: int, one: Tried) -> tuple[float, float]:
    """Seconds of an epoch and of what came before them, as a run took."""
    record = read_record(search.runs / one.run)
    head = _solving({} if record is None else record.costs.get("first_phase") or {})
    return max(0.1, (one.seconds / search.times - OVERHEAD - head) / epochs), head


def _memory(search: Search, config: Config) -> float:
    """Bytes of the weights and of a step; 0 where no limit is given, or the images decide."""
    from peftbench.runs.dry_run import plan_step

    if math.isinf(search.asked.memory):
        return 0.0
    planned = plan_step(config, search.looked.splits)
    return 0.0 if planned is None else float(planned[0].peak + planned[1])


def _epochs(count: int) -> str:
    return f"trainer.epochs={count}"


def _affordable(search: Search, backbone: Candidate, epoch: float, head: float, first: float = 0.0) -> int:
    """The epochs for which there is time, once as a trial and once on all images at the end.

    Args:
        epoch, head: seconds of an epoch, and of what comes before them.
        first: seconds of what is tried before that.
    """
    images = 1 + len(search.looked.val) / len(search.looked.train)
    reserve = max(search.reserved, reserve_for(search, backbone))
    left = search.clock.left - reserve - MARGIN * (first + head * (search.times + images)) - 2 * OVERHEAD
    return min(choices().enough_epochs, int(left / (MARGIN * epoch * (search.times + images)))) if epoch else 0
