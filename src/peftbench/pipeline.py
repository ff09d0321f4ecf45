"""One run, from config to record."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from peftbench import backbones, costs, deltas, loggers
from peftbench.config import Config, run_id
from peftbench.data import ood
from peftbench.data.base import DataSet, Splits, split_hash
from peftbench.data.loading import IMAGENET, Loaders, Transform, loaders, mix
from peftbench.data.plain import plain_batches
from peftbench.errors import Refusal, UserError
from peftbench.fit import CHECKPOINT, Aborted, Diverged, Outcome, Stopped, fit
from peftbench.fit.progress import bar
from peftbench.methods.base import Method, Plan
from peftbench.model import Model
from peftbench.results import Record, read
from peftbench.tasks import TASKS


def run(config: Config, group: str | None = None) -> Record:
    """Carries out one run and returns its record; a run whose record is complete is read, not repeated.

    `group` is the sweep that the run belongs to. Upon Ctrl-C the record says `interrupted`, and nothing is raised.

    Raises:
        UserError: see the message; where the run had begun, its record says `failed` or `refused` with the reason.
    """
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    rank, world = _rank(config)

    method = build(config.method)
    check(config, method)
    dataset: DataSet = build(config.data)
    splits = dataset.load()
    roles = splits.roles(config.data.stage)
    shifts = ood.shifts(config, splits)
    torch.manual_seed(mix(config.seed, 1))  # of a backbone that starts from random weights
    backbone = backbones.build(config.backbone, config.data.size)

    stamps = _stamps(config, backbone, splits, split_hash(*roles))
    stamps["data"] |= {"ood": ood.stamps(shifts)} if shifts else {}
    name = run_id(config, stamps["backbone"]["fingerprint"], stamps["data"]["hash"])
    folder = Path(config.output_dir) / name
    with _owned(folder, rank):
        if not config.force and (old := read(folder)) and old.status == "complete":
            if rank == 0 and config.trainer.progress:
                Console().print(f"{folder}: already complete; force=true repeats it", highlight=False, soft_wrap=True)
            return old
        if rank == 0:
            _prepare(folder, config)
        record = Record(name, "running", config.to_dict(), stamps=stamps)
        logger = loggers.Logger()
        with _recorded(record, folder, rank, lambda: logger):
            if rank == 0:
                record.write(folder)
                logger = loggers.make(config, name, folder, group)

            transform = _transform(config, backbone)
            data = _load(config, roles, transform, rank, world)
            data = dataclasses.replace(data, ood=ood.shifted(shifts, data, config, rank, world))
            record.stamps["data"]["skipped"] = list(data.skipped)

            torch.manual_seed(mix(config.seed, 0))
            task = TASKS[config.task.name](backbone, splits.classes, config.task.label_smoothing)
            model = Model(backbone, task, transform.mean, transform.std)
            plan = _plan(folder, method, model, data, config, rank)
            record.plan = dict(plan.facts)
            model.adapted(method.adapt(backbone, plan))
            record.costs = {"parameters": costs.parameters(model)}
            if rank == 0:
                record.costs["flops"] = costs.flops(model, _image(backbone))

            outcome = fit(model, method, config, data, folder, name, logger.epochs)
            if rank == 0:
                _complete(record, folder, method, model, outcome)
    return record


def build(section: Any) -> Any:
    """The object that a config section's import path names, with the section's options."""
    module, _, name = section.path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    options = {f.name: section.options[f.name] for f in dataclasses.fields(kind) if f.name in section.options}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def check(config: Config, method: Method) -> backbones.Backbone:
    """Whether this method can adapt this backbone, on the meta device; returns the backbone there. Raises Refusal."""
    backbone = backbones.meta(config.backbone, config.data.size)
    if config.data.size and config.data.size != backbone.facts.input_size:
        raise Refusal(
            f"data.size={config.data.size}: {backbone.facts.name} takes {backbone.facts.input_size} pixels; "
            f"leave data.size out."
        )
    method.check(backbone)
    name, kind = config.method.name, type(method)
    own = kind.optimizer is not Method.optimizer
    if own and config.optimizer.name == "ftp":
        raise UserError(f"optimizer=ftp: method={name} has an optimizer of its own; leave optimizer=ftp out.")
    if (own or kind.finish is not Method.finish) and config.trainer.strategy == "fsdp":
        raise Refusal(f"method={name}: needs whole tensors, which trainer=fsdp has not; use trainer=ddp.")
    if kind.prepare is not Method.prepare and config.trainer.strategy == "fsdp":
        raise Refusal(f"method={name}: tunes single entries of whole tensors; use trainer=ddp instead of fsdp.")
    return backbone


def count_parameters(method: str, backbone: str, **overrides: Any) -> int:
    """The method's own trainable parameters (head apart), without weights or data: what a run reports.

    `overrides` are options of the method, such as `rank=4`.

        >>> peftbench.count_parameters("lora", "vit_b", rank=8)
        1179648
    """
    from peftbench.cli.compose import compose

    given = [f"method.{k}={json.dumps(v)}" for k, v in overrides.items()]
    config = compose(f"method={method}", f"backbone={backbone}", *given)
    built: Method = build(config.method)
    meta = check(config, built)
    side = built.adapt(meta, Plan())
    trained = [*meta.parameters(), *(side.parameters() if side is not None else ())]
    return sum(p.numel() for p in trained if p.requires_grad)


def _transform(config: Config, backbone: backbones.Backbone) -> Transform:
    facts, data = backbone.facts, config.data
    scales = {"model": (facts.mean, facts.std), "imagenet": IMAGENET, "none": ((0.0,) * 3, (1.0,) * 3)}
    filter_ = facts.interpolation if data.interpolation == "model" else data.interpolation
    return Transform(facts.input_size, filter_, *scales[data.normalize], data.augment)


def _load(config: Config, roles: Any, transform: Transform, rank: int, world: int) -> Any:
    console = Console()
    shown = config.trainer.progress and console.is_terminal and rank == 0
    with bar(console) if shown else contextlib.nullcontext() as progress:
        task = progress.add_task("reading images", total=None) if progress else None

        def watch(done: int, of: int) -> None:
            if progress and task is not None:
                progress.update(task, completed=done, total=of)

        data = config.data
        return loaders(
            roles,
            transform,
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            seed=config.seed,
            workers=data.workers,
            on_error=data.on_error,
            memory_gb=data.memory_gb,
            rank=rank,
            world=world,
            limit=config.trainer.max_batches,
            pin=torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu"),
            watch=watch,
        )


PLAN = "plan"


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
            deltas.save(tensors, plan.tensors, {})
            with deltas.replacing(facts) as part:
                part.write_text(json.dumps(plan.facts))
        else:
            _await(facts)
    return Plan(deltas.load(tensors)[0], json.loads(facts.read_text()))


def _await(file: Path, seconds: float = 3600) -> None:
    """Waits for a file of rank zero's. Raises UserError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not file.is_file():
        if time.monotonic() > deadline:
            raise UserError(f"{file}: was not written by the first process within {seconds:.0f} s.")
        time.sleep(0.2)


