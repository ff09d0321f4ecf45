"""The third step: side nets over one read of taps; at each rung the worse half stops.

A rung trains its nets anew, for twice the epochs of the one before: a schedule then comes to its end at every rung, so
that what is compared is what a run of that length gives, and a rung is a set of ordinary runs. From kept taps that
costs as much again as all rungs before. A pruner such as Optuna's looks at curves in mid-schedule, and stops single
trials, which would share no pass over the taps.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.answering.candidates import BATCH, Candidate
from peftbench.answering.choices import choices
from peftbench.answering.probes import best_probes, epoch_of_probe, merit, pass_over, reserve_for
from peftbench.answering.search import Search
from peftbench.answering.state import Tried
from peftbench.answering.time_left import MARGIN
from peftbench.common.amounts import plural, seconds

SHARES = (0.5, 0.6)
"""Of the time, by when the rungs on the best backbone and on the second must have ended."""
_STEP = "side nets"
_PATIENCE = 2
"""So many longer rungs without a better figure end the climb."""

Net = tuple[str, tuple[str, ...]]


def train_sides(search: Search, backbones: Sequence[Candidate]) -> None:
    """Climbs rungs on each backbone while there is time. Raises KeyboardInterrupt, UserError as `Search.carry_out`."""
    for backbone, share in zip(backbones, SHARES, strict=False):
        _climb(search, backbone, share)


def _climb(search: Search, backbone: Candidate, share: float) -> None:
    asked = search.asked.methods
    nets: list[Net] = [(side[0], side[1:]) for side in choices().sides if not asked or side[0] in asked]
    if not nets:
        return
    epochs, best, worse = 1, -1.0, 0
    needed = _foretold(search, backbone, nets)
    while nets and needed is not None:
        rung = [(method, (*words, f"trainer.epochs={epochs}")) for method, words in nets]
        known = all(search.done(_STEP, backbone.name, *job) for job in rung)
        if not known and not search.clock.has_room(needed, _reserved(search, backbone, needed / search.times), share):
            search.decide(_STEP, f"{plural(epochs, 'epoch')} on {backbone.name} left out: about {seconds(needed)}")
            return
        tried = search.carry_out(_STEP, backbone.name, rung)
        by_net = dict(zip(nets, (search.done(_STEP, backbone.name, *job) for job in rung), strict=True))
        good = [(net, one) for net, one in by_net.items() if one is not None and _counts(search, one)]
        if not good:
            return
        good.sort(key=lambda pair: merit(pair[1]), reverse=True)
        _tell(search, backbone, epochs, good, len(tried))
        top = good[0][1].value or 0.0
        if top >= max((t.value or 0.0) for t in best_probes(search)):  # it may be the answer
            rung_took = sum(one.seconds for one in tried) / search.times
            search.reserved = max(search.reserved, _reserved(search, backbone, rung_took))
        worse = worse + 1 if top <= best and len(good) == 1 else 0
        best = max(best, top)
        if worse >= _PATIENCE or 2 * epochs > choices().most_epochs:
            return
        kept = good[: (len(good) + 1) // 2]
        nets, epochs = [net for net, _ in kept], 2 * epochs
        needed = 2 * sum(one.seconds for _, one in kept)


def _counts(search: Search, one: Tried) -> bool:
    """Whether a run may go on: it is complete, and within the limit on parameters."""
    return one.status == "complete" and one.value is not None and (one.parameters or 0) <= search.asked.parameters


def _tell(search: Search, backbone: Candidate, epochs: int, good: list[tuple[Net, Tried]], tried: int) -> None:
    _, first = good[0]
    words = " ".join([f"method={first.method}", *first.words])
    search.decide(
        _STEP,
        f"{plural(epochs, 'epoch')} of {plural(tried, 'net')} on {backbone.name}: best {search.shown(first)} ({words})",
    )


def _reserved(search: Search, backbone: Candidate, needed: float) -> float:
    """What the answer takes where it is one of these nets: as much as the rung, and the images once."""
    return max(search.reserved, reserve_for(search, backbone) + MARGIN * needed * _all_images(search))


def _all_images(search: Search) -> float:
    """The images of the last training, of training and validation together, as a factor on those of a trial."""
    return 1 + len(search.looked.val) / len(search.looked.train)


def _foretold(search: Search, backbone: Candidate, nets: Sequence[Net]) -> float | None:
    """Seconds of the first rung, by a step of the first net that can be timed; None where none can."""
    if any(one.step == _STEP and one.backbone == backbone.name for one in search.state.tried):
        return 0.0  # begun by an earlier command
    if not search.clock.has_room(2 * backbone.timing, search.reserved):
        search.decide(_STEP, f"none on {backbone.name}: no time is left for it")
        return None
    for method, words in nets:
        try:
            config = search.config(backbone.name, method, [*words, "trainer.epochs=1", f"data.batch_size={BATCH}"])
            probe = search.planned(config).probe
        except Exception:  # a net that refuses the backbone says so when its turn comes
            continue
        if probe is not None:
            reading = search.looked.reading * (len(search.looked.train) + len(search.looked.val))
            filling = max(probe.filling + reading, pass_over(search, backbone, len(search.looked.train)))
            return search.times * (filling + len(nets) * (probe.training + probe.validating))
    epoch = epoch_of_probe(search, backbone)
    return None if epoch is None else search.times * len(nets) * epoch
