"""Processes that Slurm and torchrun start, or that we start under them: environments made by hand, gloo on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from peftbench.results import Record
from support.finished_runs import records_in

SLURM = {"JOB_ID": 1, "JOB_NAME": "job", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
MAIN = [sys.executable, "-m", "peftbench.cli.main"]


def begun(command: Sequence[str], slurm: dict | None = None) -> subprocess.Popen:
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in (slurm or {}).items()}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(*processes: subprocess.Popen) -> list[tuple[int, str]]:
    told = [process.communicate(timeout=600)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def record_of_all_images(folder: Path) -> Record:
    (record,) = records_in(folder)
    assert record.status == "complete", record.reason
    assert record.stamps["data"]["images"]["test"] == 599
    assert (record.metrics["test/accuracy"] * 599) % 1 == pytest.approx(0, abs=1e-3), "of all 599"
    return record


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system does not tell which process is which")
def test_a_batch_script_without_srun_trains_in_two_processes_of_which_one_is_killed(tiny, tmp_path):
    """Slurm's variables tell of one process: the run begins two of its own, and tests all images."""
    words = [*tiny, "method=bitfit", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    words += ["trainer.max_batches=null", "trainer.epochs=2", "trainer.checkpoint_seconds=0"]
    command = [*MAIN, *words, f"output_dir={tmp_path}"]
    process = begun(command, SLURM)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("*/checkpoint.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(second_worker(process.pid), signal.SIGKILL)
    ((status, told),) = ended(process)
    assert status == 2, told
    assert "process 1 of 2 was killed (SIGKILL) in the midst of the run; the system does that" in told
    (path,) = tmp_path.glob("*/result.json")
    stopped = json.loads(path.read_text())
    assert stopped["status"] == "interrupted", stopped["reason"]
    assert "another of its 2 processes ended; the same command resumes it from its last checkpoint" in stopped["reason"]
    ((status, told),) = ended(begun(command, SLURM))
    assert status == 0, told
    record = record_of_all_images(tmp_path)
    assert record.costs["time"]["sessions"] == 2
    assert len(record.history) == 2


def second_worker(parent: int) -> int:
    """The process with RANK=1 among the children of `parent`."""
    (found,) = (
        int(child)
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_two_machines_train_one_run(tiny, tmp_path, launcher):
    """Each process, or torchrun's agent, stands for a machine."""
    words = [*tiny, "method=bitfit", "trainer=ddp", "trainer.devices=1", "trainer.nodes=2", "trainer.accelerator=cpu"]
    words += ["trainer.max_batches=2", f"output_dir={tmp_path}"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines = []
    for node in (0, 1):
        if launcher == "srun":
            step = {"STEP_ID": 0, "NTASKS": 2, "STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 2, "PROCID": node, "NODEID": node}
            step |= {"JOB_ID": port}  # of which the port is made
            machines.append(begun([*MAIN, *words], SLURM | step))
        else:
            agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
            agent += [f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"]
            machines.append(begun([*agent, "-m", "peftbench", *words]))
    for status, told in ended(*machines):
        assert status == 0, told
    (record,) = records_in(tmp_path)
    assert record.status == "complete"
    assert record.stamps["data"]["images"] == {"train": 32, "val": 199, "test": 256}
