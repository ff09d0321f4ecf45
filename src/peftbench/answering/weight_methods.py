"""The fourth step: methods that change the backbone, where time and memory are enough for one.

A method is tried at each of its rates for an epoch, and the better one trains for as many epochs as there is time for.
"""

from __future__ import annotations

import math

from peftbench.answering.candidates import BATCH, Candidate
from peftbench.answering.choices import WeightMethod, choices, wanted
from peftbench.answering.probes import best_probes, epoch_of_probe, merit, reserve_for
from peftbench.answering.search import Search
from peftbench.answering.time_left import MARGIN, OVERHEAD
from peftbench.common.amounts import plural, seconds, size
from peftbench.common.foreign_text import first_sentence
from peftbench.config import Config

_STEP = "weights"
FIRST_EPOCHS = 1


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
    rates = [(entry.method, (*entry.words, f"optimizer.lr={rate:g}", _epochs(FIRST_EPOCHS))) for rate in entry.rates]
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
        first = search.times * len(rates) * (epoch + OVERHEAD)
        if _affordable(search, backbone, epoch, first) < choices().least_epochs:
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
    epoch = max(0.1, best.seconds / search.times - OVERHEAD)
    longer = [t for t in search.state.tried if t.step == _STEP and t.method == entry.method and t not in tried]
    if any(t.words[:-1] == best.words[:-1] for t in longer):
        return  # by an earlier command
    epochs = _affordable(search, backbone, epoch, 0.0)
    if epochs < choices().least_epochs:
        search.decide(_STEP, f"{name} ends after an epoch: {seconds(epoch)} for another, too much for what is left")
        return
    (last,) = search.carry_out(_STEP, backbone.name, [(entry.method, (*best.words[:-1], _epochs(epochs)))])
    if last.status != "complete":
        return
    again = (
        MARGIN * last.seconds / search.times * (1 + len(search.looked.val) / len(search.looked.train))
    )  # should it be the answer
    search.reserved = max(search.reserved, reserve_for(search, backbone) + again)
    search.decide(_STEP, f"{plural(epochs, 'epoch')} of {name}: {search.shown(last)} ({last.words[-2]})")


def _memory(search: Search, config: Config) -> float:
    """Bytes of the weights and of a step; 0 where no limit is given, or the images decide."""
    from peftbench.runs.dry_run import plan_step

    if math.isinf(search.asked.memory):
        return 0.0
    planned = plan_step(config, search.looked.splits)
    return 0.0 if planned is None else float(planned[0].peak + planned[1])


def _epochs(count: int) -> str:
    return f"trainer.epochs={count}"


def _affordable(search: Search, backbone: Candidate, epoch: float, first: float) -> int:
    """The epochs for which there is time, once as a trial and once on all images at the end."""
    images = 1 + len(search.looked.val) / len(search.looked.train)
    reserve = max(search.reserved, reserve_for(search, backbone))
    left = search.clock.left - reserve - MARGIN * first - 2 * OVERHEAD
    return min(choices().enough_epochs, int(left / (MARGIN * epoch * (search.times + images)))) if epoch else 0
