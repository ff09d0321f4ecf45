"""A sweep's jobs: each is carried out wherever its launcher put it, and leaves its records with the sweep."""

from __future__ import annotations

import atexit
import copy
import gc
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.cli import shared_mistakes, sweep_progress
from peftbench.common.errors import Refusal, UserError
from peftbench.common.status_line import doing, doing_import
from peftbench.common.terminal import visible
from peftbench.common.world import world_of
from peftbench.config import Config, Protocol, Sweep
from peftbench.results import Record

if TYPE_CHECKING:
    from peftbench.data.base import Splits

Job = tuple[Any, Config]  # Hydra's state of it, and its config
_read_already: dict[str, Splits] = {}  # what the next run reads, by `shared_mistakes.key_of`
importing = 0.0
"""Seconds that this process spent on loading torch: no part of what a job takes."""


def train_configs(configs: Sequence[Config], group: str | None, retry: bool) -> list[Record]:
    """Runs in this process, or one in several fresh ones. Raises UserError."""
    config = configs[0]
    if world_of(config.trainer.devices, config.trainer.nodes) is None:  # nobody has started its processes
        from peftbench.cli.processes import run_in_processes

        return _with_pages([config], [run_in_processes(config, group, retry)])
    if "torch" not in sys.modules:
        look_before_torch(config)
    splits = _read_already.pop(shared_mistakes.key_of("data", config), None)
    begun = time.perf_counter()
    if config.trainer.progress:
        doing_import("torch")
    from peftbench.runs.run import run_jointly

    global importing
    importing += time.perf_counter() - begun
    _pass_over_imports()
    return _with_pages(configs, run_jointly(configs, group, retry, splits))


def _with_pages(configs: Sequence[Config], records: list[Record]) -> list[Record]:
    """The records, once the pages that their configs ask for are written."""
    if any(config.page for config in configs):
        from peftbench.tuned.run_page import write_asked_pages

        write_asked_pages(configs, records, print)
    return records


def look_before_torch(config: Config) -> None:
    """Reads the data set for the next run, and looks for its weights: mistakes are so told first. Raises UserError."""
    from peftbench.runs.data_sets import refuse_missing_weights

    refuse_missing_weights(config)
    read_data(config)


def read_data(config: Config) -> None:
    """Reads the data set for the next run. Raises UserError."""
    key = shared_mistakes.key_of("data", config)
    if key in _read_already:
        return
    from peftbench.runs.data_sets import load_splits

    if config.trainer.progress:
        doing(f"reading the lists of data={config.choices.get('data') or config.data.name}")
    _read_already.clear()
    _read_already[key] = load_splits(config)


def forget_data() -> None:
    """What was read for a run that never began: the next command reads it anew."""
    _read_already.clear()


@cache
def _pass_over_imports() -> None:
    """What torch and timm hold is there for good: from here on no garbage collection of a run looks at it."""
    gc.freeze()
    atexit.register(gc.unfreeze)


def with_stand_ins(states: Sequence[Any], configs: Sequence[Config], work: Callable[[], list[Record]]) -> list[Record]:
    """The records of some work, or a record for each job that says why there is none.

    What another job of the sweep could not have, its data or its weights, is not tried again.
    """
    sweep = Path(states[0].sweep.dir)
    try:
        if mistake := shared_mistakes.known(sweep, configs[0]):
            raise mistake
        return work()
    except UserError as mistake:
        shared_mistakes.remember(sweep, mistake, configs[0])
        return [stand_in_record(s, mistake, c) for s, c in zip(states, configs, strict=True)]
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except Exception as problem:
        print(traceback.format_exc(), file=sys.stderr)
        return [stand_in_record(s, problem, c) for s, c in zip(states, configs, strict=True)]


def run_protocol(state: Any, config: Config, protocol: Protocol, sweep: Sweep, group: str) -> list[Record]:
    """One job of a protocol: its trials and final runs. A trial that fails is a point without merit."""
    place = sweep_progress.place_of(Path(state.sweep.dir), int(state.job.num))
    done = {"trial": 0, "final": 0}

    def train_point(configs: list[Config]) -> list[Record]:
        kind, of = ("final", f" of {protocol.seeds}") if configs[0].protocol else ("trial", f" of {protocol.trials}")
        for trained in configs:
            data, number = trained.data, f" {done[kind] + 1}{of}"
            if data.class_group is not None and trained.protocol:
                own = " by itself" if data.class_scope == "own" else ""
                kind, number = "learning", f" group {data.class_group} of {data.groups}{own}: {trained.method.name}"
            done[kind] = done.get(kind, 0) + 1
            point = f"seed={trained.seed}" if trained.protocol else _point(trained, sweep.grid)
            together = " (together)" if len(configs) > 1 else ""
            print(f"{place}, {kind}{number}{': ' if kind != 'learning' else ' '}{point}{together}", flush=True)
        states = [state] * len(configs)
        return with_stand_ins(states, configs, lambda: train_configs(configs, group, sweep.retry))

    def carry_out() -> list[Record]:
        if "torch" not in sys.modules:
            look_before_torch(config)
        if config.trainer.progress:
            doing_import("torch")
        from peftbench.sweeps.protocol import PROTOCOLS

        return PROTOCOLS[protocol.name](config, protocol, sweep, train_point)

    return with_stand_ins([state], [config], carry_out)


