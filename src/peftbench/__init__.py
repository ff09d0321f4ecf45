"""Fine-tune any pretrained vision backbone with any adaptation method, and see what it cost.

    import peftbench

    config = peftbench.compose("method=lora", "backbone=vit_nano", "data=digits", "seed=1")
    record = peftbench.run(config)
    print(record.metrics["test/accuracy"], record.costs["parameters"]["method"])

Names are imported when they are first used, so that ``import peftbench`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.cli.compose import compose as compose
    from peftbench.errors import Refusal as Refusal
    from peftbench.errors import UserError as UserError
    from peftbench.finished import build_backbone as build_backbone
    from peftbench.finished import load as load
    from peftbench.pipeline import count_parameters as count_parameters
    from peftbench.pipeline import run as run
    from peftbench.results.record import Record as Record
    from peftbench.serve import MultiTask as MultiTask

__version__ = "0.1.0"

_WHERE = {
    "compose": "peftbench.cli.compose",
    "count_parameters": "peftbench.pipeline",
    "build_backbone": "peftbench.finished",
    "load": "peftbench.finished",
    "MultiTask": "peftbench.serve",
    "run": "peftbench.pipeline",
    "Record": "peftbench.results.record",
    "UserError": "peftbench.errors",
    "Refusal": "peftbench.errors",
}
__all__ = [
    "MultiTask",
    "Record",
    "Refusal",
    "UserError",
    "__version__",
    "build_backbone",
    "compose",
    "count_parameters",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'peftbench' has no attribute '{name}'")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
