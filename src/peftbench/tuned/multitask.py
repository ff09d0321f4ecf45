"""Many tasks from one backbone: one copy of it in memory, and a delta for each task."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.common.digests import digests
from peftbench.common.errors import Refusal, UserError, nearest
from peftbench.common.notes import note
from peftbench.common.seeds import random_numbers_kept
from peftbench.config.given import described
from peftbench.data.images import Preparation
from peftbench.deltas import FILE, drop_cached_values, size_of
from peftbench.methods.base import Side
from peftbench.models.joint import JointModel
from peftbench.models.model import Model, mirrored
from peftbench.runs.build import build_backbone, unstreamed
from peftbench.runs.plan_file import PLAN
from peftbench.tasks.base import task_class
from peftbench.tuned.finished_run import FinishedRun, open_run
from peftbench.tuned.inputs import InputCheck
from peftbench.tuned.pruned_file import with_pruned_file
from peftbench.tuned.rebuild import rebuild_model


class MultiTask(nn.Module):
    """Tasks that share a backbone's tensors; each has its own delta, head and classes.

        tasks = peftbench.MultiTask(None, {"cars": "outputs/losa-…", "birds": "outputs/losa-…"})
        logits = tasks(images)                    # {"cars": (B, 196), "birds": (B, 200)}
        birds = tasks(images, ["birds"])["birds"]

    Side methods: the backbone runs once for all of them, and side nets of a kind run together. Methods that change
    weights: every task has the modules of a backbone of its own, but only the tensors that its delta changed are its
    own. So going from one task to another costs nothing and leaves no trace. Updates stay unmerged, since a merged
    weight would be another copy.

    Args:
        backbone: as it is before any method, or None: that of the first run.
        deltas: folders of finished runs, by the names of their tasks, or in a list: then named by their run ids.
        config_dir: a folder with the YAML of a method of your own.

    Attributes:
        transform: from an image to the input (3, S, S) of all tasks, in uint8; among detectors alone also to where it
            lies on it.
        classes: of each task, in the order of its logits, or as labels of boxes count them.
        inputs: looks at what it is called with, outside tracing.

    Raises:
        UserError: a run is not complete, or damaged; the backbone was changed after it was built.
        Refusal: a delta belongs to another backbone, or the tasks want images prepared differently.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        deltas: Mapping[str, str | Path] | Sequence[str | Path],
        config_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if backbone is not None and not isinstance(backbone, Backbone):
            raise UserError(
                f"MultiTask: backbone is {described(backbone)}; expected what peftbench.build_backbone(config) makes, "
                f"or None for that of the first run."
            )
        self.runs = _opened(deltas, config_dir)
        for name, run in self.runs.items():
            task = task_class(run.config.task)
            if not (task.predicts_tensor or task.finds_boxes):
                raise Refusal(
                    f"MultiTask: {name} is of task={run.config.task.name}, whose predictions are neither a tensor nor "
                    f"boxes; peftbench.load serves it."
                )
        first = next(iter(self.runs.values()))
        shared = "the backbone that was given" if backbone is not None else f"that of {first.folder}, given first,"
        if backbone is None:
            with random_numbers_kept():
                backbone = build_backbone(unstreamed(with_pruned_file(first).config))
        if backbone.streamed:
            raise Refusal("MultiTask: takes a backbone that is in memory; build it with backbone.stream=false.")
        if digests(backbone.state_dict()) != backbone.start:
            raise UserError("MultiTask: the backbone has been changed since it was built; give it as it was.")
        self.backbone = backbone.requires_grad_(False).eval()
        drop_cached_values(self.backbone)
        self._untouched = (_view(backbone),)  # in a tuple, since it is no part of the model: what never runs is copied
        self._config_dir = config_dir
        whole = next((n for n, run in self.runs.items() if task_class(run.config.task).predicts_tensor), None)
        leads = whole or next(iter(self.runs))  # a detector takes images that were prepared for another task
        self._leads = leads
        self.transform = _prepared(self.runs[leads], backbone)
        self.frames = first.frames
        stack = "tasks(torch.stack([tasks.transform(frame) for frame in {}])[None])"
        call = "tasks(tasks.transform({})[None])" if self.frames is None else stack
        self.inputs = InputCheck("tasks.transform", call, self.transform.mean, self.transform.std)
        self.models = nn.ModuleList()
        for name, run in self.runs.items():
            self._refuse_other_images(name, run, leads, backbone)
            self.models.append(rebuild_model(run, _view(backbone), shared))
        self.requires_grad_(False)
        self.tasks = {name: cast(Model, m) for name, m in zip(self.runs, self.models, strict=True)}
        self.classes = {name: run.classes for name, run in self.runs.items()}

    @torch.no_grad()
    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Logits (B, classes) of each task, or of the named ones, for images (B, 3, S, S), or clips (B, T, 3, S, S).

        A task of segmentation gives (B, classes, S, S), and a detector a dictionary for each image: `boxes` (n, 4),
        x1 y1 x2 y2 in pixels of the input, `scores` (n,) and `labels` (n,), indices of `classes`.

        Images are in uint8; floating ones count as normalised, and are noted once where they are all in [0, 1].

        Raises:
            UserError: an unknown task, one name that is in no list, what is no tensor, pixels from 0 to 255 in floating
                numbers, floating images of another type than float32 or with NaN, or images of a shape or size that the
                backbone does not take.
        """
        self.inputs.check(images, next(iter(self.tasks.values())).mean.dtype)
        if isinstance(tasks, str):
            raise UserError(f"tasks={tasks!r}: expected a list of names, such as [{tasks!r}].")
        names = list(self.tasks if tasks is None else tasks)
        for name in names:
            if name not in self.tasks:
                raise UserError(
                    f"task {name!r}: is not served{nearest(name, self.tasks)}; there are {', '.join(self.tasks)}."
                )
        sides = [n for n in names if self.tasks[n].side is not None and not self.tasks[n].task.looks_elsewhere]
        logits = self._through_sides(images, sides) if sides else {}
        if both := [n for n in sides if self.tasks[n].flips]:
            others = self._through_sides(mirrored(images), both)
            logits |= {n: (logits[n] + self.tasks[n].task.unmirrored(others[n])) / 2 for n in both}
        return {n: logits[n] if n in logits else self.tasks[n](images) for n in names}

    def shares_pass(self, name: str) -> bool:
        """Whether a task answers from the backbone's one pass for all side methods; else it has a pass of its own."""
        model = self.tasks[name]
        return model.side is not None and not model.task.looks_elsewhere

    def reopened(self, name: str) -> tuple[FinishedRun, Model]:
        """What the folder of a task's run holds by now, and its model; nothing that is served changes.

        May run in another thread than `forward`. `put` has the task answer with it.

        Raises:
            UserError: there is no such task, or the run is not complete, or damaged.
            Refusal: it belongs to another backbone by now, or wants images prepared otherwise.
        """
        if name not in self.runs:
            raise UserError(
                f"task {name!r}: is not served{nearest(name, self.runs)}; there are {', '.join(self.runs)}."
            )
        run = open_run(self.runs[name].folder, self._config_dir)
        (untouched,) = self._untouched
        self._refuse_other_images(name, run, self._leads, untouched)
        model = rebuild_model(run, _view(untouched), "that of the other tasks").requires_grad_(False)
        return run, model.to(next(iter(self.tasks.values())).mean.device).eval()

    def put(self, name: str, run: FinishedRun, model: Model) -> None:
        """Has a task answer with what `reopened` gave; not while `forward` runs."""
        self.models[list(self.runs).index(name)] = model
        self.runs[name], self.tasks[name], self.classes[name] = run, model, run.classes

    def train(self, mode: bool = True) -> MultiTask:
        """Stays in eval mode: in train mode batch norms would write into statistics that all tasks share."""
        return super().train(False)

    def report(self) -> dict[str, Any]:
        """Bytes for these tasks from one backbone, and for as many full copies (backbone and head).

        `storage` counts the files of deltas and plans, `memory` every tensor once.
        """
        base = _bytes(self.backbone)
        copies = sum(base + _bytes(m.task) for m in self.tasks.values())
        files = (r.folder / name for r in self.runs.values() for name in (FILE, f"{PLAN}.safetensors"))
        storage = base + sum(f.stat().st_size for f in files if f.is_file())
        return {
            "tasks": len(self.tasks),
            "backbone": base,
            "storage": {"shared": storage, "copies": copies},
            "memory": {"shared": _bytes(self), "copies": copies},
        }

    def _refuse_other_images(self, name: str, run: FinishedRun, leads: str, backbone: Backbone) -> None:
        """Raises Refusal where a run wants images prepared otherwise than `transform` does.

        Detectors keep the shapes of images, and pad them: only the size of the input must be that of the others, and a
        note says so.
        """
        theirs = _prepared(run, backbone)
        if theirs.size is None:
            raise Refusal(
                f"MultiTask: {name} was trained on images that keep their sizes, and all tasks share an input of one; "
                f"train it with data.size=[H,W], or serve it by peftbench.load."
            )
        boxes = task_class(run.config.task).finds_boxes and type(theirs) is not type(self.transform)
        alike = _common if boxes else _plain
        if (alike(theirs), run.frames) != (alike(self.transform), self.frames):
            raise Refusal(
                f"MultiTask: {name} wants images prepared otherwise than {leads} (size, interpolation, mean, std, "
                f"range, resize, draft or frames); serve them apart."
            )
        if boxes:
            height, width = _sides(theirs)
            note(
                f"MultiTask: {name} learned from images that keep their shape, padded to {height} x {width} pixels, "
                f"and tasks.transform squashes them to that; give images of that shape, or expect worse boxes."
            )

    def _through_sides(self, images: Tensor, names: Sequence[str]) -> dict[str, Any]:
        """Runs the backbone once, then the side nets, those of a kind together."""
        groups: dict[Hashable, list[str]] = {}
        for name in names:
            model = self.tasks[name]
            side = cast(Side, model.side)
            kind = (type(side), side.wanted, side.condensed, side.every, model.passed, model.backbone.pooling)
            groups.setdefault(kind, []).append(name)
        index = self.backbone.facts.index
        reads = {n: [index(i) for i in self.tasks[n].kept] for n in names}
        union = sorted({i for indices in reads.values() for i in indices})
        frames = self.tasks[names[0]].frames(images)
        taps = dict(zip(union, self.backbone.taps(frames, union), strict=True))
        logits: dict[str, Any] = {}
        for group in groups.values():
            models = [self.tasks[n] for n in group]
            condensed = models[0].condense([taps[i] for i in reads[group[0]]])
            logits |= zip(group, JointModel(models)(images, condensed), strict=True)
        return logits