def _complete(record: Record, folder: Path, method: Method, model: Model, outcome: Outcome) -> None:
    """The delta, the costs that need the finished model, and the record."""
    learned = deltas.changed(outcome.state, model.start())
    metadata = {
        "format": "peftbench-delta-1",
        "run": record.id,
        "method": record.config["method"]["name"],
        "options": json.dumps(record.config["method"]["options"]),
        "backbone": record.config["backbone"]["name"],
        "fingerprint": record.stamps["backbone"]["fingerprint"],
        "classes": json.dumps(list(model.task.classes)),
        "transform": json.dumps(record.stamps["data"]["transform"]),
    }
    record.costs |= outcome.costs
    record.costs["delta_bytes"] = deltas.save(folder / deltas.FILE, learned, metadata)
    if record.config["trainer"]["strategy"] != "fsdp":  # no process holds the whole model
        model.to(outcome.device)
        method.merge(model.backbone)
        record.costs["time"]["latency"] = costs.latency(model, _image(model.backbone).to(outcome.device))
    record.metrics, record.history = outcome.metrics, outcome.history
    record.status = "complete"


def _image(backbone: backbones.Backbone) -> torch.Tensor:
    size = backbone.facts.input_size
    return torch.zeros(1, 3, size, size, dtype=torch.uint8)


