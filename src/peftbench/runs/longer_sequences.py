"""Whether there is memory for tokens that a method adds to each image's: told before weights are read or written."""

from __future__ import annotations

import dataclasses

from peftbench.common.amounts import size
from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.data.base import Splits
from peftbench.methods.base import Method
from peftbench.runs.device_memory import usable_memory
from peftbench.runs.dry_run import plan_step
from peftbench.runs.starting_backbone import build_on_meta


def refuse_more_tokens_than_memory(config: Config, method: Method, splits: Splits) -> None:
    """Asks `plan` what a step takes, where a method adds more tokens than an image has by itself.

    Fewer make less of a difference than the backbone and the batch do.

    Raises:
        UserError: a step takes more than a run may take here; the sentence names what would fit.
    """
    if not method.counts_tokens:
        return
    added = getattr(method, method.counts_tokens)
    if added <= build_on_meta(config, method).facts.taps[0].shape[0]:
        return
    needed, room = _needed(config, splits), usable_memory(config)
    if needed is None or needed <= room:
        return
    key = f"method.{method.counts_tokens}"
    fewer = added
    while fewer > 1 and (less := _needed(_with(config, method, fewer := fewer // 2), splits)) and less > room:
        pass
    fits = f"{key}={fewer} would fit" if (less or 0) <= room else "a smaller data.batch_size or backbone takes less"
    raise UserError(
        f"{key}={added}: a step of data.batch_size={config.data.batch_size} takes about {size(needed)}, and a run may "
        f"take {size(room)} here; {fits}, and peftbench plan … memory=true shows what else takes less."
    )


def _needed(config: Config, splits: Splits) -> int | None:
    """Bytes of the weights and of a step; None where the images decide."""
    planned = plan_step(config, splits)
    return None if planned is None else planned[0].peak + planned[1]


def _with(config: Config, method: Method, tokens: int) -> Config:
    options = {**config.method.options, method.counts_tokens: tokens}
    return dataclasses.replace(config, method=dataclasses.replace(config.method, options=options))
