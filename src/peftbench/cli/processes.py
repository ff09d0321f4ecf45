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
from peftbench.common.status_line import doing
from peftbench.common.stopping import ENDINGS
from peftbench.config import Config
from peftbench.results import Record


def run_in_processes(config: Config, group: str | None, retry: bool = True) -> Record:
    """Starts `trainer.devices` processes on this machine and returns the record that the first wrote.

    Raises:
        UserError: what a process reported; or several nodes, which srun or torchrun starts.
        KeyboardInterrupt: it was stopped before the first process had begun the run.
    """
    if config.trainer.nodes > 1:
        raise UserError(
            f"trainer.nodes={config.trainer.nodes}: start the same command on every node with srun or torchrun."
        )
    count = config.trainer.devices
    if config.trainer.progress:
        doing(f"starting {count} processes")
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        task = Path(folder) / "config.json"
        task.write_text(json.dumps({"config": config.to_dict(), "group": group, "retry": retry}), encoding="utf-8")
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(count),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
        }
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "peftbench.cli.worker", str(task), str(Path(folder) / f"{index}.json")],
                env=os.environ | shared | {"RANK": str(index), "LOCAL_RANK": str(index)},
            )
            for index in range(count)
        ]
        stopped = _wait_for(processes)
        answers = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in Path(folder).glob("[0-9]*.json")}
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


def _wait_for(processes: list[subprocess.Popen]) -> bool:
    """Until all have ended; when one fails the others, who would wait for it, are ended.

    SIGTERM and SIGHUP are handed on as SIGTERM. Says whether the user or a scheduler asked for the end.
    """
    stopped = False

    def hand_on(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        for process in processes:
            process.terminate()

    before = {n: signal.signal(n, hand_on) for n in ENDINGS if signal.getsignal(n) != signal.SIG_IGN}
    try:
        while any(p.poll() is None for p in processes):
            if any(p.poll() for p in processes):
                time.sleep(5)  # the others may be about to report the same
                break
            time.sleep(0.1)
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
    return stopped


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
