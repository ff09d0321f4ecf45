"""What more images would probably bring: a probe on parts of the training images, and where its curve leads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftbench.answering.candidates import Candidate
from peftbench.answering.look import part_of
from peftbench.answering.probes import best_probes, pass_over
from peftbench.answering.search import Search

CURVE = {"a quarter of the images": 0.25, "half of the images": 0.5}
"""Step -> the share of the training images."""
_STEP = "learning curve"
_DRAWS = 400


def draw_curve(search: Search, backbone: Candidate) -> None:
    """Probes parts where there is time, and notes where the curve leads. Raises as `Search.carry_out`."""
    probe = next((t for t in best_probes(search) if t.backbone == backbone.name), None)
    if probe is None or probe.value is None or search.metric not in search.results.counted:
        return
    data = search.folds[0] if search.folds else search.looked.splits  # the first fold judges all points
    whole = len(data.train)
    points = []
    for step, share in CURVE.items():
        part = part_of(data, share, search.base.seed)
        needed = pass_over(search, backbone, len(part.train) + len(search.looked.val))
        known = search.done(step, backbone.name, probe.method, probe.words) is not None
        if not known and not search.clock.has_room(needed, search.reserved):
            search.decide(_STEP, f"left out: {step} would take about {needed:.0f} s")
            return
        (one,) = search.carry_out(step, backbone.name, [(probe.method, tuple(probe.words))], part)
        if one.value is None:
            return
        points.append((len(part.train), one.value))
    full = search.done("probes", backbone.name, probe.method, probe.words)
    if full is None or full.value is None:
        return
    points.append((whole, full.by_fold[0] if full.by_fold else full.value))
    low, middle, high = extrapolated(points, 2 * whole, len(data.val or ()), search.base.seed)
    search.state.curve = {
        "name": f"{probe.method} on {backbone.name}",
        "points": [list(point) for point in points],
        "images": 2 * whole,
        "band": [low, middle, high],
    }
    measured = ", ".join(f"{images:,} {100 * value:.1f} %" for images, value in points)
    search.decide(
        _STEP,
        f"{probe.method} on {backbone.name} from so many training images: {measured}; twice as many would bring about "
        f"{100 * middle:.1f} % ({100 * low:.1f} to {100 * high:.1f}), an extrapolation by a power law, no measurement",
    )


def extrapolated(
    points: Sequence[tuple[int, float]], images: int, counted: int, seed: int
) -> tuple[float, float, float]:
    """(low, middle, high) of the share that is right from so many training images, at 95 %.

    The error is a power of the number of images (our choice), fitted to the points by least squares of logarithms. The
    band is of fits to draws of as many right images as were counted; errors on the same images are taken for
    independent, which makes it wider.

    Args:
        points: (training images, share that is right).
        images: to extrapolate to.
        counted: validation images behind each share.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    at = np.log([number for number, _ in points])
    shares = np.clip([share for _, share in points], 0.0, 1.0)
    drawn = np.vstack([shares, rng.binomial(counted, shares, (_DRAWS, len(points))) / counted])
    errors = np.log(np.maximum(1 - drawn, 0.5 / counted))  # none wrong of so many is not none of all
    slope = np.minimum(
        np.polyfit(at, errors.T, 1)[0], 0.0
    )  # more images do no harm: then the mean of the points stands
    start = errors.mean(axis=1) - slope * at.mean()
    reached = 1 - np.minimum(1.0, np.exp(start + slope * np.log(images)))
    low, high = np.percentile(reached[1:], [2.5, 97.5])
    return float(low), float(reached[0]), float(high)
