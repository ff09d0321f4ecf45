"""The default verb: composes with Hydra, runs one job or a sweep, and shows the table."""

from __future__ import annotations

import contextlib
import copy
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
from peftbench.errors import Refusal, UserError, nearest
from peftbench.results import Record, render


class Waiting(list[tuple[Any, Config]]):
    """Jobs of a sweep that are carried out when all are known, up to `size` of them together."""

    size = 1


_JOBS: list[Record] = []
_SWEEP: list[Path] = []
_MISTAKES: list[UserError] = []
_WAITING = Waiting()


def run(arguments: list[str]) -> int:
    """Runs what the arguments ask for; returns the exit status."""
    size, rest = _together(arguments)
    words = prepare(rest)
    _JOBS.clear()
    _WAITING.clear()
    _WAITING.size = size
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
        _carry_out_waiting()
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
        config = checked(composed.copy(), state.runtime.choices)
    except (UserError, OmegaConfBaseException) as problem:
        mistake = problem if isinstance(problem, UserError) else explained(problem, state.overrides.task)
        if sweep is None:
            _MISTAKES.append(mistake)
            return float("nan")
        return _noted(state, sweep, _stand_in(state, mistake))
    if sweep and _WAITING.size > 1:
        _WAITING.append((copy.deepcopy(state), config))
        return float("nan")
    try:
        record = _carry_out([config], sweep.name if sweep else None)[0]
    except UserError as mistake:
        if sweep is None:
            _MISTAKES.append(mistake)
            return float("nan")
        record = _stand_in(state, mistake)
    except Exception as problem:
        print(traceback.format_exc(), file=sys.stderr)
        record = _stand_in(state, problem)
    return _noted(state, sweep, record)


def _noted(state: Any, sweep: Path | None, record: Record) -> float:
    if sweep is None:
        _JOBS.append(record)
    else:
        jobs = sweep / "jobs"
        jobs.mkdir(parents=True, exist_ok=True)
        record.write(jobs / f"{int(state.job.num):05d}")
        if record.status == "interrupted":
            raise KeyboardInterrupt
    return record.metrics.get("val/accuracy", float("nan"))


def _together(arguments: list[str]) -> tuple[int, list[str]]:
    """The value of sweep.together, and the other arguments. Raises UserError."""
    given = [a for a in arguments if a.startswith("sweep.")]
    for word in given:
        key, _, value = word.partition("=")
        if key != "sweep.together":
            raise UserError(f"{key}: there is no such key{nearest(key, ['sweep.together'])}; known: sweep.together.")
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"{word}: expected how many runs to train in one pass, such as sweep.together=8.")
        if not {"-m", "--multirun"} & set(arguments):
            raise UserError(f"{word}: only a sweep has runs to train together; start it with peftbench -m.")
        if launcher := next((a for a in arguments if a.startswith("hydra/launcher=") and "basic" not in a), None):
            raise UserError(f"{word}: runs that train together share a process; leave {launcher} out.")
    size = int(given[-1].partition("=")[2]) if given else 1
    return size, [a for a in arguments if a not in given]


def _carry_out_waiting() -> None:
    """The jobs that waited, in groups that can be trained in one pass, each with its own record."""
    if not _WAITING:
        return
    from peftbench.together import groups, signature

    sweep = _SWEEP[0]
    kinds: list[Any] = []
    for _, config in _WAITING:
        try:
            kinds.append(signature(config))
        except UserError:  # said again, and recorded, when its turn comes
            kinds.append(None)
    for indices in groups(kinds, _WAITING.size):
        states = [_WAITING[i][0] for i in indices]
        if len(indices) > 1:
            print(f"jobs {', '.join(str(s.job.num) for s in states)}: together", flush=True)
        try:
            records = _carry_out([_WAITING[i][1] for i in indices], sweep.name)
        except UserError as mistake:
            records = [_stand_in(s, mistake) for s in states]
        except Exception as problem:
            print(traceback.format_exc(), file=sys.stderr)
            records = [_stand_in(s, problem) for s in states]
        stopped = [r for r in records if r.status == "interrupted"]
        for state, record in zip(states, records, strict=True):
            with contextlib.suppress(KeyboardInterrupt):
                _noted(state, sweep, record)
        if stopped:
            raise KeyboardInterrupt


def _carry_out(configs: list[Config], group: str | None) -> list[Record]:
    config = configs[0]
    if (
        config.trainer.devices * config.trainer.nodes > 1
        and "RANK" not in os.environ
        and "SLURM_PROCID" not in os.environ
    ):
        from peftbench.cli.processes import launch

        return [launch(config, group)]
    from peftbench.pipeline import run_together

    return run_together(configs, group)


def _stand_in(state: Any, problem: Exception) -> Record:
    """The record of a job that ended before it had one."""
    status = "refused" if isinstance(problem, Refusal) else "failed"
    reason = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
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
