"""Fine-tune any pretrained vision backbone with any adaptation method, and see what it cost.

    import peftbench

    config = peftbench.compose("method=lora", "backbone=vit_nano", "data=digits", "seed=1")
    record = peftbench.run(config)
    print(record.metrics["test/accuracy"], record.costs["parameters"]["method"])

Names are imported when they are first used, so that ``import peftbench`` stays cheap.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.answering.finding import Answered as Answered
    from peftbench.api import auto as auto
    from peftbench.api import count_parameters as count_parameters
    from peftbench.api import run as run
    from peftbench.common.errors import Refusal as Refusal
    from peftbench.common.errors import UserError as UserError
    from peftbench.config.compose import compose as compose
    from peftbench.results.record import Record as Record
    from peftbench.runs.build import build_backbone as build_backbone
    from peftbench.tuned.evaluating import evaluate as evaluate
    from peftbench.tuned.load import load as load
    from peftbench.tuned.multitask import MultiTask as MultiTask

__version__ = "0.2.0"

_WHERE = {
    "Answered": "peftbench.answering.finding",
    "auto": "peftbench.api",
    "compose": "peftbench.config.compose",
    "count_parameters": "peftbench.api",
    "build_backbone": "peftbench.runs.build",
    "evaluate": "peftbench.tuned.evaluating",
    "load": "peftbench.tuned.load",
    "MultiTask": "peftbench.tuned.multitask",
    "run": "peftbench.api",
    "Record": "peftbench.results.record",
    "UserError": "peftbench.common.errors",
    "Refusal": "peftbench.common.errors",
}
__all__ = [
    "Answered",
    "MultiTask",
    "Record",
    "Refusal",
    "UserError",
    "__version__",
    "auto",
    "build_backbone",
    "compose",
    "count_parameters",
    "evaluate",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'peftbench' has no attribute '{name}'")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is, whether it has been imported yet or not, and the packages of peftbench that have been."""
    packages = {n for n, v in globals().items() if isinstance(v, ModuleType) and v.__name__ == f"peftbench.{n}"}
    return sorted({*__all__, *packages, *(n for n in globals() if n.startswith("__"))})