def _opened(
    folders: Mapping[str, str | Path] | Sequence[str | Path], config_dir: str | Path | None
) -> dict[str, FinishedRun]:
    if folders is not None and not isinstance(folders, str | Path | Mapping | Sequence):
        raise UserError(
            f"MultiTask: deltas is {described(folders)}; expected a list of folders, or a mapping of names to them."
        )
    if isinstance(folders, str | Path):
        raise UserError(
            f"MultiTask: deltas={str(folders)!r}: expected a list of folders, or a mapping of names to them."
        )
    if not folders:
        raise UserError("MultiTask: there are no deltas; give the folders of finished runs.")
    if isinstance(folders, Mapping):
        return {name: open_run(folder, config_dir) for name, folder in folders.items()}
    runs = [open_run(folder, config_dir) for folder in folders]
    named = {run.record.id: run for run in runs}
    if len(named) < len(runs):
        raise UserError("MultiTask: a run is given twice; give names to tell its tasks apart, or give it once.")
    return named


def _prepared(run: FinishedRun, backbone: Backbone) -> Preparation:
    """How the run prepares images to test them."""
    facts = backbone.facts
    if "input_size" in run.metadata:
        facts = replace(facts, input_size=size_of(run.metadata["input_size"]))
    return task_class(run.config.task).transform(run.config, facts).plain()


def _plain(preparation: Any) -> dict[str, Any]:
    """In plain values: tasks have preparations of their own, which may do the same to an image."""
    return {key: value for key, value in asdict(preparation).items() if value is not None}


def _common(preparation: Any) -> dict[str, Any]:
    """What preparations of different kinds have in common: all but what becomes of an image's shape."""
    values = {key: getattr(preparation, key) for key in ("interpolation", "mean", "std", "range")}
    return {"size": _sides(preparation), **values}


def _sides(preparation: Any) -> tuple[int, int]:
    size = preparation.size
    return (size, size) if isinstance(size, int) else tuple(size)


def _view(backbone: Backbone) -> Backbone:
    """The same modules again over the very same tensors: a method may put others in their place."""
    about = [value for name, value in vars(backbone).items() if not name.startswith("_")]  # facts, start, …
    shared: list[Any] = [*backbone.parameters(), *backbone.buffers(), *about]
    return copy.deepcopy(backbone, {id(one): one for one in shared})


def _bytes(module: nn.Module) -> int:
    """Of all its tensors, each counted once."""
    every = {t.data_ptr(): t.nbytes for t in (*module.parameters(), *module.buffers())}
    return sum(every.values())
