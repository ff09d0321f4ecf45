"""A sweep's jobs: each is carried out wherever its launcher put it, and leaves its records with the sweep."""

from __future__ import annotations

import atexit
import copy
import gc
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from peftbench.common.errors import Refusal, UserError
from peftbench.config import Config, Protocol, Sweep
from peftbench.results import Record

Job = tuple[Any, Config]  # Hydra's state of it, and its config


def train_configs(configs: Sequence[Config], group: str | None, retry: bool) -> list[Record]:
    """Runs in this process, or one in several fresh ones. Raises UserError."""
    config = configs[0]
    if config.trainer.devices * config.trainer.nodes > 1 and not _is_one_of_several_processes():
        from peftbench.cli.processes import run_in_processes

        return [run_in_processes(config, group, retry)]
    from peftbench.runs.run import run_jointly

    _pass_over_imports()
    return run_jointly(configs, group, retry)


@cache
def _pass_over_imports() -> None:
    """What torch and timm hold is there for good: from here on no garbage collection of a run looks at it."""
    gc.freeze()
    atexit.register(gc.unfreeze)


def _is_one_of_several_processes() -> bool:
    """Whether srun or torchrun started this process as one of several of a run."""
    return "RANK" in os.environ or "SLURM_PROCID" in os.environ


def with_stand_ins(states: Sequence[Any], configs: Sequence[Config], work: Callable[[], list[Record]]) -> list[Record]:
    """The records of some work, or a record for each job that says why there is none."""
    try:
        return work()
    except UserError as mistake:
        return [stand_in_record(s, mistake, c) for s, c in zip(states, configs, strict=True)]
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except Exception as problem:
        print(traceback.format_exc(), file=sys.stderr)
        return [stand_in_record(s, problem, c) for s, c in zip(states, configs, strict=True)]


def run_protocol(state: Any, config: Config, protocol: Protocol, sweep: Sweep, group: str) -> list[Record]:
    """One job of a protocol: its trials and final runs. A trial that fails is a point without merit."""
    from peftbench.sweeps.protocol import carry_out_vtab1k

    def train_point(configs: list[Config]) -> list[Record]:
        kind = "final" if configs[0].protocol else "trial"
        for trained in configs:
            point = f"seed={trained.seed}" if trained.protocol else _point(trained, sweep.grid)
            together = " (together)" if len(configs) > 1 else ""
            print(f"job {state.job.num}, {kind}: {point}{together}", flush=True)
        states = [state] * len(configs)
        return with_stand_ins(states, configs, lambda: train_configs(configs, group, sweep.retry))

    return with_stand_ins([state], [config], lambda: carry_out_vtab1k(config, protocol, sweep, train_point))


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
            print(f"jobs {', '.join(str(s.job.num) for s in states)}: together", flush=True)
        records = with_stand_ins(states, configs, partial(train_configs, configs, group, sweep.retry))
        for state, record in zip(states, records, strict=True):
            leave_record(state, record)
        if any(r.status == "interrupted" for r in records):
            raise KeyboardInterrupt


def leave_records(sweep: Path, state: Any, records: Sequence[Record]) -> None:
    """Leaves a job's records with its sweep; of several processes of one run the first does."""
    if int(os.environ.get("SLURM_PROCID") or os.environ.get("RANK") or 0):
        return
    for i, record in enumerate(records):
        copy.copy(record).write(sweep / "jobs" / f"{int(state.job.num):05d}.{i:03d}")


def stand_in_record(state: Any, problem: Exception, config: Config | None = None) -> Record:
    """The record of a job that ended before it had one; without a config it holds what the job was given."""
    status = "refused" if isinstance(problem, Refusal) else "failed"
    reason = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
    if config is not None:
        return Record("", status, config.to_dict(), reason=reason)
    choices = {k: str(v) for k, v in state.runtime.choices.items() if k in ("method", "backbone", "data")}
    words = list(state.overrides.task)
    seeds = [word.removeprefix("seed=") for word in words if word.startswith("seed=")]
    seed = next((int(text) for text in seeds if text.isdecimal()), 0)
    return Record("", status, {"choices": choices, "seed": seed, "given": words}, reason=reason)
