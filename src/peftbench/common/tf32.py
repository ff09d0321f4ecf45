"""Whether a GPU computes products of float32 in TF32: of matrices and of convolutions alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Within it both are as said; afterwards as before. Nothing changes on a CPU, or on a GPU without TF32.

    torch's own default is TF32 for convolutions and none for products of matrices.
    """
    with ExitStack() as afterwards:
        for before, write, value in _switches(on):
            if before != value:
                afterwards.callback(write, before)
                write(value)
        yield


def _switches(on: bool) -> list[tuple[Any, Callable[[Any], None], Any]]:
    """(value, how it is set, wanted value) of each switch, all of one of torch's two interfaces.

    `allow_tf32` is in every torch from 2.6 to 2.15, and 2.9 and later keep `fp32_precision`, which came then, in step
    with it. The other way round they do not: `allow_tf32` then raises where it is read, as Lightning and, in several
    versions, torch's own compiler do. So `fp32_precision` is taken only where the process has used it already, or where
    nothing else is left.
    """
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        precision, found = torch.get_float32_matmul_precision(), (matrices.allow_tf32, convolutions.allow_tf32)
    except (RuntimeError, AttributeError):
        places: Any = (matrices, convolutions.conv, convolutions.rnn)  # type: ignore[attr-defined]
        wanted = "tf32" if on else "ieee"
        return [(p.fp32_precision, partial(setattr, p, "fp32_precision"), wanted) for p in places]
    of_matrices: tuple[Any, Callable[[Any], None], Any] = (found[0], partial(setattr, matrices, "allow_tf32"), on)
    if precision == "medium":  # somebody has chosen it for the CPU too, and it stays whole
        of_matrices = (precision, torch.set_float32_matmul_precision, precision if on else "highest")
    return [of_matrices, (found[1], partial(setattr, convolutions, "allow_tf32"), on)]
