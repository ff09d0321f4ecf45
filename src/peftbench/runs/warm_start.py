"""`start=outputs/<run>`: a run that begins with what another run learned, its method's tensors and its head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench import deltas
from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal, UserError
from peftbench.common.sealed_file import SEAL, content_hash
from peftbench.config import Config
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.results import read_complete
from peftbench.results.task_results import task_name
from peftbench.runs.plan_file import read_plan

_HEAD = "task."


@dataclass(frozen=True)
class WarmStart:
    """A finished run to begin from.

    Attributes:
        word: as the user gave it, for messages.
        run: its id.
        tensors, metadata: its delta.
        plan: its method's.
        chain: the runs that it began from itself, the first of them first, as `stamp` tells each.
    """

    word: str
    run: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    plan: Plan
    chain: tuple[Mapping[str, str], ...]

    @property
    def hash(self) -> str:
        """sha256 of the delta: what it is, wherever it lies."""
        return self.metadata.get(SEAL) or content_hash(self.tensors, self.metadata)

    @property
    def classes(self) -> tuple[str, ...]:
        """What its head tells apart."""
        return tuple(json.loads(self.metadata["classes"]))

    def stamp(self) -> dict[str, Any]:
        """What a record says of its start: `run`, the `delta`'s sha256, and the `chain` of starts before that."""
        return {"run": self.run, "delta": self.hash, "chain": [dict(link) for link in self.chain]}

    def refuse_other_backbone(self, backbone: Backbone, start_file: str = "") -> None:
        """Raises Refusal where the run's backbone, as it is before any method, is not the one that the delta fits.

        `start_file` is the sha256 of the file that the whole model starts from, if any.
        """
        delta, name = self.metadata, backbone.facts.name
        theirs, ours = delta.get("quantize") or "null", backbone.quantized or "null"
        if theirs != ours:
            raise Refusal(
                f"{self.word}: was trained with backbone.quantize={theirs}, and this run has backbone.quantize={ours}; "
                f"a delta fits only weights that are kept as those were."
            )
        if delta["fingerprint"] != backbone.fingerprint:
            raise Refusal(
                f"{self.word}: was trained on {delta['backbone']} with fingerprint {delta['fingerprint'][:12]}, and "
                f"this run's backbone is {name} with {backbone.fingerprint[:12]}; a delta fits only the very weights "
                f"that it was made on, at the same input size."
            )
        if delta.get("merge", backbone.merging) != backbone.merging:
            raise Refusal(
                f"{self.word}: was trained with pruning.merge={delta['merge']}, and this run has {backbone.merging}; "
                f"give pruning.merge={delta['merge']}."
            )
        if delta.get("start_file", "") != start_file:
            raise Refusal(
                f"{self.word}: began from a detector with sha256 {delta.get('start_file', '')[:12] or 'nothing'}, and "
                f"task.weights of this run is of {start_file[:12] or 'nothing'}; give the same task.weights."
            )

    @torch.no_grad()
    def take(self, model: Model) -> str:
        """Puts what was learned into the adapted model; returns what the user should know of its head.

        Raises:
            Refusal: a tensor of the method does not fit; says which.
        """
        state = model.state_dict()
        head = {n.removeprefix(_HEAD): t for n, t in self.tensors.items() if n.startswith(_HEAD)}
        taken, note = model.task.taken_over(head, self.classes)
        learned = {n: t for n, t in self.tensors.items() if not n.startswith(_HEAD)}
        learned |= {f"{_HEAD}{name}": tensor for name, tensor in taken.items()}
        for name, tensor in learned.items():
            if name not in state:
                raise self._misfit(f"holds {name}, which this run's model has not")
            if state[name].shape != tensor.shape:
                shapes = f"{list(tensor.shape)}, and this run's {list(state[name].shape)}"
                raise self._misfit(f"its {name} has the shape {shapes}")
        begun = model.start()
        for name in state:
            if name not in self.tensors and name not in begun and not name.startswith(_HEAD):
                raise self._misfit(f"lacks {name}, which this run's model has")
        for name, tensor in learned.items():
            state[name].copy_(tensor)
        deltas.drop_cached_values(model)
        return f"start: begins with what {self.run} learned; {note}"

    def _misfit(self, what: str) -> Refusal:
        options = json.loads(self.metadata["options"])
        told = ", ".join(f"method.{key}={json.dumps(value)}" for key, value in options.items())
        return Refusal(f"{self.word}: {what}; give the options that it was trained with ({told or 'it has none'}).")


def read_start(config: Config) -> WarmStart | None:
    """The run that `start` names, or None; its method and task must be those of this run.

    Raises:
        UserError: there is no such folder, no run in it, no finished one, or a file of it is damaged.
        Refusal: it is of another method or task.
    """
    if config.start is None:
        return None
    folder, word = Path(config.start).expanduser(), f"start={config.start}"
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "there is no such folder"
        raise UserError(f"{word}: {what}; give the folder of a finished run, such as outputs/<run id>.")
    remedy = "; a run is begun from only with the record that it wrote"
    record = read_complete(folder, word, remedy, "finish that run first")
    try:
        tensors, metadata = deltas.load_delta(folder / deltas.FILE)
        plan = read_plan(folder, metadata.get("plan"))
    except UserError as problem:
        raise type(problem)(f"{word}: {problem}") from None
    if metadata["run"] != record.id:
        raise UserError(f"{word}: its delta is of run {metadata['run']}, and its record of {record.id}.")
    for key, theirs, ours in (
        ("method", metadata["method"], config.method.name),
        ("task", metadata.get("task", task_name(record.config)), config.task.name),
    ):
        if theirs != ours:
            raise Refusal(
                f"{word}: is of {key}={theirs}, and this run has {key}={ours}; give {key}={theirs}, or the folder of a "
                f"run of {key}={ours}."
            )
    before = record.stamps.get("start")
    chain = () if not before else (*before["chain"], {"run": before["run"], "delta": before["delta"]})
    return WarmStart(word, record.id, tensors, metadata, plan, tuple(chain))
