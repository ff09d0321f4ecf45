"""The second step, its other half: a real probe on each backbone, judged by the validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from peftbench.answering.candidates import Candidate
from peftbench.answering.choices import choices
from peftbench.answering.look import sample_of
from peftbench.answering.search import Search
from peftbench.answering.state import Tried
from peftbench.answering.time_left import MARGIN, OVERHEAD
from peftbench.common.amounts import seconds
from peftbench.common.errors import UserError
from peftbench.data.base import Splits

SHARE = 0.375
"""Of the time, when the last probe must have ended: a quarter beside the eighth in which backbones are timed."""
BEST = 2
"""So many backbones go on."""
SAMPLE = 1000
"""Training images of the first probes, at most; the best backbones are then probed on all."""
TRAINED_EPOCHS = 5
TRAINED = (choices().timed_by, (f"trainer.epochs={TRAINED_EPOCHS}",))
"""What probes where no head can be worked out: the same head, trained."""
_STEP, SAMPLED = "probes", "probes of a sample"


def pass_over(search: Search, backbone: Candidate, images: int) -> float:
    """Seconds that features of so many images take, their reading included: as timed, or as a run took by then."""
    measured = float(search.state.timed.get(backbone.name, {}).get("measured_image", 0.0))
    return images * max(backbone.image + search.looked.reading, measured)


def reserve_for(search: Search, backbone: Candidate) -> float:
    """Seconds that an answer of a head on this backbone takes: all images once, and the head worked out.

    Once a head was worked out there, as long as that took.
    """
    train, head = len(search.looked.train), 0.0
    for one in search.state.tried:
        if one.step in (_STEP, SAMPLED) and one.backbone == backbone.name and one.status == "complete":
            seen = min(train, SAMPLE) if one.step == SAMPLED else train
            own = one.seconds / search.times - (
                0.0 if head else pass_over(search, backbone, seen)
            )  # the first one's features
            head = max(head, own * train / seen)
    return MARGIN * pass_over(search, backbone, search.looked.images) + max(head, 2 * OVERHEAD)


def probe_backbones(search: Search, candidates: list[Candidate]) -> list[Candidate]:
    """Probes backbones, in their order, while there is time; at least one. Returns the best, the best one first.

    Raises:
        KeyboardInterrupt: the user stopped it.
        UserError: nothing could be probed.
    """
    whole = len(search.looked.train)
    sample = sample_of(search.looked.splits, SAMPLE, search.base.seed) if whole > SAMPLE else None
    step = _STEP if sample is None else SAMPLED
    images = whole + len(search.looked.val) if sample is None else len(sample.train) + len(sample.val or ())
    images *= search.times
    left_out: list[str] = []
    quickest = min(candidates, key=lambda one: one.image)
    for one in candidates:
        known = any(t.step == step and t.backbone == one.name for t in search.state.tried)
        needed = pass_over(search, one, images)
        if known or search.clock.has_room(needed, reserve_for(search, one), SHARE):
            _probe(search, one, step, sample, most=None if one is not quickest else math.inf)
            search.reserved = _reserved(search, candidates)
        else:
            left_out.append(f"{one.name} ({seconds(needed)})")
    if not best_probes(search):
        needed = pass_over(search, quickest, images) + reserve_for(search, quickest)
        search.hurried = needed <= search.clock.last
        if needed > search.clock.left:
            search.decide(
                _STEP,
                f"{seconds(max(search.clock.left, 0.0))} of {seconds(search.clock.whole)} are left, less than the "
                f"smallest pass takes, about {seconds(needed)} on {quickest.name}; that is made all the same",
            )
        for one in sorted(candidates, key=lambda one: one.image):
            _probe(search, one, step, sample, most=math.inf)
            if best_probes(search):
                break
        else:
            why = next((t.reason for t in search.state.tried if t.reason), "no head fits the task")
            raise UserError(f"auto: no backbone could be probed: {why}")
    elif left_out:
        search.decide(_STEP, f"the share of the time for probes is over before {', '.join(left_out)}")
    by_name = {one.name: one for one in candidates}
    best = [t for t in best_probes(search) if t.backbone in by_name]
    told = ", ".join(f"{t.backbone} {search.shown(t)} ({t.method})" for t in best)
    of = "" if sample is None else f"{len(sample.train):,} of {whole:,} training images; "
    judged = f"{best[0].images if best else len(search.looked.val):,} validation images"
    judged += f" in {search.times} folds" if search.folds else ""
    search.decide(_STEP, f"{of}judged by {search.metric} on {judged}: {told}")
    chosen = [by_name[t.backbone] for t in best[:BEST]]
    if sample is not None:
        _probe_whole(search, chosen, best)
    search.reserved = _reserved(search, chosen)
    return chosen


def _reserved(search: Search, candidates: Sequence[Candidate]) -> float:
    """Seconds that the answer takes by the slowest of those that have a probe."""
    probed = {one.backbone for one in best_probes(search)}
    return max((reserve_for(search, one) for one in candidates if one.name in probed), default=0.0)


def best_probes(search: Search) -> list[Tried]:
    """The best probe of each backbone, the best first; ties go to the lower loss, then to the earlier."""
    best: dict[str, Tried] = {}
    for one in search.state.tried:
        if one.step not in (_STEP, SAMPLED) or one.status != "complete" or one.value is None:
            continue
        if one.backbone not in best or merit(one) > merit(best[one.backbone]):
            best[one.backbone] = one
    return sorted(best.values(), key=merit, reverse=True)


def merit(one: Tried) -> tuple[float, float]:
    """By which runs are ordered: more is better."""
    return (-1.0 if one.value is None else one.value), (-one.loss if one.loss is not None else float("-inf"))


def probed_by(search: Search, backbone: Candidate, method: str) -> tuple[Tried, float] | None:
    """(the probe of that method, the share of the training images that it saw); None where there is none."""
    for step, share in ((_STEP, 1.0), (SAMPLED, SAMPLE / len(search.looked.train))):
        one = search.done(step, backbone.name, method, ())
        if one is not None and one.status == "complete":
            return one, share
    return None


def epoch_of_probe(search: Search, backbone: Candidate) -> float | None:
    """Seconds of an epoch of the trained head that probed a backbone; None where none did."""
    one = search.done(_STEP, backbone.name, *TRAINED) or search.done(SAMPLED, backbone.name, *TRAINED)
    if one is None or one.status != "complete":
        return None
    share = 1.0 if one.step == _STEP else SAMPLE / len(search.looked.train)
    return max(0.0, one.seconds / search.times - OVERHEAD) / TRAINED_EPOCHS / share


def _probe_whole(search: Search, chosen: list[Candidate], best: list[Tried]) -> None:
    """The best backbones again, on all images, by the head that was best on each; where there is time."""
    jobs = {one.backbone: (one.method, tuple(one.words)) for one in best}
    for one in chosen:
        needed = pass_over(search, one, len(search.looked.train) + len(search.looked.val))
        known = search.done(_STEP, one.name, *jobs[one.name]) is not None
        if known or search.clock.has_room(needed, reserve_for(search, one)):
            for tried in search.carry_out(_STEP, one.name, [jobs[one.name]]):
                search.decide(_STEP, f"{tried.method} on {one.name}, all training images: {search.shown(tried)}")
        else:
            search.decide(_STEP, f"{one.name} is not probed on all images: about {seconds(needed)}")


def _probe(search: Search, backbone: Candidate, step: str, sample: Splits | None, most: float | None) -> None:
    """Works heads out from the features of one backbone; the first reads images, the others kept features.

    `most` is as `Search.carry_out` has it, until there is an answer to fall back on.
    """
    asked = search.asked.methods
    for method in sorted(choices().probes, key=lambda name: name not in asked):
        works = any(one.backbone == backbone.name for one in best_probes(search))
        known = search.done(step, backbone.name, method, ())
        if works and known is None:
            needed = search.times * search.overhead(backbone.name)
            if not search.clock.has_room(needed, reserve_for(search, backbone), SHARE):
                continue
            search.reserved = max(search.reserved, reserve_for(search, backbone))
        search.carry_out(step, backbone.name, [(method, ())], sample, None if best_probes(search) else most)
    if not any(one.backbone == backbone.name for one in best_probes(search)):  # no head is worked out for the task
        search.carry_out(step, backbone.name, [TRAINED], sample, None if best_probes(search) else most)
