"""Processes come together before a run, or are told whom they wait for."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from peftbench import UserError
from peftbench.common.world import World
from peftbench.runs.run import run
from peftbench.training import processes_together, rendezvous
from support.runs import compose

PAIR = ["method=linear", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.meet_seconds=0.2"]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def no_world(monkeypatch):
    """Each test begins as a process that has met nobody."""
    monkeypatch.setattr(rendezvous, "_met", rendezvous._Meeting())


@pytest.mark.parametrize(
    ("rank", "started_by", "missing", "advice"),
    [(0, "srun", 1, "not in a batch script alone"), (1, "RANK", 0, "unset RANK and WORLD_SIZE")],
)
def test_a_process_that_does_not_come_is_named_after_a_while(tmp_path, port, rank, started_by, missing, advice):
    world = World(rank, 2, rank, 0, started_by, "127.0.0.1", port)
    told = rf"process {rank} of 2: waiting at 127.0.0.1:{port} for process {missing}, in vain for 0 s .*{advice}"
    with pytest.raises(UserError, match=told), processes_together(world, [compose(tmp_path, *PAIR)]):
        pytest.fail("it went on alone")


def test_a_run_left_with_another_ones_variables_ends_with_nothing_written(tmp_path, monkeypatch, port):
    """RANK and WORLD_SIZE of something that has ended tell of two processes, and there is one."""
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match=r"process 1 of 2: waiting at .*; unset RANK"):
        run(compose(tmp_path, *PAIR))
    assert not list(tmp_path.iterdir())


def test_processes_of_two_runs_do_not_train_together(tmp_path, port):
    """As where workers of two jobs find the same variables."""
    configs = [compose(tmp_path, *PAIR, "trainer.meet_seconds=30", f"seed={seed}") for seed in (0, 1)]

    def come() -> None:
        store = dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=30))
        dist.PrefixStore("peftbench0", store).set("run1/1", rendezvous._digest([configs[1]]))

    other = threading.Thread(target=come)
    other.start()
    told = "process 0 of 2 carries out another run than process 1, with which it would train; give all of them"
    with pytest.raises(UserError, match=told), processes_together(World(0, 2, port=port), [configs[0]]):
        pytest.fail("it trained with the process of another run")
    other.join()


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"127.0.0.1:{port}: process 0 of 2 cannot listen there for the other 1 .*give another MASTER_PORT"
        with (
            pytest.raises(UserError, match=told),
            processes_together(World(0, 2, port=port), [compose(tmp_path, *PAIR)]),
        ):
            pytest.fail("it went on alone")


@pytest.mark.parametrize(
    ("here", "visible", "told"),
    [
        (0, None, r"trainer.accelerator=gpu trainer.devices=2: there is no GPU; give trainer=auto trainer.devices=1"),
        (1, "3", r"this process sees 1 GPU \(CUDA_VISIBLE_DEVICES=3\); give trainer=auto trainer.devices=1, or"),
    ],
)
def test_more_gpus_than_there_are_is_told_before_anything_is_written(tmp_path, monkeypatch, here, visible, told):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for accelerator in ("gpu",) if here == 0 else ("gpu", "auto"):
        with pytest.raises(UserError, match=told.replace("accelerator=gpu", f"accelerator={accelerator}")):
            run(compose(tmp_path, *PAIR, f"trainer.accelerator={accelerator}"))
    assert not list(tmp_path.iterdir())


def test_taps_are_filled_on_the_gpu_of_the_process(tmp_path, monkeypatch):
    """A step of srun sets no LOCAL_RANK; one that is left from something else counts nothing."""
    from peftbench.training import device_of_process

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = compose(tmp_path, "method=linear", "trainer=ddp", "trainer.devices=2").trainer
    slurm = {"JOB_ID": 1, "NTASKS": 2, "STEP_NUM_TASKS": 2, "PROCID": 1, "LOCALID": 1}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert device_of_process(spec) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of_process(compose(tmp_path, "method=linear").trainer) == torch.device("cuda", 0)
