"""The file of the backbone that a finished run pruned to a latency: it is never measured again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.runs.latency_pruning import FOLDER
from peftbench.tuned.finished_run import FinishedRun


def with_pruned_file(run: FinishedRun) -> FinishedRun:
    """The run, whose backbone comes from the pruned file beside its folder; any other run as it is.

    Raises:
        UserError: the file is not there.
    """
    target = run.config.pruning.target
    if target is None:
        return run
    fingerprint = run.metadata["fingerprint"]
    for folder in (run.folder.parent / FOLDER, Path(run.config.output_dir) / FOLDER):
        for path in folder.glob(f"*-{fingerprint[:10]}.safetensors"):
            weights = dataclasses.replace(run.config.backbone, weights=str(path), pretrained=True)
            return dataclasses.replace(run, config=dataclasses.replace(run.config, backbone=weights))
    raise UserError(
        f"run={run.folder}: its backbone was pruned to {target}, and the file that holds it, "
        f"*-{fingerprint[:10]}.safetensors, is not in {run.folder.parent / FOLDER}; give it as weights=FILE."
    )
