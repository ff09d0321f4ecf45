"""The model of a finished run, made again: backbone, method and head, with the delta in its place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from peftbench import backbones, deltas
from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.common.seeds import random_numbers_kept
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import transform_of
from peftbench.runs.plan_file import CONFIG
from peftbench.tasks.base import begin_task, task_class
from peftbench.tuned.delta_fit import refuse_foreign_delta
from peftbench.tuned.finished_run import FinishedRun


def rebuild_model(run: FinishedRun, backbone: Backbone, shared: str = "", plain: bool = False) -> Model:
    """The tuned model, in eval mode, of a backbone as it is before any method; the method changes it.

    Args:
        run: gives the method, its plan and the delta.
        backbone: as it is before any method.
        shared: whose the backbone is where it is not the run's own, for messages.
        plain: whether the weights of a quantized backbone become plain tensors, into which updates can be merged.

    Raises:
        Refusal: the delta belongs to another backbone, mask, plan, method or option; says which.
    """
    refuse_foreign_delta(run, backbone, shared)
    with random_numbers_kept():  # what starts at random is replaced by the delta
        section = run.config.task
        task = task_class(section).build(section, backbone, run.classes, run.categories)
        begin_task(task, section, run.config.backbone)
        transform = transform_of(run.config, backbone)
        model = Model(backbone, task, transform.mean, transform.std)
        model.flips = run.config.data.tta == "flip"
        starting_backbone.choose_merging(backbone, run.config, run.method)
        trained = run.metadata.get("merge", backbone.merging)
        if trained != backbone.merging:
            raise Refusal(
                f"{run.source}: was trained with pruning.merge={trained}, and {run.folder / CONFIG} has "
                f"{backbone.merging}; give the folder of the run as it was left."
            )
        if plain and backbone.quantized:
            backbones.dequantize(backbone).merging = ""
        run.method.check(backbone)
        model.adapted(run.method.adapt(backbone, run.plan))
        if run.method.solves:
            task.put_head(partial(run.method.head, images=_images_in(run.tensors)))
    model.eval()
    deltas.attach(model, run.tensors, str(run.source))
    return model


def _images_in(tensors: Mapping[str, Tensor]) -> int:
    """How many training images a solved head may hold, by its longest tensor; the delta itself is compared later."""
    return max((len(t) for name, t in tensors.items() if name.startswith("task.head.") and t.ndim), default=0)
