"""Weights from the hub, where the user permits it: it is asked once, and what it gives is in the cache from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftbench.answering.choices import choices
from peftbench.answering.search import Search
from peftbench.answering.time_left import OutOfTime, ended_after
from peftbench.common.amounts import seconds
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing

ASKING = 3.0
"""Seconds that the hub has to answer."""
SHARE = 0.25
"""Of the time that is left, when downloads are ended."""
MOST = 2
"""So many are fetched where the user names none: as many as go on after the probes."""
_STEP = "download"


def fetch_backbones(search: Search, absent: Sequence[str], named: Mapping[str, str]) -> list[str]:
    """Downloads weights of backbones, in their order, while a share of the time lasts. Returns those that came.

    The clock's shares then are of the time that is left.

    Args:
        absent: backbones whose weights are not here.
        named: backbone -> timm's name, of those whose weights are the hub's.

    Raises:
        KeyboardInterrupt: the user stopped it.
        UserError: what is remembered cannot be written.
    """
    from peftbench.backbones.weights import download_weights, hub_problem

    order = absent if search.asked.backbones else [name for name in choices().backbones if name in absent]
    wanted = [name for name in order if name in named]
    wanted = wanted if search.asked.backbones else wanted[:MOST]
    if not wanted:
        return []
    doing("asking the hub for weights")
    try:
        with ended_after(ASKING):
            problem = hub_problem(named[wanted[0]], ASKING)
    except OutOfTime:
        problem = f"it was asked, and did not answer within {seconds(ASKING)}"
    if problem is not None:
        search.decide(_STEP, f"nothing comes from the hub: {problem}")
        return []
    end = search.clock.spent + SHARE * search.clock.left
    came: list[str] = []
    for name in wanted:
        doing(f"downloading {name}")
        begun = search.clock.spent
        try:
            with ended_after(max(end - begun, 0.0)):
                download_weights(named[name])
        except OutOfTime:
            search.decide(_STEP, f"{name} is left out: its download has not ended in a share of the time")
            break
        except UserError as problem_of_one:
            search.decide(_STEP, f"{name} is left out: {problem_of_one}")
            continue
        came.append(name)
        search.decide(_STEP, f"{name} came from the hub in {seconds(search.clock.spent - begun)}")
    search.clock.open()
    return came
