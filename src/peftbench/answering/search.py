"""What every step of the search needs: the question, the data, the clock, what is remembered, and how a run is made."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING

from peftbench.answering.asked import Asked
from peftbench.answering.look import Looked
from peftbench.answering.state import State, Tried
from peftbench.answering.time_left import OVERHEAD, TOO_LONG, Clock, OutOfTime, ended_after
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.status_line import doing
from peftbench.config import Config
from peftbench.config.compose import compose
from peftbench.data.base import Splits
from peftbench.results import Record, results_of_task
from peftbench.results.earlier_runs import Prior
from peftbench.results.task_results import TaskResults

if TYPE_CHECKING:
    from peftbench.runs.dry_run import Planned

RUNS, LOG = "runs", "log.txt"
OUT_OF_TIME = "out of time"
"""The status of what was ended by the clock; it is tried again where a later command has more time."""


@dataclass
class Search:
    """Travels through the steps.

    Attributes:
        asked: the question.
        base: the config of any run of it.
        folder: of the answer.
        looked: the data.
        state: what is remembered; each method here that changes it writes it.
        clock: what time is left.
        tell: prints a line for the user.
        reserved: seconds that the answer at the end will take, which nothing else may have.
        folds: the data by which each thing that is tried is judged, one after the other; empty for `looked` alone.
        prior: what earlier records say of what to try first.
        hurried: whether a bell ends what takes too long; not where the time is less than the smallest pass takes.
    """

    asked: Asked
    base: Config
    folder: Path
    looked: Looked
    state: State
    clock: Clock
    tell: Callable[[str], None]
    reserved: float = 0.0
    hurried: bool = True
    folds: list[Splits] = field(default_factory=list)
    prior: Prior = field(default_factory=Prior)

    @property
    def times(self) -> int:
        """How many runs judge one thing that is tried."""
        return max(len(self.folds), 1)

    @property
    def most(self) -> float:
        """Seconds that the next step may take before it is ended."""
        return max(self.clock.left - self.reserved, 0.0) if self.hurried else math.inf

    def config(self, backbone: str, method: str, words: Sequence[str], stage: str = "tune") -> Config:
        """The config of one run. Raises UserError."""
        own = [f"method={method}", f"backbone={backbone}", *words, f"data.stage={stage}"]
        rest = [word for word in self.asked.words if not word.startswith("output_dir=")]
        quiet = ["trainer.progress=false", f"output_dir='{self.folder / RUNS}'"]
        return compose(*rest, *self.looked.words, *own, *quiet)

    @property
    def runs(self) -> Path:
        """The folder of all runs of this answer."""
        return self.folder / RUNS

    def decide(self, step: str, sentence: str) -> None:
        """Notes what was chosen or left out, and tells it; what was noted before is not told again."""
        if any(entry.get("says") == sentence for entry in self.state.decisions):
            return
        self.state.decisions.append({"step": step, "at": round(self.clock.spent, 1), "says": sentence})
        self.keep()
        self.tell(f"{self.clock.spent:6.0f} s  {step}: {sentence}")

    def keep(self) -> None:
        """Writes what is remembered. Raises UserError."""
        self.state.spent = self.clock.spent
        self.state.write(self.folder)

    def done(self, step: str, backbone: str, method: str, words: Sequence[str]) -> Tried | None:
        """What was tried before, by an earlier command too; None where it was not."""
        key = (step, backbone, method, list(words))
        return next((t for t in self.state.tried if (t.step, t.backbone, t.method, t.words) == key), None)

    def carry_out(
        self,
        step: str,
        backbone: str,
        jobs: Sequence[tuple[str, Sequence[str]]],
        splits: Splits | None = None,
        most: float | None = None,
    ) -> list[Tried]:
        """Carries runs out on one backbone in as few passes as can be, and notes what came of each.

        A run that was tried before is not repeated, nor is one that failed. What goes wrong in a run is noted.

        Args:
            jobs: (method, words) of each.
            splits: to train on a part of the images; their name says which. None is all, by folds where there are.
            most: seconds after which they are ended; None is `self.most`.

        Raises:
            KeyboardInterrupt: the user stopped it.
            UserError: what is remembered cannot be written.
        """
        todo = [job for job in jobs if self.done(step, backbone, *job) is None]
        configs: list[Config] = []
        composed: list[tuple[str, Sequence[str]]] = []
        for job in todo:
            try:
                configs.append(self.config(backbone, *job))
                composed.append(job)
            except UserError as problem:
                self._note(step, backbone, job, problem, 0.0)
        for indices in _groups(configs):
            group = [composed[i] for i in indices], [configs[i] for i in indices]
            each = [splits] if splits is not None else self.folds or [self.looked.splits]
            self._carry_out_group(step, backbone, *group, each, most)
        tried = [self.done(step, backbone, *job) for job in jobs]
        return [one for one in tried if one is not None]

    def _carry_out_group(
        self,
        step: str,
        backbone: str,
        jobs: Sequence[tuple[str, Sequence[str]]],
        configs: Sequence[Config],
        splits: Sequence[Splits],
        most: float | None,
    ) -> None:
        names = ", ".join(dict.fromkeys(method for method, _ in jobs))
        doing(f"{step}: {names} on {backbone}")
        begun = time.perf_counter()
        by_fold: list[list[Record]] = []
        try:
            for one in splits:
                before = time.perf_counter()
                records = carried_out(configs, one, self.folder, self.most if most is None else most)
                by_fold.append(records)
                if len(records) == 1 and not records[0].was_there:
                    self._learn_pace(backbone, records[0], time.perf_counter() - before)
        except OutOfTime as problem:
            for job in jobs:
                self._note(step, backbone, job, problem, time.perf_counter() - begun)
            return
        except Exception as problem:  # a method's own, whatever it is: the others go on
            if isinstance(problem, BrokenPipeError):
                raise KeyboardInterrupt from None
            if len(jobs) > 1:
                for job, config in zip(jobs, configs, strict=True):
                    self._carry_out_group(step, backbone, [job], [config], splits, most)
                return
            self._note(step, backbone, jobs[0], problem, time.perf_counter() - begun)
            return
        each = (time.perf_counter() - begun) / len(jobs)
        for job, own in zip(jobs, zip(*by_fold, strict=True), strict=True):
            self.state.tried.append(self._tried(step, backbone, job, own, each))
        self.keep()

    def _note(
        self, step: str, backbone: str, job: tuple[str, Sequence[str]], problem: Exception, seconds: float
    ) -> None:
        own = isinstance(problem, UserError | OutOfTime)
        why = str(problem) if own else f"{type(problem).__name__}: {first_sentence(problem)}"
        status = OUT_OF_TIME if isinstance(problem, OutOfTime) else "failed"
        self.state.tried.append(Tried(step, backbone, job[0], list(job[1]), status, seconds=seconds, reason=why))
        self.decide(step, f"{job[0]} on {backbone} is left out: {why}")

    def planned(self, config: Config) -> Planned:
        """What a run would take here, by steps that are timed.

        Raises:
            OutOfTime: that took too long itself.
            UserError: the run refuses.
        """
        from peftbench.runs.data_sets import Outlined
        from peftbench.runs.dry_run import plan_run

        with ended_after(self.most):
            return plan_run(config, True, Outlined(self.looked.splits))

    def _learn_pace(self, backbone: str, record: Record, whole: float) -> None:
        """Remembers what an image and a run's own work took, by which later steps are foretold."""
        timed = self.state.timed.get(backbone)
        time_, taps = record.costs.get("time") or {}, record.costs.get("taps") or {}
        if timed is None or record.status != "complete":
            return
        filling = float(taps.get("seconds") or 0.0)
        if taps.get("computed"):
            timed["measured_image"] = filling / float(taps["computed"])
        timed["overhead"] = max(whole - filling - sum(float(time_.get(k) or 0.0) for k in ("train", "validate")), 0.0)

    def overhead(self, backbone: str) -> float:
        """Seconds that a run takes besides its steps, as last measured on this backbone."""
        return max(float(self.state.timed.get(backbone, {}).get("overhead", 0.0)), OVERHEAD)

    def _tried(
        self, step: str, backbone: str, job: tuple[str, Sequence[str]], records: Sequence[Record], seconds: float
    ) -> Tried:
        """What came of one thing: of several folds the mean over their images."""
        values = [record.metrics.get(f"val/{self.metric}") for record in records]
        counts = [int((r.stamps["data"].get("images") or {}).get("val") or len(self.looked.val)) for r in records]
        ended = next((record for record in records if record.status != "complete"), records[0])
        memories = [memory for memory in map(_memory, records) if memory is not None]
        value = _mean(values, counts)
        return Tried(
            step,
            backbone,
            job[0],
            list(job[1]),
            ended.status if value is not None or ended.status != "complete" else "failed",
            run=records[0].id,
            value=value,
            loss=_mean([record.metrics.get("val/loss") for record in records], counts),
            parameters=(records[0].costs.get("parameters") or {}).get("method"),
            images=sum(counts),
            seconds=seconds,
            reason=ended.reason,
            chosen=_chosen(records),
            memory=max(memories, default=None),
            at=round(self.clock.spent, 1),
            by_fold=[v for v in values if v is not None] if len(records) > 1 else [],
        )

    @property
    def results(self) -> TaskResults:
        """How the runs of the task are judged."""
        return results_of_task(self.base.task.name, self.base.task.path)

    @property
    def metric(self) -> str:
        """What the runs of the task are judged by."""
        return self.results.metric

    def shown(self, one: Tried) -> str:
        """`94.2 % accuracy` of the validation images."""
        return "no figure" if one.value is None else f"{100 * one.value:.1f} % {self.metric}"


