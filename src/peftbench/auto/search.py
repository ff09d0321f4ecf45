"""What every step of the search needs: the question, the data, the clock, what is remembered, and how a run is made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.auto.asked import Asked
from peftbench.auto.look import Looked
from peftbench.auto.state import State, Tried
from peftbench.auto.time_left import Clock
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.status_line import doing
from peftbench.config import Config
from peftbench.config.compose import compose
from peftbench.data.base import Splits
from peftbench.results import Record, results_of_task
from peftbench.results.task_results import TaskResults

RUNS, LOG = "runs", "log.txt"


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
    """

    asked: Asked
    base: Config
    folder: Path
    looked: Looked
    state: State
    clock: Clock
    tell: Callable[[str], None]
    reserved: float = 0.0

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
        self, step: str, backbone: str, jobs: Sequence[tuple[str, Sequence[str]]], splits: Splits | None = None
    ) -> list[Tried]:
        """Carries runs out on one backbone in as few passes as can be, and notes what came of each.

        A run that was tried before is not repeated, nor is one that failed. What goes wrong in a run is noted.

        Args:
            jobs: (method, words) of each.
            splits: to train on a part of the images; their name says which. None is all.

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
            self._carry_out_group(step, backbone, *group, splits or self.looked.splits)
        tried = [self.done(step, backbone, *job) for job in jobs]
        return [one for one in tried if one is not None]

    def _carry_out_group(
        self,
        step: str,
        backbone: str,
        jobs: Sequence[tuple[str, Sequence[str]]],
        configs: Sequence[Config],
        splits: Splits,
    ) -> None:
        names = ", ".join(dict.fromkeys(method for method, _ in jobs))
        doing(f"{step}: {names} on {backbone}")
        begun = time.perf_counter()
        try:
            records = carried_out(configs, splits, self.folder)
        except Exception as problem:  # a method's own, whatever it is: the others go on
            if isinstance(problem, BrokenPipeError):
                raise KeyboardInterrupt from None
            if len(jobs) > 1:
                for job, config in zip(jobs, configs, strict=True):
                    self._carry_out_group(step, backbone, [job], [config], splits)
                return
            self._note(step, backbone, jobs[0], problem, time.perf_counter() - begun)
            return
        if any(record.status == "interrupted" for record in records):
            raise KeyboardInterrupt
        each = (time.perf_counter() - begun) / len(jobs)
        for job, record in zip(jobs, records, strict=True):
            self.state.tried.append(self._tried(step, backbone, job, record, each))
        self.keep()

    def _note(
        self, step: str, backbone: str, job: tuple[str, Sequence[str]], problem: Exception, seconds: float
    ) -> None:
        why = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {first_sentence(problem)}"
        self.state.tried.append(Tried(step, backbone, job[0], list(job[1]), "failed", seconds=seconds, reason=why))
        self.decide(step, f"{job[0]} on {backbone} is left out: {why}")

    def _tried(self, step: str, backbone: str, job: tuple[str, Sequence[str]], record: Record, seconds: float) -> Tried:
        value = record.metrics.get(f"val/{self.metric}")
        counts = record.costs.get("parameters") or {}
        return Tried(
            step,
            backbone,
            job[0],
            list(job[1]),
            record.status if value is not None or record.status != "complete" else "failed",
            run=record.id,
            value=value,
            loss=record.metrics.get("val/loss"),
            parameters=counts.get("method"),
            images=int((record.stamps["data"].get("images") or {}).get("val") or len(self.looked.val)),
            seconds=seconds,
            reason=record.reason,
            chosen=_chosen(record),
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


def _chosen(record: Record) -> list[str]:
    """What a head that was worked out chose by validation images, as overrides of a run that shall take the same."""
    chosen = (record.stamps.get("solved") or {}).get("chosen") or {}
    return [f"method.{name}=[{value!r}]" for name, value in chosen.items()]


def carried_out(configs: Sequence[Config], splits: Splits, folder: Path) -> list[Record]:
    """The records of runs in one pass; what they tell goes to a file beside them, since all tell the same."""
    from peftbench.runs.run import run_jointly

    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        return run_jointly(configs, folder.name, True, splits)


def _groups(configs: Sequence[Config]) -> list[list[int]]:
    from peftbench.sweeps.grouping import arrange_in_groups

    return arrange_in_groups(configs, max(1, len(configs)))