def _point(config: Config, grid: Mapping[str, Any] | None) -> str:
    """The values of a trial under the keys of its grid."""
    sections = config.to_dict()
    for name in ("method", "data"):
        sections[name] |= sections[name]["options"]
    words = []
    for key in grid or ():
        section, _, option = key.partition(".")
        words.append(f"{key}={sections[section][option]}")
    return " ".join(words)


def run_waiting_jobs(
    waiting: Sequence[Job], sweep: Sweep, group: str, leave_record: Callable[[Any, Record], None]
) -> None:
    """The jobs that waited, in groups that can be trained in one pass, each with its own record.

    Raises:
        KeyboardInterrupt: one was interrupted.
    """
    from peftbench.sweeps.grouping import arrange_in_groups

    for indices in arrange_in_groups([config for _, config in waiting], sweep.together):
        states = [waiting[i][0] for i in indices]
        configs = [waiting[i][1] for i in indices]
        if len(indices) > 1:
            print(f"jobs {', '.join(str(s.job.num + 1) for s in states)}: together", flush=True)
        begun = time.perf_counter()
        records = with_stand_ins(states, configs, partial(train_configs, configs, group, sweep.retry))
        took = (time.perf_counter() - begun) / len(indices)
        for state, record in zip(states, records, strict=True):
            leave_record(state, record)
            tell_result(state, [record], took)
        if any(r.status == "interrupted" for r in records):
            raise KeyboardInterrupt


def start_line(state: Any, place: str) -> str:
    """Which job begins, of how many, what time is left, and its words, as far as they differ between jobs."""
    sweep = Path(state.sweep.dir)
    left = sweep_progress.time_left(sweep)
    number = sweep_progress.place_of(sweep, int(state.job.num))
    words, varied = list(state.overrides.task), sweep_progress.varied_keys(sweep) or ()
    differing = [word for word in words if word.partition("=")[0] in varied]
    return f"{number}{left and f', {left}'}: {' '.join(differing or words)}{place}"


def tell_result(state: Any, records: Sequence[Record], seconds: float) -> None:
    """Tells what came of a job; a mistake of several jobs is told by the first of them."""
    sweep, number = Path(state.sweep.dir), int(state.job.num)
    sweep_progress.note_end(sweep, number, seconds, records)
    why = next((record.reason for record in records if record.status != "complete" and not record.id), None)
    if why is None or not sweep_progress.was_told(sweep, why):
        print(visible(f"{sweep_progress.place_of(sweep, number)}: {sweep_progress.result(records)}"), flush=True)


def leave_records(sweep: Path, state: Any, records: Sequence[Record]) -> None:
    """Leaves a job's records with its sweep; of several processes of one run the first does."""
    for i, record in enumerate(records):
        trainer = record.config.get("trainer")
        if isinstance(trainer, Mapping) and not _writes(trainer):
            continue
        copy.copy(record).write(sweep / "jobs" / f"{int(state.job.num):05d}.{i:03d}")


def _writes(trainer: Mapping[str, Any]) -> bool:
    """Whether this process is the first, or the only one, of a run with this section `trainer`."""
    try:
        world = world_of(int(trainer["devices"]), int(trainer["nodes"]))
    except UserError:  # of processes that do not agree each writes the same
        return True
    return world is None or world.rank == 0


def stand_in_record(state: Any, problem: Exception, config: Config | None = None) -> Record:
    """The record of a job that ended before it had one; without a config it holds what the job was given.

    What the job's words ask for is refused, as it is of a run alone; data and weights that are not there fail it.
    """
    of_words = isinstance(problem, UserError) and not problem.of and not problem.begun
    status = "refused" if of_words or isinstance(problem, Refusal) else "failed"
    reason = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
    stamps = {
        "mistake": of_words and not isinstance(problem, Refusal),
        "begun": problem.begun if isinstance(problem, UserError) else config is not None,
    }
    if config is not None:
        return Record("", status, config.to_dict(), stamps, reason=reason)
    choices = {k: str(v) for k, v in state.runtime.choices.items() if k in ("method", "backbone", "data")}
    words = list(state.overrides.task)
    seeds = [word.removeprefix("seed=") for word in words if word.startswith("seed=")]
    seed = seeds[-1] if seeds else "0"  # as it was given, also where it is none
    others = [word for word in words if not word.startswith("seed=")]
    return Record("", status, {"choices": choices, "seed": seed, "given": others}, stamps, reason=reason)
