"""One run, from config to record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from peftbench import backbones, costs, deltas, pruning
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import Refusal, UserError
from peftbench.common.progress import Watch, counted
from peftbench.common.seeds import mix
from peftbench.config import Config, run_id
from peftbench.data import ood
from peftbench.data.base import DataSet, Splits, split_hash
from peftbench.data.images import Transform
from peftbench.data.loading import Loaders, loaders
from peftbench.data.scoring_batches import plain_batches
from peftbench.methods.base import Method, Plan
from peftbench.models.joint import JointModel
from peftbench.models.model import Model
from peftbench.results import Record, read_record
from peftbench.runs import loggers, starting_backbone
from peftbench.runs.build import build_backbone, instantiate, transform_of
from peftbench.runs.compatibility import _frames_agree, refuse_incompatible
from peftbench.runs.folder import owned_folder, prepared_folder
from peftbench.runs.plan_file import PLAN, delta_metadata, read_plan
from peftbench.runs.stamps import stamps_of
from peftbench.tasks import making as tasks
from peftbench.tasks.detection.result_files import write_results
from peftbench.tasks.detection.scenes import SceneTransform
from peftbench.training import CHECKPOINT, Aborted, Diverged, Outcome, Stopped, device, fit, fit_together, tap_filling

DETECTIONS = "detections.json"


def run(config: Config, group: str | None = None, retry: bool = True) -> Record:
    """Carries out one run and returns its record; a run whose record is complete is read, not repeated.

    `group` is the sweep that the run belongs to; without `retry` a run that failed before is read too. Upon Ctrl-C the
    record says `interrupted`, and nothing is raised.

    Raises:
        UserError: see the message; where the run had begun, its record says `failed` or `refused` with the reason.
    """
    return run_together([config], group, retry)[0]


def run_together(configs: Sequence[Config], group: str | None = None, retry: bool = True) -> list[Record]:
    """Carries out runs in one pass over the data, and returns a record each; equal ones are one run.

    They must be of a side method, over one backbone, with the same taps, data, order of batches, epochs, precision
    and kind of optimizer, as `together.signature` tells. A run that diverges fails alone, in its record.

    Raises:
        UserError: as `run`, of what befalls all of them.
    """
    config = configs[0]
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    rank, world = _rank(config)

    methods: list[Method] = [instantiate(c.method) for c in configs]
    for each, method in zip(configs, methods, strict=True):
        refuse_incompatible(each, method)
        _frames_agree(each)
    dataset: DataSet = instantiate(config.data)
    splits = dataset.load()
    for note in splits.notes:
        _teller(config, rank)(f"data={config.data.name}: {note}")
    roles = splits.roles(config.data.stage)
    shifts = ood.shifts(config, splits)
    backbone = build_backbone(config, _teller(config, rank))
    transform = transform_of(config, backbone)
    every = [_Run(c, m, backbone, splits, split_hash(*roles), shifts) for c, m in zip(configs, methods, strict=True)]
    runs = list({one.name: one for one in reversed(every)}.values())[::-1]
    carried_out = {one.name: one for one in runs}
    with contextlib.suppress(Stopped, KeyboardInterrupt), contextlib.ExitStack() as stack:
        for one in runs:
            stack.enter_context(one.opened(rank, group, retry))
        todo = [one for one in runs if not one.done]
        if not todo:
            return [carried_out[one.name].record for one in every]
        with _progress(config, rank, "reading images") as watch:
            data = _loaders(config, roles, transform, rank, world, watch)
            data = dataclasses.replace(data, ood=ood.shifted(shifts, data, config, rank, world))
        for one in todo:
            one.build(backbone, splits, transform, data, rank)
        models = [one.model for one in todo]
        model = models[0] if len(models) == 1 else JointModel(models)
        model.multiple = 8
        with _progress(config, rank, "computing taps") as watch:
            place, tell = device(config.trainer), _teller(config, rank)
            taps = tap_filling.keep(config, model, data, backbone.fingerprint, place, watch, tell)
        with _progress(config, rank, "reading images") as watch:
            data.load(watch)
        outcomes = _fit(todo, data)
        model.multiple = 1
        for one, outcome in zip(todo, outcomes, strict=True):
            if taps is not None:
                one.record.costs["taps"] = taps
            one.end(outcome, rank)
    return [carried_out[one.name].record for one in every]


class _Run:
    """One of the runs that are carried out: its folder, its model, its record."""

    model: Model
    plan: Plan

    def __init__(
        self,
        config: Config,
        method: Method,
        backbone: backbones.Backbone,
        splits: Splits,
        hash_: str,
        shifts: ood.Shifts,
    ) -> None:
        self.config, self.method, self.backbone = config, method, backbone
        stamps = stamps_of(config, backbone, splits, hash_)
        stamps["data"] |= {"ood": ood.stamps(shifts)} if shifts else {}
        start = "".join([stamps["backbone"]["fingerprint"], stamps.get("task", {}).get("sha256", "")])
        self.name = run_id(config, start, stamps["data"]["hash"])
        self.folder = Path(config.output_dir) / self.name
        self.record = Record(self.name, "running", config.to_dict(), stamps=stamps)
        self.logger = loggers.Logger()
        self.saved_in = self.folder
        self.done = False

    @contextlib.contextmanager
    def opened(self, rank: int, group: str | None, retry: bool) -> Iterator[None]:
        """The run's folder is its own, and whatever happens inside is recorded; a complete run is read instead."""
        with owned_folder(self.folder, rank, group):
            again = "; remove it, or give force=true, to run this again"
            if not self.config.force and (old := read_record(self.folder, again)) and self._over(old, retry):
                if rank == 0:
                    self._say(old)
                self.record, self.done = old, True
                yield
                return
            if rank == 0:
                prepared_folder(self.folder, self.config)
                if self.config.pruning.name != "none":  # else the file that was given is the one to share
                    starting_backbone.keep(self.backbone, self.config)
            with _recorded(self, rank):
                if rank == 0:
                    self.record.write(self.folder)
                    self.logger = loggers.make(self.config, self.name, self.folder, group)
                yield

    def _over(self, old: Record, retry: bool) -> bool:
        return old.status == "complete" or (old.status == "failed" and not retry)

    def _say(self, old: Record) -> None:
        """Tells why nothing is done; a protocol that chose this setting is noted in its record."""
        if self.config.protocol and old.config.get("protocol") != self.config.protocol:
            old.config["protocol"] = self.config.to_dict()["protocol"]
            old.write(self.folder)
        if self.config.trainer.progress:
            done = "already complete; force=true repeats it"
            text = done if old.status == "complete" else "failed before; sweep.retry=true tries again"
            Console().print(f"{self.folder}: {text}", highlight=False, soft_wrap=True)

    def build(
        self,
        backbone: backbones.Backbone,
        splits: Splits,
        transform: Transform | SceneTransform,
        data: Loaders,
        rank: int,
    ) -> None:
        """The model of this run."""
        config = self.config
        self.record.stamps["data"]["skipped"] = list(data.skipped)
        torch.manual_seed(mix(config.seed, 0))
        task = tasks.make(config.task, backbone, splits.classes, splits.train.categories)
        if note := tasks.start(task, config.task, config.backbone):
            _teller(config, rank)(note)
        self.model = Model(backbone, task, transform.mean, transform.std)
        self.plan = _plan(self.folder, self.method, self.model, data, config, rank)
        self.record.plan = dict(self.plan.facts)
        if skipped := dict(self.method.skipped(backbone)):
            self.record.plan["skipped"] = skipped
            name, why = next(iter(skipped.items()))
            _teller(config, rank)(
                f"method={config.method.name}: {len(skipped)} layers are left as they are, such as {name}: {why} "
                f"(peftbench plan names all)"
            )
        self.model.adapted(self.method.adapt(backbone, self.plan))
        pruning.hold(backbone)
        self.record.costs = {"parameters": costs.parameters(self.model)}
        if rank == 0:
            self.record.costs["flops"] = costs.flops(self.model, _image(backbone, splits.train.frames))

    def end(self, outcome: Outcome | Diverged, rank: int) -> None:
        """Delta and record, or why there is none."""
        if isinstance(outcome, Diverged):
            self.record.status, self.record.reason = "failed", str(outcome)
        elif rank == 0:
            if outcome.rows is not None:
                write_results(outcome.rows, self.folder / DETECTIONS)
            _complete(self.record, self.folder, self.method, self.model, self.plan, outcome)


