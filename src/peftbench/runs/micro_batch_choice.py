"""`trainer.accumulate=auto`: how many images of a batch are computed at a time, decided before a run has its id."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftbench.common.amounts import size
from peftbench.common.errors import Refusal, UserError
from peftbench.common.out_of_memory import is_out_of_memory
from peftbench.config import Config, run_id
from peftbench.data.base import Splits
from peftbench.methods.base import Method
from peftbench.results.record import FILE as RECORD
from peftbench.runs.device_memory import usable_memory
from peftbench.runs.dry_run import images_of_step, plan_step
from peftbench.runs.probe import try_step
from peftbench.training.micro_batches import sizes_of_parts

KEY = "trainer.accumulate=auto"


def settle_micro_batch(
    config: Config, method: Method, splits: Splits, tell: Callable[[str], None]
) -> tuple[Config, dict[str, Any]]:
    """The config with `accumulate=auto` made a `micro_batch`, and what the record says of it; others as they are.

    A whole batch that fits is not divided: the run is then that of `accumulate=1`, and has its id. A run of the same
    words that is in the output folder already keeps what it chose, whatever memory is free by now; `force=true` chooses
    anew.

    Raises:
        Refusal: what a step takes cannot be foretold.
        UserError: not even one image fits.
    """
    if config.trainer.accumulate != "auto":
        return config, {}
    asked = run_id(config, "", "")
    earlier = None if config.force else _chosen_before(config, asked)
    about = earlier or {"asked": asked, **_chosen(config, method, splits)}
    images = about["micro_batch"]
    batch = images_of_step(config, splits)
    told = f"{KEY}: {'the whole batch' if images is None else f'{images} images of {batch}'} at a time"
    if earlier:
        tell(f"{told}, as the run of these words that is in {config.output_dir} began")
    else:
        tell(f"{told}, about {size(about['estimate'])} of the {size(about['usable'])} that a run may take here")
    trainer = dataclasses.replace(config.trainer, accumulate=1, micro_batch=images)
    return dataclasses.replace(config, trainer=trainer), about


def without_idle_parts(config: Config, tell: Callable[[str], None]) -> Config:
    """The config without a `micro_batch` that no batch is larger than: it divides nothing, and the id is without it."""
    images, batch = config.trainer.micro_batch, config.data.batch_size
    if images is None or images < batch:
        return config
    tell(f"trainer.micro_batch={images}: is without effect, since data.batch_size={batch} is no larger")
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, micro_batch=None))


def _chosen(config: Config, method: Method, splits: Splits) -> dict[str, Any]:
    """What `plan` says of a whole batch and of one image gives the largest part that fits; a step of it is tried."""
    batch, room = images_of_step(config, splits), usable_memory(config)
    plain = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, accumulate=1))
    whole = _needed(plain, splits, batch, 1)
    if whole <= room:
        images, estimate = batch, whole
    else:
        one, parts = _needed(plain, splits, 1, 2), _needed(plain, splits, batch, 2)
        each = max((parts - one) / max(batch - 1, 1), 1)
        images = min(max(1 + int((room - one) / each), 1), batch)
        images = sizes_of_parts(batch, images)[0]  # no larger than the parts will be
        estimate = int(one + (images - 1) * each)
    while not _fits(plain, method, splits, images):
        if images == 1:
            raise UserError(
                f"{KEY}: not even one image at a time fits in the memory that is free ({size(room)} are usable); "
                f"trainer.grad_checkpointing=true, trainer.precision=bf16 or a smaller backbone takes less."
            )
        images = -(-images // 2)
        estimate = _needed(plain, splits, images, 2)
    return {"micro_batch": None if images == batch else images, "estimate": estimate, "usable": room}


def _needed(config: Config, splits: Splits, images: int, parts: int) -> int:
    """Bytes of the weights and of a step."""
    planned = plan_step(config, splits, images, parts)
    if planned is None:
        raise Refusal(
            f"{KEY}: what a step of task={config.task.name} takes depends on the images; give trainer.micro_batch=N."
        )
    step, weights = planned
    return step.peak + weights


def _fits(config: Config, method: Method, splits: Splits, images: int) -> bool:
    """Whether a step of so many images at a time can be made."""
    try:
        try_step(config, method, splits, images)
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        return False
    return True


def _chosen_before(config: Config, asked: str) -> dict[str, Any] | None:
    """What the record of an earlier run of the same words says that it chose; None where there is none."""
    prefix = asked.rpartition("-")[0]
    for file in sorted(Path(config.output_dir).expanduser().glob(f"{prefix}-*/{RECORD}")):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))["stamps"]["accumulate"]
            if about["asked"] == asked and (about["micro_batch"] is None or int(about["micro_batch"]) >= 1):
                return about
        except (OSError, ValueError, KeyError, TypeError):  # damaged, or a run without a choice
            continue
    return None
