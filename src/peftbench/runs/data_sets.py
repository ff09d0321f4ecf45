"""What a run needs, looked at without torch: what is wrong with it is said before that is imported."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.weights_file import existing_weights
from peftbench.config import Config, task_schema
from peftbench.data.base import DataMissing, DataSet, Splits
from peftbench.data.class_groups import group_of_classes
from peftbench.data.copies import copies_not_looked_for


def instantiate(section: Any) -> Any:
    """The object that a config section's import path names, with the section's options."""
    module, _, name = section.path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as problem:
        if module.startswith("peftbench."):
            raise
        raise UserError(f"{section.path}: cannot be imported ({problem}); mend the imports of {module}.") from None
    options = {f.name: section.options[f.name] for f in dataclasses.fields(kind) if f.name in section.options}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def load_splits(config: Config) -> Splits:
    """The splits of a run's data set.

    Raises:
        UserError: as `DataSet.load`, marked as a mistake of the data, which every run on these data meets.
    """
    with copies_not_looked_for(config.trainer.trial), mistakes_of("data"):
        dataset: DataSet = instantiate(config.data)
        return group_of_classes(dataset.load_as(targets_of(config)), config.data)


def targets_of(config: Config) -> str:
    """What the run's task asks its data set for."""
    return task_schema(vars(config.task)).targets_for(config.task)


@dataclass(frozen=True)
class Outlined:
    """The splits of a data set, or what is known of them without their files, which a note says."""

    splits: Splits
    notes: tuple[str, ...] = ()


def outline_data(config: Config) -> Outlined:
    """A run's data set as far as a plan needs it: without its files, where it is known what they hold.

    Raises:
        UserError: as `DataSet.load`.
    """
    dataset: DataSet = instantiate(config.data)
    try:
        return Outlined(group_of_classes(dataset.load_as(targets_of(config)), config.data))
    except DataMissing:
        splits = dataset.outline()
        if splits is None:
            raise
        splits = group_of_classes(splits, config.data)
    roles = zip(("train on", "validate", "test"), splits.roles(config.data.stage), strict=True)
    sizes = ", ".join(f"{len(split):,} images to {what}" for what, split in roles if split is not None)
    known = f"planned for its {len(splits.classes)} classes and {sizes}"
    return Outlined(splits, (f"data={config.data.name}: its images are not there; {known}",))


def refuse_missing_weights(config: Config) -> None:
    """Raises UserError where the file of the backbone's weights is missing, unless a file of the task holds them."""
    of_task = any(getattr(config.task, key) for key in task_schema(vars(config.task)).files)
    if config.backbone.pretrained and not of_task:
        with mistakes_of("weights"):
            existing_weights(config.backbone.weights)


@contextlib.contextmanager
def mistakes_of(needed: str) -> Iterator[None]:
    """Marks what is refused within this block as a mistake of the `data` or the `weights` that a run needs."""
    try:
        yield
    except UserError as mistake:
        mistake.of = needed
        raise
