"""The last step: the winner by validation images, trained on all but the test images, and tested once."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

from peftbench.answering.learning_curve import CURVE
from peftbench.answering.probes import SAMPLED, merit
from peftbench.answering.search import Search, carried_out
from peftbench.answering.state import Tried
from peftbench.answering.time_left import OutOfTime
from peftbench.common.foreign_text import first_sentence
from peftbench.common.notes import note
from peftbench.common.status_line import doing
from peftbench.results import Record, read_record
from peftbench.results.stats import binomial_floor, share_interval

PARTS = {SAMPLED, *CURVE}
"""Steps whose runs learned from a part of the training images: no answer where another is complete."""
LINK = "answer"
"""In the answer's folder: a link to the folder of the run."""
_STEP = "answer"


def in_order(search: Search) -> list[Tried]:
    """What may be the answer, the one to take first.

    That is the cheapest of what is not told apart from the best: within one standard error of the difference (our
    reading of "inside the noise"; a run's errors on the same images are not paired). Cheaper is a quicker backbone,
    then fewer parameters, then less time. Of a task whose metric counts no images, the best is taken.
    """
    asked = search.asked
    good = [t for t in search.state.tried if t.status == "complete" and t.value is not None]
    good = [t for t in good if (t.parameters or 0) <= asked.parameters]
    good = [t for t in good if not asked.methods or t.method in asked.methods] or good
    good = [t for t in good if not asked.backbones or t.backbone in asked.backbones]
    good = [t for t in good if t.step not in PARTS] or good
    good.sort(key=merit, reverse=True)
    if not good:
        return []
    tied = [t for t in good if t is good[0] or _is_tied(search, good[0], t)]
    taken = min(tied, key=lambda t: _cost(search, t))
    return [taken, *(t for t in good if t is not taken)]


def _is_tied(search: Search, best: Tried, other: Tried) -> bool:
    assert best.value is not None
    assert other.value is not None
    if search.metric not in search.results.counted:
        return best.value == other.value
    floor = binomial_floor(best.value, best.images, other.value, other.images)
    return best.value - other.value <= math.sqrt(floor)


def _cost(search: Search, one: Tried) -> tuple[float, int, float]:
    image = float(search.state.timed.get(one.backbone, {}).get("image", math.inf))
    return image, one.parameters or 0, one.seconds


def give_answer(search: Search) -> dict[str, Any] | None:
    """Trains the winner on training and validation images and tests it; the next where that fails. None without any.

    What was tested by an earlier command of this answer is not tested again. Where the command's time is over before
    the last training has ended, the answer is the winner as it was tried, from the training images alone and untested.

    Raises:
        KeyboardInterrupt: the user stopped it.
        UserError: what is remembered cannot be written.
    """
    order = in_order(search)
    for one in order:
        record, tested = _tested(search, one)
        if record is not None:
            if search.asked.methods and one.method not in search.asked.methods:
                search.decide(_STEP, f"no method that was asked for came to a figure; {one.method} is a probe's head")
            best = max(order, key=merit)
            if best is not one:
                search.decide(_STEP, f"{best.name} has {search.shown(best)}, inside the noise, and costs more")
            search.state.answer = _described(search, one, record, len(order), tested)
            search.keep()
            _link(search.folder, record.id)
            return search.state.answer
    return None


def _tested(search: Search, one: Tried) -> tuple[Record | None, bool]:
    """The record of the last training, None where it failed; and whether it is that, and not the trial's own."""
    doing(f"training {one.method} on {one.backbone} on training and validation images, and testing it")
    try:
        config = search.config(one.backbone, one.method, [*one.words, *one.chosen], "final")
        if not any(entry.get("name") == one.name for entry in search.state.tests):
            search.state.tests.append({"name": one.name, "at": round(search.clock.spent, 1)})
            search.keep()  # before the test: who is ended in it has looked all the same
        most = search.clock.last if search.hurried else math.inf
        (record,) = carried_out([config], search.looked.splits, search.folder, most)
    except OutOfTime:
        search.decide(_STEP, f"no time was left to train {one.name} on all images and to test it; it stays as tried")
        return read_record(search.runs / one.run), False
    except Exception as problem:
        search.decide(_STEP, f"{one.name} cannot be the answer: {first_sentence(problem)}")
        return None, False
    if record.status != "complete":
        search.decide(_STEP, f"{one.name} cannot be the answer: {record.reason}")
        return None, False
    return record, True


def _described(search: Search, one: Tried, record: Record, tried: int, tested: bool) -> dict[str, Any]:
    test = record.metrics.get(f"test/{search.metric}") if tested else None
    stage = "final" if tested else "tune"
    images = int((record.stamps["data"].get("images") or {}).get("test") or len(search.looked.test))
    counted = search.metric in search.results.counted
    return {
        "run": record.id,
        "name": one.name,
        "backbone": one.backbone,
        "method": one.method,
        "words": one.words,
        "repeat": " ".join([*one.name.split(" "), *one.chosen, *_words_of_data(search), f"data.stage={stage}"]),
        "metric": search.metric,
        "val": one.value,
        "val_images": one.images,
        "folds": len(one.by_fold) or 1,
        "val_interval": share_interval(one.value, one.images) if counted and one.value is not None else None,
        "whole": tested,
        "test": test,
        "test_images": images,
        "test_interval": share_interval(test, images) if counted and test is not None else None,
        "tried": tried,
        "looks": len(search.state.tests),
        "parameters": one.parameters,
        "seconds": round(search.clock.spent, 1),
    }


def _words_of_data(search: Search) -> list[str]:
    """The overrides of the data that make the same run again, elsewhere."""
    asked = [word for word in search.asked.words if not word.startswith(("output_dir=", "hydra."))]
    return [*map(shlex.quote, asked), *search.looked.words]


def _link(folder: Path, run: str) -> None:
    """Has `answer` lead to the run's folder, where the system has links."""
    new = folder / f".{LINK}.new"
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(Path("runs") / run, target_is_directory=True)
        os.replace(new, folder / LINK)
    except (OSError, NotImplementedError) as problem:  # the latter on systems without links
        note(f"{folder / LINK}: could not be made a link ({problem}); the answer is {folder / 'runs' / run}.")
