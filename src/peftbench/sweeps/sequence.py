"""One sequence of groups of classes: a chain of ordinary runs, and a record beside them that says what they come to."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.world import world_of
from peftbench.config import Config, replaced, run_id
from peftbench.data.base import Splits, split_hash
from peftbench.data.class_groups import classes_in_groups, group_of_classes
from peftbench.methods.base import Method
from peftbench.results import Record, read_record
from peftbench.results.continual import figures_of, forward_transfer
from peftbench.results.per_image import OF_GROUP, read_right, stamped
from peftbench.runs.data_sets import load_splits
from peftbench.runs.folder import owned_folder, set_aside
from peftbench.sweeps.choosing import CarryOut


@dataclass(frozen=True)
class Way:
    """How groups are learned.

    Attributes:
        learn: each from the weights `before`, or each `apart`, from the pretrained ones.
        method: what learns them.
        alone: whether each is learned by itself too.
        teller: the config of the method that tells groups apart, where nets are; None where nothing does.
    """

    learn: str
    method: Method
    alone: bool
    teller: Config | None


class _Ended(Exception):
    """A run of the sequence did not end well."""

    def __init__(self, record: Record, what: str) -> None:
        super().__init__(what)
        self.record = record


class ClassSequence:
    """Learns all groups of a config, with its seed.

    Where a run was interrupted, the same sequence reads what is complete and goes on with it.
    """

    def __init__(self, config: Config, way: Way, carry_out: CarryOut) -> None:
        self.config, self.way, self.carry_out = config, way, carry_out
        self.whole, self.hash = self._read()
        self.groups = classes_in_groups(self.whole.classes, config.data)
        teller = way.teller.method.name if way.teller else ""
        self.id = run_id(config, f"continual {way.learn} {teller}".strip(), self.hash)
        self.folder = Path(config.output_dir) / self.id
        world = world_of(config.trainer.devices, config.trainer.nodes)
        self.process = 0 if world is None else world.rank
        self.runs: dict[str, list[Record]] = {"learned": [], "told": [], "alone": []}
        self.options: dict[str, Any] = {}  # what the first run chose for its head, for all others

    def learn(self) -> Record:
        """Carries the sequence out, or reads it where it is complete.

        Returns its record; that of the first run where this did not come to its end.

        Raises:
            UserError: another process is at it, or its data have changed since it began.
        """
        with owned_folder(self.folder, self.process, None):
            before = read_record(self.folder, "; remove it, or give force=true, to learn the sequence again")
            if before is not None and before.status == "complete" and not self.config.force:
                before.was_there = True
                return before
            if before is None and not self.config.force:
                self._refuse_other_data()
            if before is not None and self.config.force and self.process == 0:
                set_aside(self.folder)
            try:
                self._learn_groups()
            except _Ended as end:
                if not self.runs["learned"]:
                    return end.record
                return self._write(end.record.status, f"{end}: {end.record.reason}")
            return self._write("complete", None)

    def _learn_groups(self) -> None:
        apart, count = self.way.learn == "apart", len(self.groups)
        scope = "own" if apart else "seen"
        replay = "all" if self.way.method.solves else self.config.data.replay
        before: str | None = None
        for k in range(1, count + 1):
            changes = {"data.class_group": k, "data.class_scope": scope, "data.replay": replay, "start": before}
            record = self._run(f"group {k} of {count}", replaced(self.config, {**changes, **self.options}), "learned")
            if k == 1 and self.way.method.solves:
                chosen = (record.stamps.get("solved") or {}).get("chosen") or {}
                self.options = {f"method.{name}": [value] for name, value in chosen.items()}
            if not apart and not self.way.method.solves:
                before = record.folder
            self._write("running", None)
            if self.way.teller is not None:
                teller = {"data.class_group": k, "data.replay": "all"}
                self._run(f"telling {k} of {count}", replaced(self.way.teller, self._shared | teller), "told")
        if self.way.alone and not apart and not self.way.method.solves:
            for k in range(2, count + 1):
                changes = {"data.class_group": k, "data.class_scope": "own", "data.replay": 0}
                self._run(f"group {k} of {count} alone", replaced(self.config, changes), "alone")

    @property
    def _shared(self) -> dict[str, Any]:
        """What the teller has of this sequence: its seed and its groups."""
        return {"seed": self.config.seed, "data.class_seed": self.config.data.class_seed}

    def _run(self, what: str, config: Config, kind: str) -> Record:
        if self._read()[1] != self.hash:
            raise self._changed(self.hash, f"{what} was to be learned")
        (record,) = self.carry_out([dataclasses.replace(config, protocol=self.config.protocol)])
        if record.status != "complete":
            raise _Ended(record, what)
        self.runs[kind].append(record)
        return record

    # -- the data

    def _read(self) -> tuple[Splits, str]:
        """The whole data set, and the hash of what is trained, validated and tested on."""
        plain = dataclasses.replace(self.config.data, class_groups=None, class_scope="seen", replay=0)
        splits = load_splits(dataclasses.replace(self.config, data=plain))
        return splits, split_hash(*splits.roles(self.config.data.stage))

    def _refuse_other_data(self) -> None:
        """Raises UserError where this very sequence was begun from the same place, with other images or labels."""
        name = self.id.rpartition("-")[0]
        for file in sorted(Path(self.config.output_dir).glob(f"{name}-*/result.json")):
            try:
                record = read_record(file.parent)
            except UserError:
                continue
            known = record.stamps.get("continual") if record is not None else None
            if record is None or not isinstance(known, dict) or record.status == "complete":
                continue
            theirs, ours = record.config, json.loads(json.dumps(self.config.to_dict()))
            same = all(theirs.get(key) == ours[key] for key in ("data", "method", "optimizer", "trainer", "backbone"))
            if same and (hash_ := (record.stamps.get("data") or {}).get("hash")) not in (None, self.hash):
                learned = len(known.get("runs") or ())
                raise self._changed(str(hash_), f"{file.parent} learned {learned} of {len(self.groups)} groups")

    def _changed(self, before: str, when: str) -> UserError:
        mistake = UserError(
            f"data={self.config.data.name}: its images or labels are others than when this sequence began ({when}; "
            f"hash {before[:12]} then, {self._read()[1][:12]} now), and groups learned from different data are no "
            f"sequence; put the data back, or give force=true to learn it anew."
        )
        mistake.of = "data"
        return mistake

    # -- the record

    def _write(self, status: str, reason: str | None) -> Record:
        first, last = self.runs["learned"][0], self.runs["learned"][-1]
        stamps = copy.deepcopy(first.stamps)
        for key in ("right", "group", "start", "solved", "chosen", "kept"):
            stamps.pop(key, None)
        if self.way.method.solves:
            stamps["solved"] = {"chosen": dict(self.options)}
        stamps["data"] |= {
            "split": self.whole.name,
            "hash": self.hash,
            "classes": len(self.whole.classes),
            "images": {
                role: len(split)
                for role, split in zip(("train", "val", "test"), self.whole.roles(self.config.data.stage), strict=True)
                if split is not None
            }
            | {"test": sum(self._tested())},
        }
        stamps["ended"] = last.stamps.get("ended")
        metrics, measured = self._measured() if status == "complete" else ({}, {})
        stamps["continual"] = {
            "groups": [[self.whole.classes[i] for i in group] for group in self.groups],
            "learn": self.way.learn,
            "runs": [r.id for r in self.runs["learned"]],
            "told_by": [r.id for r in self.runs["told"]],
            "alone": [r.id for r in self.runs["alone"]],
            **measured,
        }
        record = Record(self.id, status, self.config.to_dict(), stamps, metrics, self._costs(), reason=reason)
        record.folder = str(self.folder)
        if self.process == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            record.write(self.folder)
        return record

    def _measured(self) -> tuple[dict[str, float], dict[str, Any]]:
        """The figures of the sequence, and what was measured after each group."""
        learned, count = self.runs["learned"], len(self.groups)
        if self.way.learn == "apart":
            own = [r.metrics["test/accuracy"] for r in learned]
            sizes = self._tested()
            within = [own[: k + 1] for k in range(count)]
            told_seen = [float(np.average(row, weights=sizes[: k + 1])) for k, row in enumerate(within)]
            matrix = self._told_apart() if self.runs["told"] else []
            seen = [float(np.average(row, weights=sizes[: k + 1])) for k, row in enumerate(matrix)]
        else:
            named = [[f"test/group_{j}/" for j in range(1, k + 1)] for k in range(1, count + 1)]
            matrix, within = (
                [[r.metrics[f"{name}{figure}"] for name in names] for r, names in zip(learned, named, strict=True)]
                for figure in ("accuracy", "task_accuracy")
            )
            seen, told_seen = ([r.metrics[f"test/{name}"] for r in learned] for name in ("accuracy", "task_accuracy"))
        figures = figures_of(within, told_seen, "task_") | (figures_of(matrix, seen) if matrix else {})
        alone = [r.metrics["test/accuracy"] for r in self.runs["alone"]]
        if alone:
            figures["forward_transfer"] = forward_transfer(within, alone)
        metrics = {f"test/{name}": value for name, value in figures.items()}
        metrics |= {name: value for name, value in learned[0].metrics.items() if name in ("val/accuracy", "val/loss")}
        held = [r.metrics.get(f"val/group_{k}/task_accuracy") for k, r in enumerate(learned, start=1)]
        known = [value for value in held if value is not None]
        if len(known) == count:
            metrics["val/task_current_accuracy"] = float(np.mean(known))  # of each group when it was just learned
        return metrics, {"matrix": matrix, "task_matrix": within, "alone_accuracy": alone}

    def _tested(self) -> list[int]:
        """How many test images each group's run read, of this group alone or of all so far; the latter counts once."""
        learned = self.runs["learned"] if self.way.learn == "apart" else self.runs["learned"][-1:]
        return [int(record.stamps["data"]["images"]["test"]) for record in learned]

    def _told_apart(self) -> list[list[float]]:
        """Accuracies where each image goes to the net of the group that is told: both must be right.

        Where `trainer.max_batches` cuts tests short, the images that both have seen count.

        Raises:
            UserError: a run lacks the file that says which images it has right, or left damaged images out.
        """
        matrix = []
        right = [_bits(record, "right") for record in self.runs["learned"]]
        for k, teller in enumerate(self.runs["told"], start=1):
            told = _bits(teller, "group")
            group = dataclasses.replace(self.config.data, class_group=k, class_scope="seen")
            seen = group_of_classes(self.whole, group)
            split = seen.roles(self.config.data.stage)[2]
            assert split is not None
            of_image = np.array(seen.groups)[split.labels][: len(told)]
            row = []
            for j in range(1, k + 1):
                of_group = told[of_image == j]
                both = min(len(of_group), len(right[j - 1]))
                row.append(float((of_group[:both] & right[j - 1][:both]).mean()))
            matrix.append(row)
        return matrix

    def _costs(self) -> dict[str, Any]:
        """Of what was learned: times added up; sizes of the last run, or of all nets where each group has its own."""
        learned = self.runs["learned"]
        costs = copy.deepcopy(learned[-1].costs)
        times = [r.costs.get("time") or {} for r in learned]
        for key in ("train", "validate", "test", "features"):
            if key in costs.get("time", {}):
                costs["time"][key] = sum(t.get(key) or 0.0 for t in times)
        if self.way.learn == "apart":
            costs["delta_bytes"] = sum(r.costs.get("delta_bytes") or 0 for r in learned)
            for key in ("method", "head", "in_backbone"):
                values = [(r.costs.get("parameters") or {}).get(key) for r in learned]
                if known := [value for value in values if isinstance(value, int)]:
                    costs["parameters"][key] = sum(known)
        return costs


def _bits(record: Record, key: str) -> np.ndarray:
    stamp = stamped(record.stamps, key)
    if stamp is not None and stamp.skipped:
        raise UserError(
            f"{record.folder}: left {len(stamp.skipped)} damaged images out (data.on_error=skip), so that what two "
            f"runs say cannot be put together image by image; mend or remove them, or give protocol.told_by=null."
        )
    bits = None if stamp is None else read_right(record.folder, stamp, *((OF_GROUP,) if key == "group" else ()))
    if bits is None:
        raise UserError(
            f"{record.folder}: lacks the file that says of each test image whether it is right, or it was changed; "
            f"remove the folder, and the same command runs it again."
        )
    return bits
