"""The default verb: composes with Hydra, runs one job or a sweep, and shows the table."""

from __future__ import annotations

import copy
import importlib.util
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftbench.cli import jobs, shared_mistakes, sweep_progress
from peftbench.cli.hydra_options import hydra_option, separate
from peftbench.cli.session import Session, active_session, asks_for_sweep, in_first_process
from peftbench.common import terminal
from peftbench.common.config_files import roots
from peftbench.common.errors import Refusal, UserError
from peftbench.common.status_line import no_status_line
from peftbench.common.stopping import endings_as_interrupts, silence_output
from peftbench.common.terminal import visible
from peftbench.common.world import forget_world
from peftbench.config import CONFIGS, Config, validate_study
from peftbench.config.compose import checked, explained, uncomposable
from peftbench.config.overrides import prepare
from peftbench.results import Record, print_table, results_of_record

# Our launchers' files have the names of their plugins' schemas, which Hydra 1.3 then matches, as it should.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

_NO_SWEEP = "{}: only a sweep has runs to train together, or to choose from; start it with peftbench -m."
_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
_OWN_PROCESSES = ("JoblibLauncher", "RayLauncher", "LocalLauncher")
"""Whose workers inherit what Slurm or torchrun said of the process that began the sweep, and are none of its world."""
_SAY_HOW = ("sweep.", "hydra.", "hydra/", "output_dir=")  # of a command's words: they choose no run
_CONTINUE = "the same command goes on with what is left"


def train(arguments: Sequence[str]) -> int:
    """Runs what the arguments ask for; returns the exit status. Raises UserError."""
    _refuse_words(arguments)
    options, overrides = separate(arguments)
    _refuse_nothing_to_run(options, overrides)
    session = Session([*options, *prepare(overrides, roots(arguments), asks_for_sweep(arguments))])
    with endings_as_interrupts():
        try:
            end = _run_hydra(session)
        finally:
            jobs.forget_data()
    if session.mistakes:
        raise session.mistakes[0]
    if session.shared is not None and session.sweep_folder is not None:
        count = sweep_progress.jobs_of(session.sweep_folder)
        of_jobs = f"{count} of {count} jobs" if count else "every job"
        print(f"peftbench: {visible(f'{of_jobs}: {session.shared}')}", file=sys.stderr)
        return 2 if isinstance(session.shared, Refusal) else 1
    records = session.all_records()
    no_status_line()
    try:
        _show(records, end, session.sweep_folder)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # the reader (head, less) went away; rich ends the process then
        silence_output()
    return {"broken": 1, "stopped": 130}.get(end) or _status(records)


def _show(records: list[Record], end: str, sweep: Path | None) -> None:
    """Prints what came of it, and how to go on."""
    together = shared_mistakes.told_together(records, sweep)
    if apart := [record for record in records if record.reason not in together]:
        print_table(apart)
    for why, alike in together.items():
        count = sweep and sweep_progress.jobs_of(sweep)
        print(visible(f"{len(alike)} of {count or len(records)} jobs: {why}"))
    if records:
        _print_boards(records)
        _print_places(records)
    if end == "broken":
        print(f"peftbench: the launcher stopped (above); {_CONTINUE}.", file=sys.stderr)
        return
    failed = [record for record in records if record.status == "failed"]
    if sweep and any(record.id or record.stamps.get("begun") for record in failed):
        print(f"{_CONTINUE}; a run that failed once it had begun is kept as it is:")
        print("sweep.retry=true tries it again.")
    elif sweep and failed:
        print(f"{_CONTINUE}.")
    if end == "stopped":
        print(f"stopped; {_CONTINUE}.")


def _run_hydra(session: Session) -> str:
    """Carries out the jobs; returns `done`, `stopped` by the user or `broken` by a launcher. Raises UserError."""
    with session.active():
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(_run_job)()
            _run_waiting(session)
        except (HydraException, OmegaConfBaseException) as problem:
            raise explained(problem, session.words) from None
        except KeyboardInterrupt:  # of a sweep: what is done is shown all the same
            return "stopped"
        except BrokenPipeError:
            silence_output()
            return "stopped"
        except UserError:
            raise
        except OSError as problem:
            if problem.filename is None:  # what Hydra prints, such as --cfg, went to a full disk
                raise
            place = problem.filename
            if isinstance(problem, FileExistsError | NotADirectoryError) and place and not Path(place).is_dir():
                raise UserError(f"output_dir: {place} cannot be written: it is a file; give a folder.") from None
            raise UserError(f"{place or 'output_dir'}: cannot be written ({problem.strerror}).") from None
        except Exception as problem:  # a launcher's: a worker that died, a job that a cluster lost
            if not session.composed and session.sweep_folder is None:
                raise uncomposable(problem, session.words) from None
            if session.sweep_folder is None:
                raise
            print(traceback.format_exc(), file=sys.stderr)
            return "broken"
    return "done"


