"""Published names of a method's forms: each keeps the options that make it what its name says."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config.declared_fields import class_constant, declared
from peftbench.config.identity import same_value
from peftbench.config.schema import Config


def forms_keep_their_options(config: Config) -> None:
    """Raises UserError: an option that a name stands for is changed, so that tables would call another method so."""
    name, path = config.method.name, config.method.path
    published: dict[str, dict[str, Any]] = {}
    with suppress(UserError):  # a class that does not extend `Method`
        published = class_constant(path, "published", "method.path")
    for option, meant in published.get(name, {}).items():
        value, default = config.method.options[option], declared(path, "method.path")[option][1]
        free = isinstance(meant, float)
        if same_value(value, default) if free else not same_value(value, meant):
            general, shown = path.split(".")[-2], _shown(meant)
            needs = f"{option} other than {_shown(default)}" if free else f"{option}={shown}"
            raise UserError(
                f"method.{option}={_shown(value)}: method={name} is method={general} with {needs}, and tables would "
                f"call another method so; leave it out, or take method={general} with the options that you mean."
            )


def _shown(value: Any) -> str:
    """As it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