def _fit(runs: Sequence[_Run], data: Loaders) -> list[Outcome | Diverged]:
    first = runs[0]
    if len(runs) == 1:
        return [fit(first.model, first.method, first.config, data, first.folder, first.name, first.logger.epochs)]
    name = hashlib.sha256(" ".join(r.name for r in runs).encode()).hexdigest()[:20]
    folder = first.folder.parent / ".together" / name  # one checkpoint of all of them
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be written ({problem.strerror}); give another output_dir.") from None
    for one in runs:
        one.saved_in = folder
    models, methods = [r.model for r in runs], [r.method for r in runs]
    watches = [r.logger.epochs for r in runs]
    found = fit_together(models, methods, [r.config for r in runs], data, folder, name, watches)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _loaders(
    config: Config, roles: Any, transform: Transform | SceneTransform, rank: int, world: int, watch: Watch
) -> Loaders:
    data = config.data
    return loaders(
        roles,
        transform,
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        seed=config.seed if data.order_seed is None else data.order_seed,
        workers=data.workers,
        on_error=data.on_error,
        memory_gb=data.memory_gb,
        rank=rank,
        world=world,
        limit=config.trainer.max_batches,
        pin=torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu"),
        views=config.taps.views,
        watch=watch,
    )


def _progress(config: Config, rank: int, what: str) -> contextlib.AbstractContextManager[Watch]:
    return counted(Console(), what, config.trainer.progress and not rank)


