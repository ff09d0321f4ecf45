"""The config of a run: what may be configured, of which type, and how words become a checked config; without torch.

`compose`, `overrides` and `resolvers` know Hydra, and are imported where they are used.
"""

from peftbench.common.config_files import CONFIGS
from peftbench.config.bound import bound_values, edited_key
from peftbench.config.identity import identity, run_id
from peftbench.config.schema import (
    MAY_BE_NULL,
    SECTIONS,
    TOP,
    Backbone,
    Config,
    Data,
    Logger,
    Method,
    Optimizer,
    Protocol,
    Pruning,
    Sweep,
    Taps,
    Trainer,
)
from peftbench.config.task_schema import TaskSection, task_path, task_schema
from peftbench.config.validate import is_of_same_run, replaced, restored, validate, validate_study

__all__ = [
    "CONFIGS",
    "MAY_BE_NULL",
    "SECTIONS",
    "TOP",
    "Backbone",
    "Config",
    "Data",
    "Logger",
    "Method",
    "Optimizer",
    "Protocol",
    "Pruning",
    "Sweep",
    "Taps",
    "TaskSection",
    "Trainer",
    "bound_values",
    "edited_key",
    "identity",
    "is_of_same_run",
    "replaced",
    "restored",
    "run_id",
    "task_path",
    "task_schema",
    "validate",
    "validate_study",
]