def _run_waiting(session: Session) -> None:
    folder, study = session.sweep_folder, session.study
    if session.waiting and folder is not None and study is not None:
        jobs.run_waiting_jobs(
            session.waiting, study, folder.name, lambda state, record: jobs.leave_records(folder, state, [record])
        )


def _run_job(composed: DictConfig) -> float:
    """One job. A sweep goes on after a job that failed; the value is for sweepers: its metric on val, or NaN.

    Nothing else is raised: Hydra would print lines of its own about it, or go on with a sweep that nobody reads.

    Raises:
        KeyboardInterrupt: it was stopped, or nobody reads its output any more.
    """
    try:
        return _carry_out(composed)
    except (BrokenPipeError, SystemExit):
        silence_output()
        raise KeyboardInterrupt from None


def _carry_out(composed: DictConfig) -> float:
    state = HydraConfig.get()
    sweep = Path(state.sweep.dir) if state.mode == RunMode.MULTIRUN else None
    launcher = str(state.launcher.get("_target_", ""))
    place = ""
    if sweep:
        from peftbench.config.resolvers import assign

        if not in_first_process() and launcher.rpartition(".")[2] in _OWN_PROCESSES:
            forget_world()
        place = assign(sweep, launcher, composed)
    try:
        plain = [OmegaConf.to_container(composed[k], resolve=True) for k in ("sweep", "protocol")]
        study, protocol = validate_study(*plain)
        config = checked(composed.copy(), state.runtime.choices)
        if in_first_process():
            active_session().composed = True
        if sweep is None and (protocol.name != "none" or study.together > 1):
            needs_sweep = f"protocol={protocol.name}" if protocol.name != "none" else "sweep.together"
            raise UserError(_NO_SWEEP.format(needs_sweep))
    except (UserError, OmegaConfBaseException) as problem:
        mistake = problem if isinstance(problem, UserError) else explained(problem, state.overrides.task)
        if sweep is None:
            active_session().mistakes.append(mistake)
            return float("nan")
        record = jobs.stand_in_record(state, mistake)
        if not sweep_progress.was_told(sweep, str(mistake)):
            _tell_refused(sweep, int(state.job.num), [jobs.start_line(state, place), sweep_progress.result([record])])
        return _value_of_job(state, sweep, [record])
    if sweep is None:
        return _run_alone(config)
    begun, importing = time.perf_counter(), jobs.importing
    if known := shared_mistakes.known(sweep, config):  # which the job that met it told
        return _value_of_job(state, sweep, [jobs.stand_in_record(state, known, config)])
    _tell_held()
    print(jobs.start_line(state, place), flush=True)
    if protocol.name != "none":
        records = jobs.run_protocol(state, config, protocol, study, sweep.name)
    elif study.together > 1 and launcher.endswith("BasicLauncher"):
        session = active_session()
        session.study = study
        session.waiting.append((copy.deepcopy(state), config))
        return float("nan")
    else:
        records = jobs.with_stand_ins([state], [config], lambda: jobs.train_configs([config], sweep.name, study.retry))
    _end_where_all_would_fail(sweep)
    jobs.tell_result(state, records, time.perf_counter() - begun - (jobs.importing - importing))
    return _value_of_job(state, sweep, records)


def _tell_refused(sweep: Path, number: int, told: Sequence[str]) -> None:
    """Tells that a job's words are refused, once a job begins; where none does, the end of the sweep tells it alone."""
    lines = [told[0], f"{sweep_progress.place_of(sweep, number)}: {told[1]}"]
    if not in_first_process():
        print(visible("\n".join(lines)), flush=True)
        return
    active_session().held += lines
    if active_session().begun:
        _tell_held()


def _tell_held() -> None:
    """Prints what waited for a job to begin."""
    if in_first_process():
        session = active_session()
        session.begun = True
        for line in session.held:
            print(visible(line), flush=True)
        session.held.clear()


def _end_where_all_would_fail(sweep: Path) -> None:
    """Ends a sweep after a mistake that no job of it can escape, by KeyboardInterrupt; in a launcher's process not."""
    if in_first_process() and (mistake := shared_mistakes.of_all_jobs(sweep)):
        active_session().shared = mistake
        raise KeyboardInterrupt


def _run_alone(config: Config) -> float:
    session = active_session()
    if not config.trainer.progress:
        no_status_line()
    try:
        session.records.extend(jobs.train_configs([config], None, True))
    except UserError as mistake:
        session.mistakes.append(mistake)
    return float("nan")


