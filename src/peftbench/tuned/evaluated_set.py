"""The images that a finished run is evaluated on, with labels in its words; and the run's own beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.config_files import search_path
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.config import Data, task_schema
from peftbench.data.base import Split, stamps_of_array
from peftbench.data.copies import first_copies
from peftbench.data.labelled import Labelled
from peftbench.data.ood import named_corruptions
from peftbench.runs.data_sets import instantiate, load_splits
from peftbench.tasks.evaluator import Evaluator
from peftbench.tuned.finished_run import FinishedRun

SPLIT = "test"
"""The split of a data set that is evaluated on."""


@dataclass(frozen=True)
class Asked:
    """What a run is to be evaluated on, and how.

    Attributes:
        images: the folder of the images; None where `data` names a set.
        labels: the file of their labels, if any.
        data: the words of a data set, as on the command line; a word without `=` is its name.
        ood: corruptions that are made of the images, as in `data.ood`.
        temperature: whether a temperature is fitted on the run's validation images.
        unknown: `skip` or `refuse` labels that the run does not know.
        seed: of the bootstrap.
        config_dir: a folder with your own YAML files.
    """

    images: str | Path | None = None
    labels: str | Path | None = None
    data: Sequence[str] = ()
    ood: Sequence[str] = ()
    temperature: bool = False
    unknown: str = "refuse"
    seed: int = 0
    config_dir: str | Path | None = None

    def check(self) -> None:
        """Raises UserError where it contradicts itself, or asks for nothing."""
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"seed={self.seed}: expected a whole number of 0 or more.")
        _refuse_other_keys(self.words)
        if self.images is None and not self.data:
            raise UserError("evaluate: needs images=FOLDER, or a data set such as data=photos.")
        if self.images is not None and self.data:
            raise UserError(f"{self.data[0]}: is a data set, and images={self.images} a folder; give one of them.")
        if self.labels is not None and self.data:
            raise UserError(f"labels={self.labels}: is for images=FOLDER; a data set has labels of its own.")

    @property
    def words(self) -> list[str]:
        """Those of the data set, each with its key."""
        return [word if "=" in word else f"data={word}" for word in self.data]

    def corruptions(self) -> dict[str, tuple[str, int]]:
        """Name -> (corruption, severity), of all that `ood` names. Raises UserError where it names none."""
        shifts: dict[str, tuple[str, int]] = {}
        for entry in self.ood:
            if not (named := named_corruptions(entry, "ood")):
                raise UserError(
                    f"ood={entry}: is no corruption; expected corruptions, noise, noise:3 and the like (see data.ood); "
                    f"a folder of shifted images is evaluated by itself (images={entry})."
                )
            shifts |= named
        return shifts


@dataclass(frozen=True)
class Source:
    """Where the evaluated images come from.

    Attributes:
        labelled: the images.
        told: what the record says of it.
        options: those of the set that are part of the evaluation's identity; none of a folder.
    """

    labelled: Labelled
    told: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def read_source(run: FinishedRun, evaluator: Evaluator, asked: Asked) -> Source:
    """The images that are asked for.

    Raises:
        UserError: there are none, their labels are wrong, or the data set is of another task.
    """
    if asked.images is None:
        return _of_data_set(run, asked)
    labelled = evaluator.read(asked.images, asked.labels, run.classes)
    labels = {"labels": str(asked.labels)} if asked.labels is not None else {}
    return Source(labelled, {"place": str(asked.images), **labels})


def _of_data_set(run: FinishedRun, asked: Asked) -> Source:
    from peftbench.config.compose import compose  # here alone: what a folder needs is nothing of Hydra

    spec = compose("method=linear", *asked.words, *search_path(asked.config_dir)).data
    task = run.config.task
    if task.name not in spec.tasks:
        raise UserError(
            f"data={spec.name}: is made for task={' or '.join(spec.tasks)}, and {run.folder} is of task={task.name}; "
            f"give a data set for that."
        )
    dataset = instantiate(spec)
    splits = dataset.load_as(task_schema(vars(task)).targets_for(task))
    if splits.test is None:
        raise UserError(splits.lacking.get(SPLIT) or f"data={spec.name}: {splits.name} has no test images.")
    if splits.test.frames is not None:
        raise Refusal(f"data={spec.name}: holds clips; only images can be evaluated on yet.")
    options = {key: value for key, value in spec.options.items() if key not in dataset.places}
    labelled = Labelled(splits.name, splits.test, splits.classes, splits.notes)
    return Source(labelled, {"words": asked.words, "split": SPLIT}, {"data": spec.name, "split": SPLIT, **options})


def _refuse_other_keys(words: Sequence[str]) -> None:
    """Raises UserError for a word that says nothing of which images there are."""
    common = {f.name for f in fields(Data)} - {"options"}
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        section, _, option = key.partition(".")
        if option == "ood":
            raise UserError(f"{word}: is of training; give ood=… to evaluate on shifted images too.")
        if section not in ("data", "data_dir"):
            hint = nearest(key, ("run", "images", "labels", "data", "ood", "temperature", "unknown", "seed", "weights"))
            raise UserError(
                f"{word}: evaluate takes no such key{hint}; of a config it takes data=… and data.root=… alone."
            )
        if option in common:
            raise UserError(f"{word}: images are prepared as they were for the run; leave it out.")


def held_out(run: FinishedRun, evaluated: Split) -> tuple[Split, int]:
    """(the validation images of the run without those that are evaluated, how many of them that were).

    Raises:
        UserError: there are none, or their files are gone.
    """
    validation = load_splits(run.config).roles(run.config.data.stage)[1]
    if validation is None:
        raise UserError(
            f"temperature=true: {run.folder} had no validation images to fit it on (data.stage="
            f"{run.config.data.stage}); train with some, such as data.stage=fit data.val_fraction=0.1."
        )
    copies = copies_in(validation, evaluated)
    if copies is None:
        return validation, 0
    kept = np.flatnonzero(~copies)
    if not len(kept):
        raise UserError(
            f"temperature=true: all validation images of {run.folder} are among those that are evaluated, and a "
            f"temperature that is fitted on them says nothing; leave it out."
        )
    return (validation if len(kept) == len(copies) else validation.take(kept)), int(copies.sum())


def training_images(run: FinishedRun) -> Split:
    """What the run trained on. Raises UserError where that is gone."""
    return load_splits(run.config).roles(run.config.data.stage)[0]


def copies_in(split: Split, other: Split) -> np.ndarray | None:
    """Of each image of `split` whether `other` has one with its bytes, bool (N,); None where they cannot be compared.

    Files are compared by their bytes, and images that are no files by their pixels. Raises UserError.
    """
    mine, theirs = split.images, other.images
    if isinstance(mine, np.ndarray) != isinstance(theirs, np.ndarray):
        return None
    if isinstance(mine, np.ndarray):
        there = set(stamps_of_array(np.asarray(theirs)))
        return np.array([stamp in there for stamp in stamps_of_array(mine)], dtype=bool)
    return first_copies([*map(Path, theirs), *map(Path, mine)])[len(theirs) :] < len(theirs)
