"""The default verb: composes with Hydra, runs one job or a sweep, and shows the table."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
import traceback
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from peftbench.cli import jobs
from peftbench.common.errors import UserError
from peftbench.config import CONFIGS, Config, validate_study
from peftbench.config import Sweep as Many
from peftbench.config.compose import checked, explained
from peftbench.config.overrides import options_first, prepare
from peftbench.results import Record, print_table, results_of_record

# Our launchers' files have the names of their plugins' schemas, which Hydra 1.3 then matches, as it should.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

_JOBS: list[Record] = []
_SWEEP: list[Path] = []
_MISTAKES: list[UserError] = []
_MANY: list[Many] = []  # what this sweep was told of all its runs
_WAITING: list[jobs.Job] = []  # jobs of a sweep that are carried out when all are known


def run(arguments: list[str]) -> int:
    """Runs what the arguments ask for; returns the exit status."""
    _sensible(arguments)
    words = options_first(prepare(arguments))
    for kept in (_JOBS, _WAITING, _SWEEP, _MISTAKES, _MANY):
        kept.clear()
    GlobalHydra.instance().clear()
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
    os.environ["PEFTBENCH_SWEEP"] = stamp
    before, sys.argv = sys.argv, ["peftbench", *words, *_place(words, stamp)]
    # Hydra then raises instead of printing its own message and leaving.
    full, os.environ["HYDRA_FULL_ERROR"] = os.environ.get("HYDRA_FULL_ERROR"), "1"
    stopped, broken = False, False
    try:
        app = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(_job)
        app()
        if _WAITING:
            sweep, many = _SWEEP[0], _MANY[-1]
            jobs.together(_WAITING, many, sweep.name, lambda state, record: jobs.note(sweep, state, [record]))
    except (HydraException, OmegaConfBaseException) as problem:
        raise explained(problem, words) from None
    except KeyboardInterrupt:  # of a sweep: what is done is shown all the same
        stopped = True
    except (BrokenPipeError, UserError):
        raise
    except OSError as problem:
        raise UserError(f"{problem.filename or 'output_dir'}: cannot be written ({problem.strerror}).") from None
    except Exception:  # a launcher's: a worker that died, a job that a cluster lost
        if not _SWEEP:
            raise
        print(traceback.format_exc(), file=sys.stderr)
        broken = True
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
        print_table(records)
        _board(records)
        _where(records)
    if broken:
        print("peftbench: the launcher stopped (above); the same command goes on with what is left.", file=sys.stderr)
        return 1
    if _SWEEP and any(r.status == "failed" for r in records):
        print("the same command goes on with what is left; a run that failed once it had begun is kept as it is:")
        print("sweep.retry=true tries it again.")
    if stopped:
        print("stopped; the same command goes on with what is left.")
        return 130
    return _status(records)


class Sweep(Callback):
    """Notes where the sweep's jobs leave their records; they may run in other processes, or on other machines."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _SWEEP[:] = [Path(config.hydra.sweep.dir)]


def _job(composed: DictConfig) -> float:
    """One job. A sweep goes on after a job that failed; the value is for sweepers: its metric on val, or NaN.

    Nothing is raised: Hydra would print lines of its own about it.
    """
    state = HydraConfig.get()
    sweep = Path(state.sweep.dir) if state.mode == RunMode.MULTIRUN else None
    launcher = str(state.launcher.get("_target_", ""))
    if sweep:
        from peftbench.config.resolvers import assign

        place = assign(sweep, launcher, composed)
        print(f"job {state.job.num}: {' '.join(state.overrides.task)}{place}", flush=True)
    try:
        plain = [OmegaConf.to_container(composed[k], resolve=True) for k in ("sweep", "protocol")]
        many, rule = validate_study(*plain)
        config = checked(composed.copy(), state.runtime.choices)
        if sweep is None and (rule.name != "none" or many.together > 1):
            raise UserError(_NO_SWEEP.format(f"protocol={rule.name}" if rule.name != "none" else "sweep.together"))
    except (UserError, OmegaConfBaseException) as problem:
        mistake = problem if isinstance(problem, UserError) else explained(problem, state.overrides.task)
        if sweep is None:
            _MISTAKES.append(mistake)
            return float("nan")
        return _noted(state, sweep, [jobs.stand_in(state, mistake)])
    if sweep is None:
        return _single(config)
    if rule.name != "none":
        return _noted(state, sweep, jobs.under_protocol(state, config, rule, many, sweep.name))
    if many.together > 1 and launcher.endswith("BasicLauncher"):
        _MANY.append(many)
        _WAITING.append((copy.deepcopy(state), config))
        return float("nan")
    records = jobs.safely([state], [config], lambda: jobs.carry_out([config], sweep.name, many.retry))
    return _noted(state, sweep, records)