def _teller(config: Config, rank: int) -> Callable[[str], None]:
    """Says something of which the user should know, once."""

    def tell(text: str) -> None:
        if config.trainer.progress and rank == 0:
            Console(stderr=True).print(text, highlight=False, soft_wrap=True)

    return tell


def _plan(folder: Path, method: Method, model: Model, data: Loaders, config: Config, rank: int) -> Plan:
    """The method's plan: made once by rank zero, before anything changes, and read by everybody after."""
    tensors, facts = folder / f"{PLAN}.safetensors", folder / f"{PLAN}.json"
    if type(method).prepare is Method.prepare:
        return Plan()
    if not facts.is_file():
        if rank == 0:
            gpu = torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu")
            device = torch.device("cuda" if gpu else "cpu")
            model.to(device)
            with torch.random.fork_rng():  # a resumed run reads the plan, and must go on with the same numbers
                torch.manual_seed(mix(config.seed, 3))
                plan = method.prepare(model, plain_batches(data.train, config, device))
            model.to("cpu")
            deltas.write(tensors, plan.tensors, {})
            with replacing(facts) as part:
                part.write_text(json.dumps(plan.facts))
        else:
            _await(facts)
    return read_plan(folder)


def _await(file: Path, seconds: float = 3600) -> None:
    """Waits for a file of rank zero's. Raises UserError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not file.is_file():
        if time.monotonic() > deadline:
            raise UserError(f"{file}: was not written by the first process within {seconds:.0f} s.")
        time.sleep(0.2)


def _complete(record: Record, folder: Path, method: Method, model: Model, plan: Plan, outcome: Outcome) -> None:
    """The delta, the costs that need the finished model, and the record."""
    learned = deltas.changed(outcome.state, model.start())
    record.costs |= outcome.costs
    record.costs["delta_bytes"] = deltas.save(folder / deltas.FILE, learned, delta_metadata(record, model, plan))
    if record.config["trainer"]["strategy"] != "fsdp":  # no process holds the whole model
        model.to(outcome.device)
        method.merge(model.backbone)
        if model.backbone.masks:
            record.costs["sparsity"] = pruning.sparsity(model.backbone)
        image = _image(model.backbone, record.stamps["data"]["frames"])
        record.costs["time"]["latency"] = costs.latency(model, image.to(outcome.device))
    record.metrics, record.history = outcome.metrics, outcome.history
    record.status = "complete"


def _image(backbone: backbones.Backbone, frames: int | None) -> torch.Tensor:
    """One image (1, 3, H, W), or one clip (1, T, 3, H, W)."""
    clip = () if frames is None else (frames,)
    return torch.zeros(1, *clip, 3, *backbone.facts.canvas, dtype=torch.uint8)


@contextlib.contextmanager
def _recorded(one: _Run, rank: int) -> Iterator[None]:
    """Whatever happens inside, the record says how it ended, and the logger is closed."""
    record = one.record
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        record.status = "interrupted"
        record.reason = "stopped by the user before anything was saved"
        if (one.saved_in / CHECKPOINT).is_file():
            at_once = isinstance(stop, Aborted | KeyboardInterrupt)
            record.reason = f"stopped by the user; the same command resumes it{' from its last checkpoint' * at_once}"
        raise
    except UserError as problem:
        record.status = "refused" if isinstance(problem, Refusal) else "failed"
        kept = f" (the state before it is kept in {one.saved_in / CHECKPOINT})"
        apt = isinstance(problem, Diverged) and (one.saved_in / CHECKPOINT).is_file() and kept not in str(problem)
        record.reason = str(problem) + kept * apt
        raise type(problem)(record.reason) from None
    except Exception as problem:
        record.status, record.reason = "failed", f"{type(problem).__name__}: {problem}"
        with contextlib.suppress(OSError):
            (one.folder / "error.log").write_text(traceback.format_exc())
        raise
    finally:
        if rank == 0:
            with contextlib.ExitStack() as closing:
                closing.callback(one.logger.finish, record)
                closing.callback(_written, record, one.folder)  # first: sending figures may take long


def _written(record: Record, folder: Path) -> None:
    if record.status == "complete":
        record.write(folder)
    else:  # what went wrong is being told already; on a full disk the record cannot say it too
        with contextlib.suppress(UserError):
            record.write(folder)


def _rank(config: Config) -> tuple[int, int]:
    """(global rank, world size), as the launcher of several processes says in the environment."""
    world = config.trainer.devices * config.trainer.nodes
    if world == 1:
        return 0, 1
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")
    if rank is None:
        raise UserError(
            f"trainer.devices={config.trainer.devices}: needs as many processes; start it with the peftbench command, "
            f"torchrun or srun."
        )
    return int(rank), world