def _memory(record: Record) -> int | None:
    """Bytes that training took above what was there before; None where that is not measured."""
    peak = (record.costs.get("memory") or {}).get("peak")
    above = peak.get("above") if isinstance(peak, dict) else None
    return above if isinstance(above, int) else None


def _mean(values: Sequence[float | None], counts: Sequence[int]) -> float | None:
    """The mean over images; None where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(value * count for value, count in zip(known, counts, strict=True)) / sum(counts)


def _chosen(records: Sequence[Record]) -> list[str]:
    """What a head that was worked out chose by validation images, as overrides of a run that shall take the same.

    Of several folds the middle one.
    """
    every = [(record.stamps.get("solved") or {}).get("chosen") or {} for record in records]
    return [
        f"method.{name}=[{median_low([chosen[name] for chosen in every if name in chosen])!r}]" for name in every[0]
    ]


def carried_out(configs: Sequence[Config], splits: Splits, folder: Path, most: float = math.inf) -> list[Record]:
    """The records of runs in one pass; what they tell goes to a file beside them, since all tell the same.

    Raises:
        OutOfTime: they took more than so many seconds.
        KeyboardInterrupt: the user's own.
    """
    from peftbench.runs.run import run_jointly

    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    with (
        (folder / LOG).open("a", encoding="utf-8") as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
        ended_after(most) as bell,
    ):
        records = run_jointly(configs, folder.name, True, splits)
        if any(record.status == "interrupted" for record in records):
            raise OutOfTime(TOO_LONG) if bell.rang else KeyboardInterrupt
    return records


def _groups(configs: Sequence[Config]) -> list[list[int]]:
    from peftbench.sweeps.grouping import arrange_in_groups

    return arrange_in_groups(configs, max(1, len(configs)))
