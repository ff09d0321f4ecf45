"""How much memory a run can have, and what is told when it was not enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from peftbench.common.amounts import size
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.machine import free_memory
from peftbench.common.out_of_memory import is_out_of_memory
from peftbench.config import Config
from peftbench.data.base import Splits
from peftbench.runs.memory_ways import Way, ways_to_less_memory
from peftbench.training import device_of_process

SHARES = {"cuda": 0.85, "cpu": 0.55}
"""Of the memory that is free, what tensors may take: a GPU's blocks have gaps, and on a processor a process holds up to
1.7 times what its tensors take (`docs/plan.md`). Our reading."""


def usable_memory(config: Config) -> int:
    """Bytes that the tensors of a run may take now, its weights included."""
    device = device_of_process(config.trainer)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(SHARES["cuda"] * torch.cuda.mem_get_info(device)[0])
    return int(SHARES["cpu"] * free_memory())


@contextlib.contextmanager
def out_of_memory_told(config: Config, splits: Splits) -> Iterator[None]:
    """Within it a want of memory is one sentence that names what would fit. Raises UserError."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(problem):
            raise
        reason = first_sentence(str(problem).rpartition("] ")[2])
    else:
        return
    raise UserError(_sentence(config, splits, reason))  # outside, so that the tensors of the traceback are gone


def _sentence(config: Config, splits: Splits, reason: str) -> str:
    device = device_of_process(config.trainer)
    at_once = config.trainer.micro_batch or config.data.batch_size
    told = f"data.batch_size={config.data.batch_size}: out of memory on {device} ({reason}); "
    try:
        ways = ways_to_less_memory(config, splits)
    except UserError:  # a method that looks at data before it says what it trains
        ways = ()
    room = usable_memory(config)
    fitting = [way for way in ways if way.peak + way.weights <= room]
    if fitting:
        return f"{told}what would fit in the {size(room)} that are free: {_listed(fitting)}."
    if ways:
        least = min(ways, key=lambda way: way.peak)
        return (
            f"{told}nothing alone would fit in the {size(room)} that are free; {least.words} takes "
            f"about {size(least.peak + least.weights)}, and several together less, or take a smaller backbone."
        )
    smaller = max(at_once // 2, 1)
    checkpointing = "" if config.trainer.grad_checkpointing else ", trainer.grad_checkpointing=true"
    return (
        f"{told}less is taken with trainer.micro_batch={smaller}{checkpointing}, a smaller data.eval_batch_size "
        f"or data.size, or trainer.precision=bf16."
    )


def _listed(ways: list[Way]) -> str:
    """`trainer.micro_batch=8 (about 3.1 GB; …) or …`: of several parts of a batch the largest."""
    parts = [way for way in ways if way.words.startswith("trainer.micro_batch")]
    shown = [way for way in ways if way not in parts[1:]]
    texts = []
    for way in shown:
        more = "; trainer.accumulate=auto finds it" if way in parts else ""
        more += "" if way.same_batch else "; another training"
        texts.append(f"{way.words} (about {size(way.peak + way.weights)}{more})")
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
