"""A finished run as its folder tells it: config, plan and delta. Needs neither Lightning nor Hydra."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from peftbench import config, deltas
from peftbench.common.errors import Refusal
from peftbench.common.notes import note
from peftbench.config import Config
from peftbench.config.declared_fields import declared
from peftbench.methods.base import Method, Plan
from peftbench.results import Record
from peftbench.runs.build import instantiate
from peftbench.runs.plan_file import CONFIG, read_plan
from peftbench.tuned.run_folder import read_finished


@dataclass(frozen=True)
class FinishedRun:
    """A finished run as its folder tells it; no weights of a backbone have been read.

    Attributes:
        tensors, metadata: the delta.
        source: where it was read, for messages.
    """

    folder: Path
    record: Record
    config: Config
    method: Method
    plan: Plan
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    source: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """What it tells apart, in the order of its predictions."""
        return tuple(json.loads(self.metadata["classes"]))

    @property
    def categories(self) -> tuple[int, ...]:
        """The numbers of the classes in the data set's own files, where it has such."""
        return tuple(json.loads(self.metadata.get("categories", "[]")))

    @property
    def frames(self) -> int | None:
        """The frames of a clip; None where the run was on images."""
        if "frames" in self.metadata:
            return json.loads(self.metadata["frames"])
        return self.record.stamps["data"].get("frames")  # 0.1 said so in the record alone


def open_run(folder: str | Path, config_dir: str | Path | None = None) -> FinishedRun:
    """What the folder of a complete run holds.

    Args:
        folder: the run's, `outputs/<run id>`.
        config_dir: a folder with the YAML of a method of your own.

    Raises:
        UserError: there is no run, it is not complete, or a file of it is missing, damaged or of another version.
    """
    folder, record, spec = read_finished(folder, config_dir)
    file = folder / deltas.FILE
    tensors, metadata = deltas.load_delta(file)
    _refuse_edited_config(file, metadata, spec)
    plan = read_plan(folder, metadata.get("plan"))
    return FinishedRun(folder, record, spec, instantiate(spec.method), plan, tensors, metadata, file)


def _refuse_edited_config(file: Path, metadata: Mapping[str, str], spec: Config) -> None:
    """Raises Refusal where the run's config says another thing than the delta that was made with it."""
    place = file.parent / CONFIG
    # An option that came later had its default when there was none.
    later = {key: default for key, (_, default) in declared(spec.method.path, "method.path").items()}
    later = json.loads(json.dumps(later))  # tuples are lists there
    theirs = {**later, "name": metadata["method"], **json.loads(metadata["options"])}
    ours = {"name": spec.method.name, **spec.method.options}
    for key in {**theirs, **ours}:
        a, b = theirs.get(key, "nothing"), ours.get(key, "nothing")
        if a != b:
            raise Refusal(
                f"{file}: was made with method.{key}={a}, and {place} has method.{key}={b}; a delta fits only the "
                f"method and options that it was made with."
            )
    if "config" not in metadata:
        note(
            f"{file}: is of an earlier version, which did not bind all of {CONFIG} to it; whether that is as the run "
            f"left it cannot be checked."
        )
    elif edited := config.edited_key(json.loads(metadata["config"]), spec):
        key, bound, now = edited
        raise Refusal(
            f"{file}: was made with {key}={bound}, and {place} has {key}={now}; a delta fits only the config that it "
            f"was made with."
        )
