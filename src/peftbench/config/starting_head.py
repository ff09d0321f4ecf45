"""`trainer.head_from=logreg`: the head that a run begins from is worked out by another method; what that can be."""

from __future__ import annotations

from peftbench.common.config_files import CONFIGS
from peftbench.common.errors import UserError, nearest
from peftbench.config.declared_fields import class_constant
from peftbench.config.named_paths import method_path, paths_by_name
from peftbench.config.schema import Config
from peftbench.config.untrained import solves


def head_is_worked_out_once(config: Config) -> None:
    """Raises UserError: it is no method whose head is solved, or the run has its head from elsewhere."""
    name = config.trainer.head_from
    if name is None:
        return
    word = f"trainer.head_from={name}"
    if name not in (known := paths_by_name("method", [CONFIGS])):
        raise UserError(
            f"{word}: there is no such method{nearest(name, known)}; give one that works its head out, such as logreg."
        )
    if class_constant(method_path(name), "solves", word) is not True:
        raise UserError(
            f"{word}: trains its head; expected a method that works it out from frozen features, such as logreg or "
            f"ridge."
        )
    if solves(config):
        raise UserError(f"{word}: method={config.method.name} works its own head out; leave it out.")
    if config.start is not None:
        raise UserError(f"{word}: start={config.start} has a head to begin from; leave one of them out.")
    trainer = config.trainer
    if trainer.strategy != "single" or trainer.devices * trainer.nodes > 1:
        raise UserError(
            f"{word}: one process works the head out, and here is trainer.strategy={trainer.strategy} with "
            f"{trainer.devices * trainer.nodes} devices; leave it out, or train on one device."
        )
