"""Whether more epochs of a method can still overtake the best that was found, by its rungs so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from peftbench.answering.answer import in_order
from peftbench.answering.probes import merit
from peftbench.answering.search import Search
from peftbench.answering.state import Tried
from peftbench.common.amounts import plural
from peftbench.results.stats import binomial_floor

Rung = tuple[int, float]
"""(epochs, what they reached on validation images)."""


def reach_of(rungs: Sequence[Rung], epochs: int) -> float:
    """What so many epochs reach at most, if each doubling of them brings what the best one has brought so far.

    Curves flatten, so that this is too high rather than too low; a curve that fell is led on level, from its highest.

    Args:
        rungs: at least two, by rising epochs.
        epochs: more than any of them has.
    """
    gains = [(b - a) / math.log2(more / few) for (few, a), (more, b) in pairwise(rungs)]
    return max(value for _, value in rungs) + max(0.0, *gains) * math.log2(epochs / rungs[-1][0])


def can_overtake(search: Search, curve: Sequence[tuple[int, Tried]], epochs: int) -> tuple[bool, str]:
    """Whether so many epochs may bring a method past the best of all others, and a sentence that says why or why not.

    It cannot where even the reach of its rungs and one standard error of a difference, which `in_order` takes for the
    noise, stay below that. Of one rung nothing is known, nor of a metric that counts no images: then it may.

    Args:
        curve: (epochs, run) of the method in one setting, by rising epochs.
        epochs: that there is time for.
    """
    own = [one for _, one in curve]
    others = [one for one in in_order(search) if one not in own and one.method != own[0].method]
    rungs = [(count, one.value) for count, one in curve if one.value is not None]
    if not others or len(rungs) < 2 or search.metric not in search.results.counted:
        return True, ""
    best = max(others, key=merit)
    assert best.value is not None
    reach = reach_of(rungs, epochs)
    at = min(max(reach, 0.0), 1.0)
    noise = math.sqrt(binomial_floor(best.value, best.images, at, own[-1].images))
    may = at + noise >= best.value
    told = (
        f"{plural(epochs, 'epoch')} would reach {100 * at:.1f} at most, by what a doubling has brought so far, and "
        f"{100 * (at + noise):.1f} with the noise; {best.method} on {best.backbone} has {100 * best.value:.1f}"
    )
    return may, told
