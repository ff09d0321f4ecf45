"""The second step, its other half: a real probe on each backbone, judged by the validation images."""

from __future__ import annotations

from peftbench.auto.candidates import Candidate
from peftbench.auto.choices import choices
from peftbench.auto.search import Search
from peftbench.auto.state import Tried
from peftbench.auto.time_left import MARGIN, OVERHEAD
from peftbench.common.amounts import seconds
from peftbench.common.errors import UserError

SHARE = 0.375
"""Of the time, when the last probe must have ended: a quarter beside the eighth in which backbones are timed."""
BEST = 2
"""So many backbones go on."""
_STEP = "probes"


def pass_over(search: Search, backbone: Candidate, images: int) -> float:
    """Seconds that features of so many images take, their reading included."""
    return images * (backbone.image + search.looked.reading)


def reserve_for(search: Search, backbone: Candidate) -> float:
    """Seconds that an answer of a head on this backbone takes: all images once, without those that are kept."""
    return MARGIN * pass_over(search, backbone, search.looked.images) + 2 * OVERHEAD


def probe_backbones(search: Search, candidates: list[Candidate]) -> list[Candidate]:
    """Probes backbones, in their order, while there is time; at least one. Returns the best, the best one first.

    Raises:
        KeyboardInterrupt: the user stopped it.
        UserError: nothing could be probed.
    """
    images = len(search.looked.train) + len(search.looked.val)
    left_out: list[str] = []
    begun: list[Candidate] = []
    for one in candidates:
        known = any(t.step == _STEP and t.backbone == one.name for t in search.state.tried)
        needed = pass_over(search, one, images)
        if known or search.clock.has_room(needed, reserve_for(search, one), SHARE):
            _probe(search, one)
            begun.append(one)
        else:
            left_out.append(f"{one.name} ({seconds(needed)})")
    if not best_probes(search):
        quickest = min(candidates, key=lambda one: one.image)
        needed = pass_over(search, quickest, images) + reserve_for(search, quickest)
        if quickest not in begun:
            search.decide(
                _STEP,
                f"{seconds(search.clock.whole)} are less than the smallest pass takes, about {seconds(needed)} on "
                f"{quickest.name}; that is made all the same",
            )
        for one in sorted(candidates, key=lambda one: one.image):
            _probe(search, one)
            if best_probes(search):
                break
        else:
            why = next((t.reason for t in search.state.tried if t.reason), "no head fits the task")
            raise UserError(f"auto: no backbone could be probed: {why}")
    elif left_out:
        search.decide(_STEP, f"no time for {', '.join(left_out)}")
    by_name = {one.name: one for one in candidates}
    best = [t for t in best_probes(search) if t.backbone in by_name]
    told = ", ".join(f"{t.backbone} {search.shown(t)} ({t.method})" for t in best)
    search.decide(_STEP, f"judged by {search.metric} on {len(search.looked.val):,} validation images: {told}")
    chosen = [by_name[t.backbone] for t in best[:BEST]]
    search.reserved = max(reserve_for(search, one) for one in chosen)
    return chosen


def best_probes(search: Search) -> list[Tried]:
    """The best probe of each backbone, the best first; ties go to the lower loss, then to the earlier."""
    best: dict[str, Tried] = {}
    for one in search.state.tried:
        if one.step != _STEP or one.status != "complete" or one.value is None:
            continue
        if one.backbone not in best or merit(one) > merit(best[one.backbone]):
            best[one.backbone] = one
    return sorted(best.values(), key=merit, reverse=True)


def merit(one: Tried) -> tuple[float, float]:
    """By which runs are ordered: more is better."""
    return (-1.0 if one.value is None else one.value), (-one.loss if one.loss is not None else float("-inf"))


def _probe(search: Search, backbone: Candidate) -> None:
    """Works heads out from the features of one backbone; the first reads images, the others kept features."""
    for method in choices().probes:
        works = any(one.backbone == backbone.name for one in best_probes(search))
        known = search.done(_STEP, backbone.name, method, ())
        if works and known is None and not search.clock.has_room(OVERHEAD, reserve_for(search, backbone), SHARE):
            continue
        search.carry_out(_STEP, backbone.name, [(method, ())])
