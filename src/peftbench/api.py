"""What `import peftbench` offers."""

from __future__ import annotations

import json
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import Config, replaced
from peftbench.methods.base import Method, Plan
from peftbench.results import Record
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible


def run(config: Config, group: str | None = None, retry: bool = True) -> Record:
    """Carries out one run and returns its record; a run whose record is complete is read, not repeated.

    With `page=true` in its config the run's page is written too, as the command line does.

    Args:
        config: what `peftbench.compose` gives.
        group: the sweep that the run belongs to, if any.
        retry: whether a run that failed before is tried again; else its record is read.

    Upon Ctrl-C, SIGTERM and SIGHUP the record says `interrupted`, and nothing is raised.

    Raises:
        UserError: see the message; where the run had begun, its record says `failed` or `refused` with the reason.
    """
    from peftbench.runs.run import run as carry_out

    record = carry_out(config, group, retry)
    if config.page:
        from peftbench.tuned.run_page import write_asked_pages

        write_asked_pages([config], [record], print)
    return record


def count_parameters(method: str, backbone: str, **overrides: Any) -> int:
    """The method's own trainable parameters (head apart), without weights or data: what a run reports.

    `overrides` are options of the method, such as `rank=4`.

        >>> peftbench.count_parameters("lora", "vit_b", rank=8)
        1179648

    Raises:
        UserError: there is no such method, backbone or option, or an option cannot have this value.
    """
    from peftbench.config.compose import compose

    for key, value in overrides.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise UserError(
                f"method.{key}={value!r}: expected a number, a string, true, false, null or a list."
            ) from None
    config = replaced(
        compose(f"method={method}", f"backbone={backbone}"), {f"method.{k}": v for k, v in overrides.items()}
    )
    built: Method = instantiate(config.method)
    meta = refuse_incompatible(config, built)
    side = built.adapt(meta, Plan())
    trained = [*meta.parameters(), *(side.parameters() if side is not None else ())]
    return sum(p.numel() for p in trained if p.requires_grad)
