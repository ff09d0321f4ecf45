"""A sweep's jobs: each is carried out wherever its launcher put it, and leaves its records with the sweep."""

from __future__ import annotations

import atexit
import copy
import gc
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.common.errors import Refusal, UserError
from peftbench.config import Config, Protocol, Sweep
from peftbench.results import Record

Job = tuple[Any, Config]  # Hydra's state of it, and its config


def carry_out(configs: Sequence[Config], group: str | None, retry: bool) -> list[Record]:
    """Runs in this process, or one in several fresh ones. Raises UserError."""
    config = configs[0]
    if config.trainer.devices * config.trainer.nodes > 1 and not _among_ranks():
        from peftbench.cli.processes import launch

        return [launch(config, group, retry)]
    from peftbench.runs.run import run_jointly

    if gc.get_freeze_count() == 0:
        gc.freeze()  # what torch and timm hold is there for good: no collection looks at it in every run
        atexit.register(gc.unfreeze)
    return run_jointly(configs, group, retry)


def _among_ranks() -> bool:
    """Whether srun or torchrun started this process as one of several."""
    return "RANK" in os.environ or "SLURM_PROCID" in os.environ


def safely(states: Sequence[Any], configs: Sequence[Config], work: Callable[[], list[Record]]) -> list[Record]:
    """The records of some work, or a record for each job that says why there is none."""
    try:
        return work()
    except UserError as mistake:
        return [stand_in(s, mistake, c) for s, c in zip(states, configs, strict=True)]
    except Exception as problem:
        print(traceback.format_exc(), file=sys.stderr)
        return [stand_in(s, problem, c) for s, c in zip(states, configs, strict=True)]


def under_protocol(state: Any, config: Config, rule: Protocol, sweep: Sweep, group: str) -> list[Record]:
    """One job of a protocol: its trials and final runs. A trial that fails is a point without merit."""
    from peftbench.sweeps.protocol import vtab1k

    def each(configs: list[Config]) -> list[Record]:
        said = "final" if configs[0].protocol else "trial"
        for own in configs:
            told = f"seed={own.seed}" if own.protocol else _point(own, sweep.grid)
            print(f"job {state.job.num}, {said}: {told}{' (together)' * (len(configs) > 1)}", flush=True)
        return safely([state] * len(configs), configs, lambda: carry_out(configs, group, sweep.retry))

    return safely([state], [config], lambda: vtab1k(config, rule, sweep, each))


def _point(config: Config, grid: Mapping[str, Any] | None) -> str:
    """The values of a trial under the keys of its grid."""
    values = config.to_dict()
    for section in ("method", "data"):
        values[section] |= values[section]["options"]
    return " ".join(f"{k}={values[k.partition('.')[0]][k.partition('.')[2]]}" for k in grid or ())


def together(waiting: Sequence[Job], many: Sweep, group: str, note: Callable[[Any, Record], None]) -> None:
    """The jobs that waited, in groups that can be trained in one pass, each with its own record.

    Raises:
        KeyboardInterrupt: one was interrupted.
    """
    from peftbench.sweeps.grouping import arranged

    for indices in arranged([config for _, config in waiting], many.together):
        states = [waiting[i][0] for i in indices]
        configs = [waiting[i][1] for i in indices]
        if len(indices) > 1:
            print(f"jobs {', '.join(str(s.job.num) for s in states)}: together", flush=True)
        records = safely(states, configs, lambda configs=configs: carry_out(configs, group, many.retry))  # type: ignore[misc]
        for state, record in zip(states, records, strict=True):
            note(state, record)
        if any(r.status == "interrupted" for r in records):
            raise KeyboardInterrupt


def note(sweep: Path, state: Any, records: Sequence[Record]) -> None:
    """Leaves a job's records with its sweep; of several processes of one run the first does."""
    if int(os.environ.get("SLURM_PROCID") or os.environ.get("RANK") or 0):
        return
    for i, record in enumerate(records):
        copy.copy(record).write(sweep / "jobs" / f"{int(state.job.num):05d}.{i:03d}")


def stand_in(state: Any, problem: Exception, config: Config | None = None) -> Record:
    """The record of a job that ended before it had one; without a config it holds what the job was given."""
    status = "refused" if isinstance(problem, Refusal) else "failed"
    reason = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
    if config is not None:
        return Record("", status, config.to_dict(), reason=reason)
    choices = {k: str(v) for k, v in state.runtime.choices.items() if k in ("method", "backbone", "data")}
    words = list(state.overrides.task)
    seed = next((int(o[5:]) for o in words if o.startswith("seed=") and o[5:].isdecimal()), 0)
    return Record("", status, {"choices": choices, "seed": seed, "given": words}, reason=reason)