def _value_of_job(state: Any, sweep: Path, records: list[Record]) -> float:
    """The mean of what the runs are judged by, on val; raises KeyboardInterrupt where a run was interrupted."""
    jobs.leave_records(sweep, state, records)
    if any(r.status == "interrupted" for r in records):
        raise KeyboardInterrupt
    values = [r.metrics.get(f"val/{results_of_record(r).metric}", float("nan")) for r in records]
    return sum(values) / len(values) if values else float("nan")


def _refuse_words(arguments: Sequence[str]) -> None:
    """Refuses what the words alone show to be wrong. Raises UserError."""
    of_sweep = asks_for_sweep(arguments)
    for word in arguments:
        key, _, value = word.partition("=")
        if key.lstrip("+~") in ("hydra.launcher", "hydra.sweeper"):
            raise UserError(f"{word}: {key} is a section; one is chosen as {key.replace('.', '/')}=….")
        if key == "sweep.together":
            _refuse_together(word, value, arguments)
        if key == "protocol" and value != "none" and not of_sweep:
            raise UserError(_NO_SWEEP.format(word))
        if key == "hydra/launcher" and value in _EXTRAS:
            extra = _EXTRAS[value]
            plugin = f"hydra_plugins.hydra_{extra.replace('slurm', 'submitit')}_launcher"
            if importlib.util.find_spec(plugin) is None:
                raise UserError(f"{word}: is not installed; pip install 'peftbench[{extra}]'.")


def _refuse_nothing_to_run(options: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuses words that say only how to run, which would train what no one asked for. Raises UserError."""
    given = [option for option in map(hydra_option, options) if option is not None]
    of_runs = [word for word in overrides if not word.lstrip("+~").startswith(_SAY_HOW)]
    if of_runs or any(option.shows for option in given):
        return
    words = " ".join([*options, *overrides])
    if asks_for_sweep(options):
        raise UserError(
            f"{words}: expected what to run in every combination, such as peftbench -m method=linear,lora "
            f"backbone=vit_nano data=digits seed='range(3)'."
        )
    raise UserError(f"{words}: expected key=value too, such as method=lora backbone=vit_nano data=digits.")


def _refuse_together(word: str, value: str, arguments: Sequence[str]) -> None:
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{word}: expected how many runs to train in one pass, such as sweep.together=8.")
    if not asks_for_sweep(arguments):
        raise UserError(_NO_SWEEP.format(word))
    protocol = any(a.startswith(("protocol=", "experiment=vtab1k")) for a in arguments)
    launcher = next((a for a in arguments if a.startswith("hydra/launcher=") and "basic" not in a), None)
    if launcher and not protocol:
        raise UserError(f"{word}: runs that train together share a process; leave {launcher} out.")


def _print_boards(records: list[Record]) -> None:
    """Under a protocol, what its runs say together."""
    done = [r for r in records if r.status == "complete" and r.folder and not r.config["trainer"].get("trial")]
    if not any(r.config.get("protocol") for r in done):
        return
    from peftbench.results.board_tables import group_tables
    from peftbench.results.boards import boards
    from peftbench.results.collect import collect
    from peftbench.results.formats import print_tables
    from peftbench.results.groups import groups_of

    collected = collect([Path(r.folder) for r in done])
    tables = [table for group in groups_of(boards(collected.runs)) for table in group_tables(group)]
    print_tables(tables, terminal.console())


def _print_places(records: list[Record]) -> None:
    done = [r for r in records if r.status == "complete" and r.folder]
    sequences = [r for r in done if "continual" in r.stamps]  # their deltas lie with the groups' runs
    if sequences:
        kept = "record of a sequence" if len(sequences) == 1 else f"records of {len(sequences)} sequences"
        print(f"{kept}: {sequences[0].folder if len(sequences) == 1 else Path(sequences[0].folder).parent}")
        if len(sequences) > 1:
            print(f"what they say together: peftbench report {Path(sequences[0].folder).parent}")
    elif len(done) == 1:
        print(f"record, delta and config: {done[0].folder}")
        if done[0].plan.get("layers"):
            print(f"where the budget went: peftbench layers {done[0].folder}")
    elif done:
        place = Path(done[0].folder).parent
        print(f"records, deltas and configs of {len(done)} runs: {place}")
        print(f"what they say together: peftbench report {place}")


def _status(records: list[Record]) -> int:
    """0 where all went well; refusals in a sweep are answers, unless there is nothing else, and mistakes are none."""
    statuses = {r.status for r in records}
    if "failed" in statuses:
        return 1
    if "interrupted" in statuses:
        return 130
    if statuses == {"refused"}:
        return 2
    return 1 if any(r.stamps.get("mistake") for r in records) else 0
