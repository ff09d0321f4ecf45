"""What of a config says how to train, for a run that does not: its head is solved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from peftbench.common.errors import UserError
from peftbench.config.declared_fields import class_constant
from peftbench.config.schema import Config, Optimizer

EPOCHS = 20
OPTIMIZER = Optimizer("adamw", 1e-3, weight_decay=1e-4, betas=(0.9, 0.999))
"""What a config without a word on training says."""
_ASKED_FOR = ("find_lr", "layer_decay", "head_lr")
"""Keys that ask for what such a run has not: it is refused with them, so they stay."""


def solves(config: Config) -> bool:
    """Whether the method's head is solved, by its class's own word."""
    with suppress(UserError):  # a class that does not extend `Method`
        return class_constant(config.method.path, "solves", "method.path") is True
    return False


def as_untrained(config: Config) -> Config:
    """The config as if it had no word on training."""
    kept = {key: getattr(config.optimizer, key) for key in _ASKED_FOR}
    trainer = replace(config.trainer, epochs=EPOCHS)
    return replace(config, optimizer=replace(OPTIMIZER, **kept), trainer=trainer)
