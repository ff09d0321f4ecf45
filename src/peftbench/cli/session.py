"""One command that trains: what its jobs leave, and the way through Hydra and back.

Hydra calls a function for each job and hands nothing on between them. Jobs may also run in other processes, or on other
machines; those leave their records with the sweep, on disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from peftbench.cli import jobs, shared_mistakes, sweep_progress
from peftbench.cli.jobs import Job
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing
from peftbench.config import Sweep
from peftbench.config.compose import checked
from peftbench.results import Record
from peftbench.results.record import read_record_file


class Session:
    """What the jobs of one command have in common, in the process that the user started.

    Attributes:
        words: what Hydra is told, its options first.
        stamp: when it began; it names the sweep.
        sweep_folder: where the sweep's jobs leave their records; None where there is one job alone.
        records: of a job alone.
        mistakes: why a job alone could not run.
        shared: a mistake that no job of the sweep can escape, for which it was ended.
        held: lines about jobs whose words are refused, until one begins.
        begun: whether a job of the sweep began.
        composed: whether Hydra made a job's config of the words: what fails before is a mistake in them.
        waiting: jobs of a sweep that are carried out when all are known, to train together.
        study: what the waiting jobs were told of all runs.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
        self.sweep_folder: Path | None = None
        self.records: list[Record] = []
        self.mistakes: list[UserError] = []
        self.shared: UserError | None = None
        self.held: list[str] = []
        self.begun = False
        self.composed = False
        self.waiting: list[Job] = []
        self.study: Sweep | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """While Hydra runs: its words are the program's arguments, and it raises instead of printing and leaving."""
        global _active
        arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
        GlobalHydra.instance().clear()
        _active = self
        os.environ["PEFTBENCH_SWEEP"] = self.stamp
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sys.argv = ["peftbench", *self.words, *self._sweep_folder_words()]
        try:
            yield
        finally:
            sys.argv = arguments
            _active = None
            GlobalHydra.instance().clear()
            if full_error is None:
                del os.environ["HYDRA_FULL_ERROR"]
            else:
                os.environ["HYDRA_FULL_ERROR"] = full_error

    def _sweep_folder_words(self) -> list[str]:
        """Where a sweep's jobs meet, as a word, which reaches machines that this process's environment does not."""
        if not asks_for_sweep(self.words) or any(word.startswith("hydra.sweep.dir=") for word in self.words):
            return []
        return [f"hydra.sweep.dir='${{with_home:${{output_dir}}}}/.sweeps/{self.stamp}'"]

    def all_records(self) -> list[Record]:
        """The job's own, or those that the jobs of the sweep left, wherever they ran; of one run only one."""
        if self.sweep_folder is None:
            return list(self.records)
        by_run: dict[Any, Record] = {}
        for number, path in enumerate(sorted((self.sweep_folder / "jobs").glob("*/result.json"))):
            try:
                record = read_record_file(path, "")
            except UserError as problem:  # of a disk that is full, say: the other jobs' figures are still to be shown
                record = Record("", "failed", {"given": []}, reason=str(problem))
            if record is not None:
                record.folder = str(self.sweep_folder.parents[1] / record.id) if record.id else ""
                by_run[record.id or number] = record
        return list(by_run.values())


_active: Session | None = None


def active_session() -> Session:
    """The session of the command that is running, in the process that the user started."""
    assert _active is not None, "there is a session only while Hydra runs"
    return _active


def in_first_process() -> bool:
    """Whether this is the process that the user started, not one of a launcher's."""
    return _active is not None


def asks_for_sweep(words: Sequence[str]) -> bool:
    """Whether the words start a sweep."""
    return bool({"-m", "--multirun"} & set(words)) or any(word.startswith("experiment=") for word in words)


class SweepFolder(Callback):
    """Tells the session where the sweep's jobs leave their records."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweep = active_session().sweep_folder = Path(config.hydra.sweep.dir)
        sweeper = config.hydra.sweeper
        words = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
        first = sweep_progress.begin(sweep, [*words, *config.hydra.overrides.task], sweeper.get("trials"))
        count = sweep_progress.jobs_of(sweep)
        doing(f"checking the words of {count} jobs" if count else "checking the words of all jobs")
        if shared_mistakes.is_of_all(sweep, "data"):
            _read_data_of_all(config, first)


def _read_data_of_all(config: DictConfig, first_job: Sequence[str]) -> None:
    """Reads the data that all jobs share, before Hydra composes each of them, which takes a while for hundreds.

    Raises:
        KeyboardInterrupt: they are not to be had, as the session then says.
    """
    try:
        loader = GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]
        composed = loader.load_sweep_config(config, list(first_job))
        job = checked(composed, composed.hydra.runtime.choices)
    except (UserError, HydraException, OmegaConfBaseException):  # said again, and listed, when the job's turn comes
        return
    try:
        jobs.read_data(job)
    except UserError as mistake:
        active_session().shared = mistake
        raise KeyboardInterrupt from None
