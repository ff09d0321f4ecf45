"""What a tuned model predicts for the images of a split, for a page: as many as there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.data.base import Split
from peftbench.data.images import Indices
from peftbench.tuned.load import Tuned

_BATCH = 16  # few, so that little is begun once the time is over


def predicted(
    tuned: Tuned, split: Split, most: float, watch: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Split, Any, int]:
    """(the images that were looked at, in their order; what `Task.evaluate` gave for them; how many were damaged).

    What it gave is a tensor (N, …) or a list of N.

    The images come in an order that is drawn once and for all, so that those of a part are spread over the split.

    Args:
        tuned: the model, on its device.
        split: of the run's own data set.
        most: seconds after which no further batch begins; the first always does.
        watch: called with the images done and of how many.

    Raises:
        UserError: no image can be read.
    """
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    begun, damaged = time.perf_counter(), 0
    places: list[int] = []
    answers: list[Any] = []
    for first in range(0, len(order), _BATCH):
        if answers and time.perf_counter() - begun > most:
            break
        wanted = sorted(order[first : first + _BATCH])
        # A part at a time: to leave damaged ones out, all that is given is decoded. Names say which are left.
        part = replace(split.take(wanted), names=[str(row) for row in wanted])
        try:
            images = tuned.transform.over(part, "skip", 1.0, lambda done, of: None)
        except Refusal:
            raise
        except UserError:  # none of the part can be read
            damaged += len(wanted)
            continue
        rows = [int(name) for name in images.split.names]
        damaged += len(wanted) - len(rows)
        batch = _moved(images.__getitems__(Indices(range(len(rows)), None)), tuned.device)
        with torch.no_grad(), tuned.precision():
            answers.append(_on_cpu(tuned.model.evaluate(batch)))
        places += rows
        watch(len(places), len(order))
    if not answers:
        raise UserError(f"{split.names[0]}: cannot be read, nor can any other of {len(split):,} images.")
    in_order = np.argsort(places)
    if isinstance(answers[0], Tensor):
        return split.take(np.array(places)[in_order]), torch.cat(answers).float()[torch.from_numpy(in_order)], damaged
    flat = [answer for part in answers for answer in part]
    return split.take(np.array(places)[in_order]), [flat[i] for i in in_order], damaged


def _moved(values: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {name: _moved(value, device) for name, value in values.items()}
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(_moved(value, device) for value in values))
    return [_moved(value, device) for value in values] if isinstance(values, list) else values


def _on_cpu(values: Any) -> Any:
    return _moved(values, torch.device("cpu"))
