"""The phase that a method trains before its own: a side method on the same data, from whose head the rest begins."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.common.own_folders import remove_own_files
from peftbench.common.sealed_file import check_seal, read_tensors, sealed, write_tensors
from peftbench.common.seeds import random_numbers_kept
from peftbench.config import Config, Optimizer
from peftbench.config.named_paths import method_path
from peftbench.config.schema import Method as MethodSection
from peftbench.costs import added_energy
from peftbench.data.loading import Loaders, images_of
from peftbench.methods.base import Method, Phase, Plan
from peftbench.models.model import Model
from peftbench.results.task_results import percent, results_of_task
from peftbench.runs.context import Context
from peftbench.runs.data_sets import instantiate, mistakes_of
from peftbench.runs.solved_heads import IN_TRAINING
from peftbench.training import CHECKPOINT, Outcome, device_of_process, fit, images_learned_from, solve, tap_filling

_TASK = "task."
_CHECKPOINT = re.compile(re.escape(CHECKPOINT))
_ANEW = "; give the folder as it was left, or run anew with force=true, which keeps what is there beside it"


def phase_before(config: Config, method: Method) -> Phase | None:
    """What is trained, or worked out, before the method's own training: what the config names, else the method's."""
    if config.trainer.head_from is not None:
        return Phase("head", head_method(config))
    return method.first_phase() if method.phased else None


def head_method(config: Config) -> Method:
    """The method that `trainer.head_from` names, with its defaults."""
    name = config.trainer.head_from
    assert name is not None
    method: Method = instantiate(MethodSection(name, method_path(name), {}))
    return method


class FirstPhase:
    """Trains a phase to its end, once: what it learned and cost is then a file in the run's folder.

    Attributes:
        file: `<name>.safetensors`.
        checkpoints: the folder of its checkpoint, until it is over.
        facts: once it is over, `metrics`, `history`, `kept`, `costs` and the `minutes` that it took.
    """

    def __init__(self, context: Context, phase: Phase, run_id: str, folder: Path) -> None:
        self.context, self.phase = context, phase
        self.id = f"{run_id}/{phase.name}"
        self.file, self.checkpoints = folder / f"{phase.name}.safetensors", folder / phase.name
        self.facts: dict[str, Any] = {}

    def carry_out(self, model: Model, batches: Loaders) -> None:
        """Has the task of `model` as the phase leaves it, which is trained now or was in an earlier session.

        The backbone is as it was, and so is torch's random state, whether there was anything to train or not.

        Raises:
            Stopped: interrupted, a checkpoint was written.
            Diverged: the loss became NaN or infinite.
            UserError: the file of an earlier session is damaged, or of another run.
        """
        tensors = self._read() if self.file.is_file() else self._train(model, batches)
        if self.context.first:
            remove_own_files(self.checkpoints, _CHECKPOINT)
        ours = model.state_dict()
        if tensors.keys() != {name for name in ours if name.startswith(_TASK)}:
            raise self._damaged("it holds other tensors than the task of this run")
        with torch.no_grad():
            for name, tensor in tensors.items():
                if ours[name].shape != tensor.shape:
                    raise self._damaged(f"{name} is {list(tensor.shape)}, expected {list(ours[name].shape)}")
                ours[name].copy_(tensor)

    def stamp(self) -> dict[str, Any]:
        """What the record says of it, besides its costs."""
        phase = self.phase
        if phase.method.solves:
            solved = {key: self.facts[key] for key in ("metrics", "solved")}
            return {"name": phase.name, "method": self.context.config.trainer.head_from, **solved}
        told = {key: self.facts[key] for key in ("metrics", "history", "kept")}
        return {"name": phase.name, "epochs": phase.epochs, "lr": phase.lr, **told}

    def with_costs(self, costs: Mapping[str, Any]) -> dict[str, Any]:
        """The costs of the whole run, of those of its last phase: times of training are sums, steps are the last's."""
        own = self.facts["costs"]
        time = dict(costs["time"])
        for name in ("train", "validate"):
            time[name] += own["time"][name]
        time["sessions"] += own["time"]["sessions"] - 1
        whole = {**costs, "time": time, "first_phase": own}
        if "energy" in costs:
            whole["energy"] = added_energy(own.get("energy"), costs["energy"])
        if "taps" in own:  # computed for the phase alone: the steps of the run are not from kept taps
            whole["taps"] = {"mode": "off", "seconds": own["taps"].get("seconds", 0.0)}
        return whole

    def left_for_the_rest(self, config: Config) -> Config:
        """The config of what comes after: of `trainer.minutes` what is left."""
        minutes = config.trainer.minutes
        if minutes is None:
            return config
        return replace(config, trainer=replace(config.trainer, minutes=max(minutes - self.facts["minutes"], 1e-3)))

    def _config(self) -> Config:
        """Of the phase: AdamW at its own rate, its own epochs, and half of the time at most."""
        config, spec = self.context.config, self.context.config.optimizer
        if self.phase.method.solves and not config.taps.views:  # which looks at each image once, as it is
            config = replace(config, data=replace(config.data, **IN_TRAINING))
        optimizer = Optimizer(
            "adamw", self.phase.lr, spec.weight_decay, schedule=spec.schedule, warmup=spec.warmup, min_lr=0.0
        )
        minutes = config.trainer.minutes
        trainer = replace(
            config.trainer,
            epochs=self.phase.epochs,
            patience=None,
            ema=None,
            minutes=None if minutes is None else minutes / 2,
            compile=False,  # which, as checkpointing, is of the backbone's own training
            grad_checkpointing=False,
        )
        return replace(config, optimizer=optimizer, trainer=trainer)

    def _train(self, model: Model, batches: Loaders) -> dict[str, Tensor]:
        """Trains a copy of the task over the frozen backbone, and writes what came of it; the tensors of the task."""
        trains = {name: p.requires_grad for name, p in model.backbone.named_parameters()}
        if self.context.first:
            self.checkpoints.mkdir(exist_ok=True)
        with random_numbers_kept(device_of_process(self.context.config.trainer)):
            probe = Model(model.backbone, copy.deepcopy(model.task))
            probe.mean, probe.std, probe.flips = model.mean.clone(), model.std.clone(), model.flips
            probe.adapted(self.phase.method.adapt(model.backbone, Plan()))
            if self.phase.method.solves:
                probe.task.put_head(partial(self.phase.method.head, images=images_learned_from(batches)))
            outcome, taps = self._outcome(probe, batches)
        probe.to("cpu")
        for name, parameter in model.backbone.named_parameters():
            parameter.requires_grad = trains[name]
        for images in map(images_of, (batches.train, batches.val)):
            if images is not None:
                images.stored = None  # what comes after changes the backbone, and reads the images themselves
        tensors = {name: t.cpu() for name, t in outcome.state.items() if name.startswith(_TASK)}
        self._note(outcome, taps)
        if self.context.first:
            facts = {"run": self.id, "facts": json.dumps(self.facts, sort_keys=True)}
            write_tensors(self.file, tensors, sealed(tensors, facts))
        self._tell()
        return tensors

    def _outcome(self, probe: Model, batches: Loaders) -> tuple[Outcome, dict[str, Any] | None]:
        context, config = self.context, self._config()
        seen = replace(batches, test=None, ood={})
        place = device_of_process(config.trainer)
        with probe.padded_batches():
            with context.progress("computing taps") as watch:
                fingerprint = probe.backbone.fingerprint
                taps = tap_filling.keep_taps(config, probe, seen, fingerprint, place, watch, context.tell)
            with mistakes_of("data"), context.progress("reading images") as watch:
                seen.load(watch)
            if self.phase.method.solves:
                with mistakes_of("data"), context.progress("computing features") as watch:
                    ways = probe, self.phase.method, config, seen, self.checkpoints, self.id
                    return solve(*ways, watch), taps
            context.doing(f"training the {self.phase.name}, which comes first")
            return fit(probe, self.phase.method, config, seen, self.checkpoints, self.id, lambda rows: None), taps

    def _note(self, outcome: Outcome, taps: dict[str, Any] | None) -> None:
        time = outcome.costs["time"]
        costs = {**outcome.costs, "time": {k: v for k, v in time.items() if not k.startswith("test")}}
        if taps is not None:
            costs["taps"] = taps
        minutes = (time["train"] + time["validate"]) / 60
        kept = dict(outcome.kept)
        facts = {"metrics": outcome.metrics, "history": outcome.history, "kept": kept, "costs": costs}
        facts["solved"] = dict(outcome.solved)
        self.facts = json.loads(json.dumps({**facts, "minutes": minutes}))

    def _tell(self) -> None:
        task, name = self.context.config.task, self.phase.name
        metric = results_of_task(task.name, task.path).metric
        value = self.facts["metrics"].get(f"val/{metric}")
        reached = "" if value is None else f", {100 * value:.1f} {percent(metric)} on validation"
        solved = self.phase.method.solves
        how = f"by {self.context.config.trainer.head_from}" if solved else plural(len(self.facts["history"]), "epoch")
        self.context.tell(f"{name}: {how}{reached}; the rest begins from {'it' if solved else 'its head'}")

    def _read(self) -> dict[str, Tensor]:
        """What an earlier session left."""
        try:
            tensors, metadata = read_tensors(self.file)
            whole = check_seal(self.file, tensors, metadata)
        except UserError as problem:
            raise UserError(f"{str(problem).rstrip('.')}{_ANEW}.") from None
        if not whole or metadata.get("run") != self.id:
            raise self._damaged(f"it is of run {metadata.get('run', 'unknown')}, not of {self.id}")
        self.facts = json.loads(metadata["facts"])
        return tensors

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.file}: is not the {self.phase.name} of this run: {why}{_ANEW}.")
