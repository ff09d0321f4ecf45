"""The files of a run besides its record: config, plan, and what a delta says of where it belongs."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from peftbench import deltas, pruning
from peftbench.common.errors import UserError
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.results import Record

CONFIG = "config.yaml"


PLAN = "plan"


def read_plan(folder: Path) -> Plan:
    """The plan in a run's folder, an empty one where it has none. Raises UserError where it is damaged."""
    facts = folder / f"{PLAN}.json"
    if not facts.is_file():
        return Plan()
    try:
        return Plan(deltas.read_tensors(folder / f"{PLAN}.safetensors")[0], dict(json.loads(facts.read_text())))
    except (ValueError, TypeError):
        raise UserError(f"{facts}: is damaged; it was written when the run began.") from None


def delta_metadata(record: Record, model: Model, plan: Plan) -> dict[str, str]:
    """What a delta says of where it belongs: all that `Run.model` asks for."""
    spec, stamps = record.config, record.stamps
    return {
        "run": record.id,
        "method": spec["method"]["name"],
        "options": json.dumps(spec["method"]["options"]),
        "plan": _hash(plan),
        "backbone": spec["backbone"]["name"],
        "weights": stamps["backbone"]["weights"],
        "fingerprint": stamps["backbone"]["fingerprint"],
        "mask": pruning.mask_hash(model.backbone.masks),
        "merge": model.backbone.merging,
        "task": spec["task"]["name"],
        "classes": json.dumps(list(model.task.classes)),
        "categories": json.dumps(list(getattr(model.task, "categories", ()))),
        "input_size": str(stamps["backbone"]["input_size"]),
        "transform": json.dumps(stamps["data"]["transform"]),
        "versions": json.dumps({n: version(n) for n in ("peftbench", "torch", "timm")}),
    }


def _hash(plan: Plan) -> str:
    """sha256 of a plan, the empty string of an empty one."""
    if not plan.facts and not plan.tensors:
        return ""
    return deltas.content_hash(plan.tensors, {"facts": json.dumps(plan.facts, sort_keys=True)})
