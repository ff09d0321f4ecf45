"""What `import peftbench` offers."""

from __future__ import annotations

import json
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import replaced
from peftbench.methods.base import Method, Plan
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible


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
