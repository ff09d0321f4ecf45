"""What a tuned model predicts for the images of a split, as many as there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.data.base import Split
from peftbench.data.images import Batch, Images, Indices
from peftbench.data.moving import to_device, to_host
from peftbench.tuned.load import Tuned

_BATCH = 16  # few, so that little is begun once the time is over


Change = Callable[[Images, Batch, Sequence[int]], Tensor]
"""From images, a batch of them (B, 3, H, W) in uint8, and their places in the split, to other images of that form."""


@dataclass(frozen=True)
class LookedAt:
    """Images that a model has looked at, in their order.

    Attributes:
        split: the images.
        predictions: what `Task.evaluate` gave for them, a tensor (N, …) or a list of N.
        damaged: how many could not be read.
        changed: the same for what each of the changes made of them, by its name.
    """

    split: Split
    predictions: Any
    damaged: int
    changed: Mapping[str, Any]


def predicted(
    tuned: Tuned, split: Split, most: float, watch: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Split, Any, int]:
    """`split`, `predictions` and `damaged` of `look_at` without changes."""
    seen = look_at(tuned, split, most, watch)
    return seen.split, seen.predictions, seen.damaged


def look_at(
    tuned: Tuned,
    split: Split,
    most: float = float("inf"),
    watch: Callable[[int, int], None] = lambda done, of: None,
    changes: Mapping[str, Change] | None = None,
) -> LookedAt:
    """What a model predicts for the images of a split.

    The images come in an order that is drawn once and for all, so that those of a part are spread over the split.

    Args:
        tuned: the model, on its device.
        split: in the words of the run.
        most: seconds after which no further batch begins; the first always does.
        watch: called with the images done and of how many.
        changes: what else is made of the images and looked at, by name.

    Raises:
        UserError: no image can be read.
    """
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    begun, damaged = time.perf_counter(), 0
    several = min(_BATCH, tuned.run.config.data.eval_batch_size)
    places: list[int] = []
    answers: dict[str, list[Any]] = {"": [], **{name: [] for name in changes or {}}}
    for first in range(0, len(order), several):
        if places and time.perf_counter() - begun > most:
            break
        wanted = sorted(order[first : first + several])
        # A part at a time: to leave damaged ones out, all that is given is decoded. Names say which are left.
        part = replace(split.take(wanted), names=[str(row) for row in wanted])
        try:
            images = tuned.transform.plain().over(part, "skip", 1.0, lambda done, of: None)
        except Refusal:
            raise
        except UserError:  # none of the part can be read
            damaged += len(wanted)
            continue
        rows = [int(name) for name in images.split.names]
        damaged += len(wanted) - len(rows)
        batch = images.__getitems__(Indices(range(len(rows)), None))
        for name, of_change in answers.items():
            change = (changes or {}).get(name)
            shown = batch if change is None else batch._replace(images=change(images, batch, rows))
            with torch.no_grad(), tuned.precision():
                of_change.append(to_host(tuned.model.evaluate(to_device(shown, tuned.device))))
        places += rows
        watch(len(places), len(order))
    if not places:
        raise UserError(f"{split.names[0]}: cannot be read, nor can any other of {len(split):,} images.")
    in_order = np.argsort(places)
    sorted_answers = {name: _joined(parts, in_order) for name, parts in answers.items()}
    predictions = sorted_answers.pop("")
    return LookedAt(split.take(np.array(places)[in_order]), predictions, damaged, sorted_answers)


def _joined(parts: Sequence[Any], order: np.ndarray) -> Any:
    """The answers for batches as one tensor or list, in another order."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts)).float()[torch.from_numpy(order)]
    flat = [answer for part in parts for answer in part]
    return [flat[i] for i in order]
