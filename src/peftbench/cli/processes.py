"""One run in several processes: fresh ones that read the resolved config, so that a sweep may use them too."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.machine import usable_cores
from peftbench.common.regular_files import text_in
from peftbench.common.status_line import doing
from peftbench.common.stopping import ENDINGS
from peftbench.common.world import forget_world
from peftbench.config import Config
from peftbench.results import Record


def run_in_processes(config: Config, group: str | None, retry: bool = True) -> Record:
    """Starts `trainer.devices` processes on this machine and returns the record that the first wrote.

    Raises:
        UserError: what a process reported, or how one ended that reported nothing.
        KeyboardInterrupt: it was stopped before the first process had begun the run.
    """
    count = config.trainer.devices
    if config.trainer.progress:
        doing(f"starting {count} processes")
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        task = Path(folder) / "config.json"
        task.write_text(json.dumps({"config": config.to_dict(), "group": group, "retry": retry}), encoding="utf-8")
        environment = _environment(count)
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "peftbench.cli.worker", str(task), str(Path(folder) / f"{index}.json")],
                env=environment | {"RANK": str(index), "LOCAL_RANK": str(index)},
            )
            for index in range(count)
        ]
        stopped, first = _wait_for(processes)
        answers = {p.stem: json.loads(text_in(p)) for p in Path(folder).glob("[0-9]*.json")}
    if first is not None and str(first) not in answers and not stopped:  # what the others say is its consequence
        raise _lost(first, processes[first].returncode, count)
    for answer in answers.values():
        if "error" in answer:
            mistake = UserError(answer["error"])
            mistake.of, mistake.begun = answer["of"], answer["begun"]
            raise mistake
    if record := answers.get("0", {}).get("record"):  # the first process's; it alone writes what a run leaves
        return Record(**record)
    if stopped:
        raise KeyboardInterrupt
    raise UserError(f"the processes of this run ended with status {[p.returncode for p in processes]}; see above.")


def _environment(count: int) -> dict[str, str]:
    """That of our processes, whose world is their own: neither Slurm's nor what somebody left in RANK."""
    environment = dict(os.environ)
    forget_world(environment)
    threads = environment.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // count))
    return environment | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": threads,
    }


def _lost(index: int, status: int, count: int) -> UserError:
    """What is told of a process that ended without a word."""
    how = f"ended with status {status}"
    if status < 0:
        try:
            how = f"was killed ({signal.Signals(-status).name})"
        except ValueError:
            how = f"was killed (signal {-status})"
    memory = "; the system does that where memory is short" if status == -getattr(signal, "SIGKILL", 9) else ""
    problem = UserError(
        f"process {index} of {count} {how} in the midst of the run{memory}; the same command goes on from the last "
        f"checkpoint."
    )
    problem.begun = True
    return problem


def _wait_for(processes: list[subprocess.Popen]) -> tuple[bool, int | None]:
    """Until all have ended; when one fails the others, who would wait for it, are ended.

    SIGTERM and SIGHUP are handed on as SIGTERM. Says whether the user or a scheduler asked for the end, and which
    process failed first.
    """
    stopped, first = False, None

    def hand_on(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        for process in processes:
            process.terminate()

    before = {n: signal.signal(n, hand_on) for n in ENDINGS if signal.getsignal(n) != signal.SIG_IGN}
    try:
        while any(p.poll() is None for p in processes):
            first = _first_failed(processes)
            if first is not None:
                _end_others(processes)
                break
            time.sleep(0.1)
        first = _first_failed(processes) if first is None else first
    except KeyboardInterrupt:  # they got it too, and save before they end
        stopped = True
        for process in processes:
            process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return stopped, first


def _first_failed(processes: list[subprocess.Popen]) -> int | None:
    """Of those that failed one that was killed, if any: the others may have ended because of it."""
    failed = {i: p.returncode for i, p in enumerate(processes) if p.poll()}
    return min(failed, key=lambda i: (failed[i] > 0, i)) if failed else None


def _end_others(processes: list[subprocess.Popen], seconds: float = 5.0) -> None:
    """Gives the others time to report the same, as they may be about to, and asks them to end."""
    for ask in (None, subprocess.Popen.terminate):
        deadline = time.monotonic() + seconds
        for process in processes:
            if ask is not None and process.poll() is None:
                ask(process)
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
