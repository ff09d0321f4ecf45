"""What a step would take in ways that need less memory: simulated, each against the step as it is configured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.config.rules import check_rules
from peftbench.data.base import Splits
from peftbench.runs.arithmetic import settled_arithmetic
from peftbench.runs.dry_run import images_of_step, plan_step


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        words: what to give for it.
        peak, saved: bytes of a step, as in `Step`.
        weights: bytes of the model, which come on top.
        same_batch: whether a step is of as many images as before.
    """

    words: str
    peak: int
    saved: int
    weights: int
    same_batch: bool = True


def ways_to_less_memory(config: Config, splits: Splits) -> tuple[Way, ...]:
    """Those that this run can still take, each alone; empty where the images decide what a step takes."""
    ways = []
    config, _ = settled_arithmetic(config)
    for changed, words, same in _candidates(config, images_of_step(config, splits)):
        try:
            check_rules(changed)
            planned = plan_step(changed, splits)
        except UserError:  # not for this method or backbone
            continue
        if planned is not None:
            step, weights = planned
            ways.append(Way(words, step.peak, step.saved, weights, same))
    return tuple(ways)


def _candidates(config: Config, batch: int) -> Iterator[tuple[Config, str, bool]]:
    """(config, what to give, whether a step is of as many images)."""
    trainer = config.trainer
    if not trainer.grad_checkpointing:
        yield _with(config, "trainer", grad_checkpointing=True), "trainer.grad_checkpointing=true", True
    at_once = min(batch, trainer.micro_batch or batch)
    for part in (2, 4, 8):
        if at_once >= part:
            images = at_once // part
            words = f"trainer.micro_batch={images}"
            yield _with(config, "trainer", micro_batch=images, accumulate=_number(trainer.accumulate)), words, True
    if trainer.precision == "32":
        yield _with(config, "trainer", precision="bf16"), "trainer.precision=bf16", True
    if batch >= 4 and trainer.micro_batch is None:
        yield _with(config, "data", batch_size=batch // 4), f"data.batch_size={batch // 4}", False


def _number(accumulate: Any) -> int:
    return 1 if accumulate == "auto" else accumulate


def _with(config: Config, section: str, **values: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
