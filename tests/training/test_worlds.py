"""Processes that Slurm and torchrun start, or that we start under them: environments made by hand, gloo on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from peftbench.results import Record
from support.documents import blocks, write_files
from support.finished_runs import records_in
from support.places import ROOT

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
    right = record.metrics["test/accuracy"] * 599
    assert right == pytest.approx(round(right), abs=1e-3), "of all 599"
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


PAGE = ROOT / "docs" / "machines.md"
SRUN = """
shift
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_NUM_NODES=$SLURM_NNODES SLURM_PROCID=$task \\
  SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) SLURM_NODEID=$((task / SLURM_NTASKS_PER_NODE)) "$@" &
  tasks+=($!)
done
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""
"""A process for each task, all on this machine."""


@pytest.fixture
def job(tmp_path):
    """The page's batch script as a job of two machines with a task each, with stand-ins for what it calls."""

    def carry_out(words: Sequence[str], srun: str = SRUN) -> subprocess.CompletedProcess[str]:
        (script,) = write_files(PAGE, tmp_path)
        tools = tmp_path / "bin"
        tools.mkdir()
        python = f"exec {sys.executable} -m peftbench"
        for name, text in {"srun": srun, "scontrol": 'echo "scontrol $*"\n', "peftbench": f'{python} "$@"\n'}.items():
            (tools / name).write_text(f"#!/bin/bash\n{text}")
            (tools / name).chmod(0o755)
        batch = SLURM | {
            "JOB_ID": free_port(range(15000, 25000)) - 15000,
            "NNODES": 2,
            "NTASKS": 2,
            "NTASKS_PER_NODE": 1,
        }
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in batch.items()}
        environment |= {"ENVIRONMENT": "BATCH", "PATH": f"{tools}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", str(script), *words], env=environment, capture_output=True, text=True, check=False, timeout=600
        )

    return carry_out


def free_port(ports: Iterable[int] = (0,)) -> int:
    """The first of the ports that nobody uses; of 0 the system chooses one."""
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise AssertionError("every port is in use")


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm's scripts are bash's")
@pytest.mark.parametrize("status", [0, 1, 130])
def test_the_batch_script_puts_a_job_back_that_was_stopped_by_its_time_limit(job, status):
    done = job(["method=linear"], f"exit {status}\n")
    assert done.returncode == status
    assert bool(re.fullmatch(r"scontrol requeue \d+\n", done.stdout)) == (status == 130), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_two_machines_train_one_run_as_the_page_says(tiny, tmp_path, job, launcher):
    """Each process, or torchrun's agent, stands for a machine."""
    words = [*tiny, "method=bitfit", "trainer.accelerator=cpu", f"output_dir={tmp_path / 'outputs'}"]
    if launcher == "srun":
        done = job(words)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        (line,) = (b.text for b in blocks("bash") if b.text.startswith("torchrun "))
        typed = line.replace("\\\n", " ").split()
        words += typed[typed.index("trainer=ddp") :]
        command = [*typed[: typed.index("peftbench") + 1], *words]
        command = [re.sub("(nproc-per-node|trainer.devices)=4", r"\1=1", word) for word in command]
        command = [word.replace("HOST:29400", f"127.0.0.1:{free_port()}") for word in command]
        for status, told in ended(
            *[begun([sys.executable, "-m", "torch.distributed.run", *command[1:]]) for _ in "ab"]
        ):
            assert status == 0, told
    (record,) = records_in(tmp_path / "outputs")
    assert record.status == "complete"
    assert (record.config["trainer"]["nodes"], record.config["trainer"]["devices"]) == (2, 1)
    assert record.stamps["data"]["images"] == {"train": 32, "val": 199, "test": 256}