@contextlib.contextmanager
def _recorded(record: Record, folder: Path, rank: int, logger: Any) -> Iterator[None]:
    """Whatever happens inside, the record says how it ended, and the logger is closed."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        record.status = "interrupted"
        record.reason = "stopped by the user before anything was saved"
        if (folder / CHECKPOINT).is_file():
            at_once = isinstance(stop, Aborted | KeyboardInterrupt)
            record.reason = f"stopped by the user; the same command resumes it{' from its last checkpoint' * at_once}"
    except UserError as problem:
        record.status = "refused" if isinstance(problem, Refusal) else "failed"
        record.reason = str(problem) + (_kept(folder) if isinstance(problem, Diverged) else "")
        raise type(problem)(record.reason) from None
    except Exception as problem:
        record.status, record.reason = "failed", f"{type(problem).__name__}: {problem}"
        with contextlib.suppress(OSError):
            (folder / "error.log").write_text(traceback.format_exc())
        raise
    finally:
        if rank == 0:
            with contextlib.ExitStack() as closing:
                closing.callback(logger().finish, record)
                closing.callback(_written, record, folder)  # first: sending figures may take long, or be interrupted


def _written(record: Record, folder: Path) -> None:
    if record.status == "complete":
        record.write(folder)
    else:  # what went wrong is being told already; on a full disk the record cannot say it too
        with contextlib.suppress(UserError):
            record.write(folder)


def _kept(folder: Path) -> str:
    return f" (the state before it is kept in {folder / CHECKPOINT})" if (folder / CHECKPOINT).is_file() else ""


@contextlib.contextmanager
def _owned(folder: Path, rank: int) -> Iterator[None]:
    """One process carries out a run at a time. Raises UserError where another is at it, or nothing can be written."""
    if rank:
        yield
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        locks = folder.parent / ".locks"
        locks.mkdir(exist_ok=True)
        lock = (locks / folder.name).open("w")
    except OSError as problem:
        raise UserError(f"output_dir={folder.parent}: cannot be written ({problem.strerror}); give another.") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on Windows: two processes at one run are then not noticed
            pass
        except OSError:
            raise UserError(f"{folder}: another process is carrying out this very run; wait for it.") from None
        yield


def _prepare(folder: Path, config: Config) -> None:
    """The run's folder with the resolved config. What a forced run replaces is kept beside it."""
    if config.force and folder.exists():
        old = folder.with_name(f".{folder.name}.previous")
        number = 1
        while old.exists():
            number += 1
            old = folder.with_name(f".{folder.name}.previous-{number}")
        folder.rename(old)
        Console().print(f"force=true: the run that was there is kept in {old}", highlight=False, soft_wrap=True)
    from omegaconf import OmegaConf

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be written ({problem.strerror}); give another output_dir.") from None
    with deltas.replacing(folder / "config.yaml") as part:
        part.write_text(OmegaConf.to_yaml(OmegaConf.create(config.to_dict())))


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


def _stamps(config: Config, backbone: backbones.Backbone, splits: Splits, hash_: str) -> dict[str, Any]:
    """What a number needs to be compared: weights, data, code and machine."""
    return {
        "backbone": {
            "name": config.backbone.name,
            "weights": config.backbone.weights if config.backbone.pretrained else "random",
            "pretrained": config.backbone.pretrained,
            "fingerprint": backbone.fingerprint,
            "input_size": backbone.facts.input_size,
        },
        "data": {
            "split": splits.name,
            "stage": config.data.stage,
            "hash": hash_,
            "classes": len(splits.classes),
            "transform": dataclasses.asdict(_transform(config, backbone)),
        },
        "seed": config.seed,
        "versions": {n: version(n) for n in ("peftbench", "torch", "torchvision", "timm", "lightning", "numpy")},
        "commit": _commit(),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _commit() -> str | None:
    """The commit of a source checkout (with `+` where it has changes), None for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False).stdout

    return (
        git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", "src", "configs") else "") or None
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