def _place(words: list[str], stamp: str) -> list[str]:
    """Where a sweep's jobs meet, said as a word, which reaches machines that this process's environment does not."""
    if not _of_many(words) or any(w.startswith("hydra.sweep.dir=") for w in words):
        return []
    return [f"hydra.sweep.dir=${{output_dir}}/.sweeps/{stamp}"]


def _of_many(words: list[str]) -> bool:
    return bool({"-m", "--multirun"} & set(words)) or any(w.startswith("experiment=") for w in words)


_NO_SWEEP = "{}: only a sweep has runs to train together, or to choose from; start it with peftbench -m."


def _single(config: Config) -> float:
    try:
        _JOBS.extend(jobs.carry_out([config], None, True))
    except UserError as mistake:
        _MISTAKES.append(mistake)
    return float("nan")


def _noted(state: Any, sweep: Path, records: list[Record]) -> float:
    """The mean of what the runs are judged by, on val; raises KeyboardInterrupt where a run was interrupted."""
    jobs.note(sweep, state, records)
    if any(r.status == "interrupted" for r in records):
        raise KeyboardInterrupt
    reached = [r.metrics.get(f"val/{results_of_record(r).metric}", float("nan")) for r in records]
    return sum(reached) / len(reached) if reached else float("nan")


_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


def _sensible(arguments: list[str]) -> None:
    """Refuses what the words alone show to be wrong. Raises UserError."""
    many = _of_many(arguments)
    for word in arguments:
        key, _, value = word.partition("=")
        if key == "sweep.together":
            if not value.isdecimal() or int(value) < 1:
                raise UserError(f"{word}: expected how many runs to train in one pass, such as sweep.together=8.")
            if not many:
                raise UserError(_NO_SWEEP.format(word))
            protocol = any(a.startswith(("protocol=", "experiment=vtab1k")) for a in arguments)
            launcher = next((a for a in arguments if a.startswith("hydra/launcher=") and "basic" not in a), None)
            if launcher and not protocol:
                raise UserError(f"{word}: runs that train together share a process; leave {launcher} out.")
        if key == "protocol" and value != "none" and not many:
            raise UserError(_NO_SWEEP.format(word))
        if key == "hydra/launcher" and value in _EXTRAS:
            extra = _EXTRAS[value]
            plugin = f"hydra_plugins.hydra_{extra.replace('slurm', 'submitit')}_launcher"
            if importlib.util.find_spec(plugin) is None:
                raise UserError(f"{word}: is not installed; pip install 'peftbench[{extra}]'.")


def _collect() -> list[Record]:
    """The records of this command: its own job's, or those that the jobs of its sweep left, wherever they ran."""
    if not _SWEEP:
        return list(_JOBS)
    found = []
    for path in sorted((_SWEEP[0] / "jobs").glob("*/result.json")):
        content = json.loads(path.read_text())
        found.append(Record(**content, folder=str(_SWEEP[0].parents[1] / content["id"]) if content["id"] else ""))
    once = {r.id or i: r for i, r in enumerate(found)}  # jobs that came to the same run
    return list(once.values())


def _board(records: list[Record]) -> None:
    """Under a protocol, what its runs say together."""
    done = [r for r in records if r.status == "complete" and r.folder]
    if not any(r.config.get("protocol") for r in done):
        return
    from peftbench.results.board_tables import board_tables
    from peftbench.results.boards import boards
    from peftbench.results.collect import collect
    from peftbench.results.formats import print_tables

    collected = collect([Path(r.folder) for r in done])
    tables = [table for i, board in enumerate(boards(collected.runs)) for table in board_tables(board, i, False)]
    print_tables(tables, Console())


def _where(records: list[Record]) -> None:
    done = [r for r in records if r.status == "complete" and r.folder]
    if len(done) == 1:
        print(f"record, delta and config: {done[0].folder}")
        if done[0].plan.get("layers"):
            print(f"where the budget went: peftbench layers {done[0].folder}")
    elif done:
        place = Path(done[0].folder).parent
        print(f"records, deltas and configs of {len(done)} runs: {place}")
        print(f"what they say together: peftbench report {place}")


def _status(records: list[Record]) -> int:
    """0 where all went well; refusals in a sweep are answers, unless there is nothing else."""
    statuses = {r.status for r in records}
    if "failed" in statuses:
        return 1
    if "interrupted" in statuses:
        return 130
    return 2 if statuses == {"refused"} else 0
