"""The files of a run besides its record: config, plan, and what a delta says of where it belongs."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path

import torch

from peftbench import deltas, pruning
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.notes import note
from peftbench.common.regular_files import content_of
from peftbench.common.sealed_file import check_seal, content_hash, read_tensors, sealed, write_tensors
from peftbench.common.seeds import mix, random_numbers_kept
from peftbench.config import Config, bound_values
from peftbench.data.loading import Loaders
from peftbench.data.scoring_batches import plain_batches
from peftbench.methods.base import Method, Plan
from peftbench.models.model import Model
from peftbench.results import Record
from peftbench.runs.context import Context

CONFIG = "config.yaml"
PLAN = "plan"
_ANEW = "; give the folder as it was left, or run anew with force=true, which keeps what is there beside it"


def read_plan(folder: Path, bound: str | None = None) -> Plan:
    """The plan in a run's folder, an empty one where it has none.

    Args:
        folder: the run's.
        bound: the hash of the plan that a delta was made with, where there is one: it speaks for a plan that bears no
            seal, which 0.1 wrote.

    Raises:
        UserError: it is damaged, or half of it is missing.
    """
    facts_file, tensors_file = folder / f"{PLAN}.json", folder / f"{PLAN}.safetensors"
    if not facts_file.is_file() and (bound == "" or not tensors_file.is_file()):
        return Plan()
    try:
        facts = dict(json_of(content_of(facts_file)))
    except FileNotFoundError:
        raise UserError(f"{facts_file}: is missing; it was written when the run began{_ANEW}.") from None
    except (OSError, ValueError, TypeError, RecursionError):
        raise UserError(f"{facts_file}: is damaged; it was written when the run began{_ANEW}.") from None
    try:
        tensors, metadata = read_tensors(tensors_file)
        has_seal = check_seal(tensors_file, tensors, metadata)
    except UserError as problem:
        raise UserError(f"{str(problem).rstrip('.')}{_ANEW}.") from None
    if has_seal and json.dumps(facts, sort_keys=True) != metadata.get("facts"):
        raise UserError(
            f"{facts_file}: is another plan than the one that the run wrote, which {tensors_file.name} beside it is "
            f"of{_ANEW}."
        )
    if not has_seal and not bound:
        note(f"{tensors_file}: is of an earlier version, which wrote no hash; whether it is whole cannot be checked.")
    return Plan(tensors, facts)


def make_plan(
    folder: Path, method: Method, model: Model, batches: Loaders, context: Context, begun: Plan | None = None
) -> Plan:
    """The method's plan: made once by the first process, before anything changes, and read by everybody after.

    `begun` is that of the run that this one begins from: what was learned fits no other.

    Raises:
        UserError: the file is damaged, or the first process did not write it.
    """
    facts = folder / f"{PLAN}.json"
    if not method.plans:
        return Plan()
    if not facts.is_file():
        if context.first:
            write_plan(folder, begun or _look_at_data(method, model, batches, context))
        else:
            await_file(facts)
    return read_plan(folder)


def _look_at_data(method: Method, model: Model, batches: Loaders, context: Context) -> Plan:
    config = context.config
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu")
    device = torch.device("cuda" if on_gpu else "cpu")
    model.to(device)
    with random_numbers_kept(device):  # a resumed run reads the plan, and must go on with the same numbers
        torch.manual_seed(mix(config.seed, 3))
        plan = method.prepare(model, plain_batches(batches.train, config, device))
    model.to("cpu")
    return plan


def has_plan(folder: Path) -> bool:
    """Whether both files of a plan are there."""
    return all((folder / f"{PLAN}{suffix}").is_file() for suffix in (".json", ".safetensors"))


def write_plan(folder: Path, plan: Plan) -> None:
    """Writes the tensors first: the facts tell the other processes that all is there."""
    facts = {"facts": json.dumps(json.loads(json.dumps(plan.facts)), sort_keys=True)}  # as they will be read
    write_tensors(folder / f"{PLAN}.safetensors", plan.tensors, sealed(plan.tensors, facts))
    with replacing(folder / f"{PLAN}.json") as part:
        part.write_text(json.dumps(plan.facts), encoding="utf-8")


def await_file(file: Path, seconds: float = 3600) -> None:
    """Waits for a file of the first process. Raises UserError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not file.is_file():
        if time.monotonic() > deadline:
            raise UserError(f"{file}: was not written by the first process within {seconds:.0f} s.")
        time.sleep(0.2)


def delta_metadata(record: Record, model: Model, plan: Plan) -> dict[str, str]:
    """What a delta says of where it belongs: all that `tuned.rebuild_model` asks for."""
    spec, stamps = record.config, record.stamps
    return {
        "run": record.id,
        "method": spec["method"]["name"],
        "options": json.dumps(spec["method"]["options"]),
        "plan": plan_hash(plan),
        "backbone": spec["backbone"]["name"],
        "weights": stamps["backbone"]["weights"],
        "fingerprint": stamps["backbone"]["fingerprint"],
        "mask": pruning.mask_hash(model.backbone.masks),
        "merge": model.backbone.merging,
        "quantize": model.backbone.quantized,
        "task": spec["task"]["name"],
        "classes": json.dumps(list(model.task.classes)),
        "categories": json.dumps(list(getattr(model.task, "categories", ()))),
        "input_size": deltas.size_text(stamps["backbone"]["input_size"]),
        "transform": json.dumps(stamps["data"]["transform"]),
        "frames": json.dumps(stamps["data"]["frames"]),
        "start_file": stamps.get("task", {}).get("sha256", ""),
        "start": json.dumps(stamps.get("start")),
        "config": json.dumps(bound_values(Config.from_dict(spec))),
        "versions": json.dumps({n: version(n) for n in ("peftbench", "torch", "timm")}),
    }


def plan_hash(plan: Plan) -> str:
    """sha256 of a plan, the empty string of an empty one."""
    if not plan.facts and not plan.tensors:
        return ""
    return content_hash(plan.tensors, {"facts": json.dumps(plan.facts, sort_keys=True)})
