"""What a tuned model predicts for the images of a split, for a page: as many as there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.data.base import Split
from peftbench.data.images import Indices
from peftbench.tuned.load import Tuned

_BATCH = 32


def predicted(
    tuned: Tuned, split: Split, most: float, watch: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Split, Any]:
    """(the images that were looked at, in their order; what `Task.evaluate` gave for them, a tensor or a list).

    The images come in an order that is drawn once and for all, so that those of a part are spread over the split.

    Args:
        tuned: the model, on its device.
        split: of the run's own data set.
        most: seconds after which no further batch begins; the first always does.
        watch: called with the images done and of how many.
    """
    images = tuned.transform.over(split, "skip", 0.0, lambda done, of: None)
    split = images.split  # without those that are damaged
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    begun, places, answers = time.perf_counter(), [], []
    for first in range(0, len(order), _BATCH):
        if first and time.perf_counter() - begun > most:
            break
        rows = sorted(order[first : first + _BATCH])
        batch = _moved(images.__getitems__(Indices(rows, None)), tuned.device)
        with torch.no_grad(), tuned.precision():
            answers.append(_on_cpu(tuned.model.evaluate(batch)))
        places += rows
        watch(len(places), len(order))
    in_order = np.argsort(places)
    if isinstance(answers[0], Tensor):
        return split.take(np.array(places)[in_order]), torch.cat(answers).float()[torch.from_numpy(in_order)]
    flat = [answer for part in answers for answer in part]
    return split.take(np.array(places)[in_order]), [flat[i] for i in in_order]


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
