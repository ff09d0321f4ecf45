"""Whether a delta belongs to the run and the backbone that it is to be put into: a row for each thing compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from peftbench import deltas, pruning
from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.runs.build import transform_of
from peftbench.runs.plan_file import CONFIG, PLAN, plan_hash
from peftbench.tasks.base import task_class
from peftbench.tuned.finished_run import FinishedRun

_ONCE = {"range": "auto", "resize": "squash", "draft": False}
"""How images were prepared by the runs whose deltas do not say it: there was no other way once."""
Row = tuple[Any, Any, str]
"""The delta's value, ours, and what is to be said where they differ."""


def refuse_foreign_delta(run: FinishedRun, backbone: Backbone, shared: str) -> None:
    """Raises Refusal where the run's delta belongs to another run, task, backbone, plan or kind of image.

    Args:
        run: whose delta it is.
        backbone: as it is before any method.
        shared: whose the backbone is where it is not the run's own, for messages.
    """
    for compared in (_run, _task, _model, _start_file, _weights, _images, _plan):
        for theirs, ours, sentence in compared(run, backbone, shared):
            if theirs != ours:
                raise Refusal(f"{run.source}: {sentence}")


def _run(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    delta = run.metadata
    yield (
        delta["run"],
        run.record.id,
        f"is of run {delta['run']}, and {run.folder} of {run.record.id}; give the folder of the run as it was left.",
    )


def _task(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    ours = run.config.task.name
    theirs = run.metadata.get("task", ours)  # the first format named none
    yield theirs, ours, f"is of task={theirs}, and {run.folder / CONFIG} of {ours}."


def _model(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    """The same model, pruned in the same way."""
    delta, name = run.metadata, backbone.facts.name
    made = f"was made on {delta['backbone']}"
    whose = shared or f"backbone.name in {run.folder / CONFIG}"
    yield (
        _untagged(delta["backbone"]),
        _untagged(name),
        f"{made}, and {whose} is {name}; a delta fits only the backbone that it was made on.",
    )
    stamp = run.record.stamps["backbone"].get("pruning") or {}
    theirs = "unstructured" if delta["mask"] else "structured" if "kept" in stamp else "none"
    ours = "unstructured" if backbone.masks else "structured" if backbone.kept else "none"
    yield (
        theirs,
        ours,
        f"{made} with pruning={theirs}, and {shared or 'this backbone'} has pruning={ours}; a delta fits only the "
        f"pruned backbone that it was made on.",
    )
    theirs, ours = delta.get("quantize", "") or "null", backbone.quantized or "null"
    yield (
        theirs,
        ours,
        f"{made} with backbone.quantize={theirs}, and {shared or 'this backbone'} has backbone.quantize={ours}; a "
        f"delta fits only weights that are kept as those were.",
    )
    mask = pruning.mask_hash(backbone.masks)
    yield (
        delta["mask"],
        mask,
        f"{made} with the pruning mask {delta['mask'][:12]}, and {shared or 'this backbone'} has {mask[:12]}; a delta "
        f"fits only the mask that it was made under.",
    )


def _start_file(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    """The file that the whole model started from: what of the task did not train is in that file alone."""
    section, task = run.config.task, task_class(run.config.task)
    recorded = (run.record.stamps.get("task") or {}).get("sha256")
    theirs = run.metadata.get("start_file", recorded or "")
    stamp = task.stamp(section, task.start_file(section, run.config.backbone))
    ours = stamp.get("sha256", "")
    yield (
        theirs,
        ours,
        f"was made from a detector with sha256 {theirs[:12] or 'nothing'}, and the file of "
        f"task.weights={stamp.get('weights')} has {ours[:12] or 'nothing'}; give the one that it was made from with "
        f"weights=FILE.",
    )


def _weights(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    """The starting tensors. Where the model is the same and they differ, its input size may be why."""
    delta, name = run.metadata, backbone.facts.name
    theirs, ours = delta["fingerprint"], backbone.fingerprint
    made = f"was made on {delta['backbone']}"
    size = deltas.size_text(backbone.facts.input_size)
    if delta.get("input_size", size) != size:  # a ViT's position embeddings are of its grid
        where = shared or f"data.size in {run.folder / CONFIG}"
        yield (
            theirs,
            ours,
            f"{made} for images of {delta['input_size']} pixels, and {where} is for {size}, which gives it other "
            f"weights; a delta fits only the size that it was made for.",
        )
    made += f" with fingerprint {theirs[:12]}"
    if shared:
        yield (
            theirs,
            ours,
            f"{made}, and {shared} is {name} with {ours[:12]}; tasks share one backbone only where all were made on "
            f"its very weights.",
        )
    yield (
        theirs,
        ours,
        f"{made}, and {name} of backbone.weights={run.config.backbone.weights} has {ours[:12]}; give the weights that "
        f"it was made on with weights=FILE.",
    )


def _images(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    """How images are prepared, which no shape of a tensor shows."""
    ours = json.loads(json.dumps(dataclasses.asdict(transform_of(run.config, backbone))))
    theirs = {**_ONCE, **json.loads(run.metadata.get("transform", "{}"))}
    for key in (
        key for key in ours if key not in ("augment", "jitter", "erase", "augment_on")
    ):  # those are of training alone
        prepared = theirs.get(key, ours[key])
        yield (
            prepared,
            ours[key],
            f"was trained on images with {key}={prepared}, and {shared or run.folder / CONFIG} wants "
            f"{key}={ours[key]}; a delta fits only images that are prepared as those were.",
        )


def _plan(run: FinishedRun, backbone: Backbone, shared: str) -> Iterator[Row]:
    ours = plan_hash(run.plan)
    yield (
        run.metadata.get("plan", ours),
        ours,
        f"was made with another plan than the one in {run.folder / PLAN}.json; give the folder of the run as it was "
        f"left.",
    )


def _untagged(name: str) -> str:
    """Of a timm name, the architecture alone."""
    return name.partition(".")[0]
