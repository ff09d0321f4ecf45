"""The default verb: composes with Hydra, runs one job or a sweep, and shows the table."""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from peftbench.cli.compose import checked, explained
from peftbench.cli.overrides import prepare
from peftbench.config import CONFIGS, Config
from peftbench.errors import Refusal, UserError
from peftbench.results import Record, render

_JOBS: list[Record] = []
_SWEEP: list[Path] = []
_MISTAKES: list[UserError] = []


def run(arguments: list[str]) -> int:
    """Runs what the arguments ask for; returns the exit status."""
    words = prepare(arguments)
    _JOBS.clear()
    _SWEEP.clear()
    _MISTAKES.clear()
    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, ["peftbench", *words]
    os.environ["PEFTBENCH_SWEEP"] = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
    # Hydra then raises instead of printing its own message and leaving.
    full, os.environ["HYDRA_FULL_ERROR"] = os.environ.get("HYDRA_FULL_ERROR"), "1"
    stopped = False
    try:
        app = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(_job)
        app()
    except (HydraException, OmegaConfBaseException) as problem:
        raise explained(problem, words) from None
    except KeyboardInterrupt:  # of a sweep: what is done is shown all the same
        stopped = True
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise UserError(f"{problem.filename or 'output_dir'}: cannot be written ({problem.strerror}).") from None
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
    if _MISTAKES:
        raise _MISTAKES[0]
    records = _collect()
    if records:
        render(records)
        _where(records)
    if stopped:
        print("stopped; the same command goes on with what is left.")
        return 130
    return _status(records)


class Sweep(Callback):
    """Notes where the sweep's jobs leave their records; they may run in other processes, or on other machines."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _SWEEP[:] = [Path(config.hydra.sweep.dir)]


def _job(composed: DictConfig) -> float:
    """One job. A sweep goes on after a job that failed; the value is for sweepers: validation accuracy, or NaN.

    Nothing is raised: Hydra would print lines of its own about it.
    """
    state = HydraConfig.get()
    sweep = Path(state.sweep.dir) if state.mode == RunMode.MULTIRUN else None
    if sweep:
        print(f"job {state.job.num}: {' '.join(state.overrides.task)}", flush=True)
    try:
        record = _carry_out(checked(composed.copy(), state.runtime.choices), sweep.name if sweep else None)
    except (UserError, OmegaConfBaseException) as problem:
        mistake = problem if isinstance(problem, UserError) else explained(problem, state.overrides.task)
        if sweep is None:
            _MISTAKES.append(mistake)
            return float("nan")
        record = _stand_in(state, "refused" if isinstance(mistake, Refusal) else "failed", str(mistake))
    except Exception as problem:
        print(traceback.format_exc(), file=sys.stderr)
        record = _stand_in(state, "failed", f"{type(problem).__name__}: {problem}")
    if sweep:
        jobs = sweep / "jobs"
        jobs.mkdir(parents=True, exist_ok=True)
        record.write(jobs / f"{int(state.job.num):05d}")
        if record.status == "interrupted":
            raise KeyboardInterrupt
    else:
        _JOBS.append(record)
    return record.metrics.get("val/accuracy", float("nan"))


def _carry_out(config: Config, group: str | None) -> Record:
    if (
        config.trainer.devices * config.trainer.nodes > 1
        and "RANK" not in os.environ
        and "SLURM_PROCID" not in os.environ
    ):
        from peftbench.cli.processes import launch

        return launch(config, group)
    from peftbench.pipeline import run as carry_out

    return carry_out(config, group)


def _stand_in(state: Any, status: str, reason: str) -> Record:
    """The record of a job that ended before it had one."""
    choices = {k: str(v) for k, v in state.runtime.choices.items() if k in ("method", "backbone", "data")}
    seed = next((int(o[5:]) for o in state.overrides.task if o.startswith("seed=") and o[5:].isdecimal()), 0)
    return Record("", status, {"choices": choices, "seed": seed}, reason=reason)


def _collect() -> list[Record]:
    """The records of this command: its own job's, or those that the jobs of its sweep left, wherever they ran."""
    if not _SWEEP:
        return list(_JOBS)
    found = sorted((_SWEEP[0] / "jobs").glob("*/result.json"))
    records = [json.loads(p.read_text()) for p in found]
    return [Record(**r, folder=str(_SWEEP[0].parents[1] / r["id"]) if r["id"] else "") for r in records]


def _where(records: list[Record]) -> None:
    done = [r for r in records if r.status == "complete" and r.folder]
    if len(done) == 1:
        print(f"record, delta and config: {done[0].folder}")
        if done[0].plan:
            print(f"where the budget went: peftbench layers {done[0].folder}")
    elif done:
        print(f"records, deltas and configs of {len(done)} runs: {Path(done[0].folder).parent}")


def _status(records: list[Record]) -> int:
    """0 where all went well; refusals in a sweep are answers, unless there is nothing else."""
    statuses = {r.status for r in records}
    if "failed" in statuses:
        return 1
    if "interrupted" in statuses:
        return 130
    return 2 if statuses == {"refused"} else 0
