"""What a run whose head is solved cannot have, and what of its config is without effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from peftbench.common.amounts import agreeing
from peftbench.common.errors import Refusal
from peftbench.config import Config, Optimizer, task_schema
from peftbench.config.untrained import as_untrained
from peftbench.methods.base import Method
from peftbench.tasks.base import task_class

IN_TRAINING: Mapping[str, Any] = {
    "augment": "none",
    "jitter": 0.0,
    "erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "sampler": "shuffle",
    "augment_on": "host",
}
"""Keys of the data that are of training in steps, and what they are without effect."""
_SOLVED_FOR = {"classes": "one class an image", "labels": "labels", "numbers": "numbers"}


def settled_for_solving(config: Config, method: Method, tell: Callable[[str], None] = lambda text: None) -> Config:
    """The config of a run as it is carried out: a head that is solved has seen each image once, without augmentation.

    So such a run has one id, whatever augmentation, epochs and optimizer the others in its sweep have.
    """
    if not method.solves:
        return config
    given = {key: getattr(config.data, key) for key in IN_TRAINING}
    idle = [f"data.{key}={value}" for key, value in given.items() if value != IN_TRAINING[key]]
    if config.taps.views:
        idle.append(f"taps.views={config.taps.views}")
    plain = as_untrained(config)
    idle += _differing(config.optimizer, plain.optimizer)
    if config.trainer.epochs != plain.trainer.epochs:
        idle.append(f"trainer.epochs={config.trainer.epochs}")
    if not idle:
        return config
    tell(
        f"{', '.join(idle)}: {agreeing(len(idle))} without effect, since method={config.method.name} looks at each "
        f"image once, as it is, and takes no steps"
    )
    return dataclasses.replace(
        plain,
        data=dataclasses.replace(config.data, **IN_TRAINING),
        taps=dataclasses.replace(config.taps, views=0),
    )


def _differing(optimizer: Optimizer, plain: Optimizer) -> list[str]:
    """The keys of the optimizer that are not as in `plain`, or its name where that differs."""
    if optimizer.name != plain.name:
        return [f"optimizer={optimizer.name}"]
    values = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
    return [f"optimizer.{key}={value}" for key, value in values.items() if value != getattr(plain, key)]


def refuse_solving(config: Config, method: Method) -> None:
    """Raises Refusal where the task has no head that this method solves, or where a key has nothing to act on."""
    name, task = config.method.name, task_class(config.task)
    if task.solved_as not in method.solves_for:
        able = " or ".join(_SOLVED_FOR[kind] for kind in method.solves_for)
        instead = "method=ridge" if task.solved_as else "method=linear"
        raise Refusal(
            f"task={config.task.name}: method={name} solves a head on pooled features for {able}; {instead} works."
        )
    optimizer, trainer = config.optimizer, config.trainer
    given = {
        f"start={config.start}": config.start is not None,
        "optimizer.find_lr=true": optimizer.find_lr,
        f"optimizer.layer_decay={optimizer.layer_decay}": optimizer.layer_decay is not None,
        f"optimizer.head_lr={optimizer.head_lr}": optimizer.head_lr != 1,
        f"trainer.keep={trainer.keep}": trainer.keep != "last",
        f"trainer.patience={trainer.patience}": trainer.patience is not None,
        f"trainer.minutes={trainer.minutes}": trainer.minutes is not None,
        f"trainer.ema={trainer.ema}": trainer.ema is not None,
        f"trainer.micro_batch={trainer.micro_batch}": trainer.micro_batch is not None,
        f"trainer.accumulate={trainer.accumulate}": trainer.accumulate != 1,
        f"trainer.clip={trainer.clip}": trainer.clip is not None,
    }
    given |= _weighing(config)
    if word := next((key for key, is_given in given.items() if is_given), None):
        raise Refusal(
            f"{word}: method={name} solves its head, without epochs, steps or a loss of its own; leave it out."
        )
    if trainer.devices * trainer.nodes > 1:
        raise Refusal(
            f"trainer.devices={trainer.devices} trainer.nodes={trainer.nodes}: method={name} is solved by one process; "
            f"give trainer.devices=1 trainer.nodes=1 trainer.strategy=single."
        )


def _weighing(config: Config) -> dict[str, bool]:
    """Keys of the task's section that change its training loss -> whether they do."""
    defaults = {field.name: field.default for field in dataclasses.fields(config.task)}
    keys = [key for key in ("label_smoothing", *task_schema(vars(config.task)).counters) if key in defaults]
    values = {key: getattr(config.task, key) for key in keys}
    return {f"task.{key}={value}": value != defaults[key] for key, value in values.items()}
