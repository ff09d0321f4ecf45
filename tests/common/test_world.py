"""Which process of how many a process is, by what torchrun, Slurm and others leave in its environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench import UserError
from peftbench.common.world import World, forget_world, world_of

BATCH = {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}
NAMED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = NAMED | {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
FOUR = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH,
        STEP,
        BATCH | {"SLURM_NTASKS": "2", "ENVIRONMENT": "BATCH"},  # sbatch --ntasks=2, without srun
        BATCH | {"SLURM_NTASKS": "4"},
        {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "2"},  # a shell of salloc
        {"RANK": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},  # of a job of one process
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        {"LOCAL_RANK": "1"},
    ],
)
def test_what_tells_of_no_such_processes_is_no_world(environment):
    assert world_of(2, 1, environment) is None
    assert world_of(1, 1, environment) == World()


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "expected"),
    [
        (2, 1, NAMED, (1, 2, 1, 0, "RANK", "127.0.0.1", 29500)),
        (2, 1, TORCHRUN, (1, 2, 1, 0, "torchrun", "127.0.0.1", 29500)),
        (1, 2, TORCHRUN | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "1"}, (1, 2, 0, 1, "torchrun")),
        (2, 1, BATCH | {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, (1, 2, 1, 0, "srun")),
        (
            *(2, 2, STEP | FOUR | {"SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}),
            (2, 4, 0, 1, "srun", "127.0.0.1", 15071),
        ),
        (2, 2, STEP | FOUR | {"SLURM_STEP_NODELIST": "gpu[003-005,9],x1"}, (0, 4, 0, 0, "srun", "gpu003", 15071)),
        (2, 2, STEP | FOUR | {"SLURM_STEP_NODELIST": "a7,a9", "SLURM_STEP_ID": "2"}, (0, 4, 0, 0, "srun", "a7", 17089)),
        # what a shell had kept counts less than a step of srun, and that less than torchrun, which srun may start
        (2, 1, NAMED | STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, (0, 2, 0, 0, "srun")),
        (2, 1, TORCHRUN | STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, (1, 2, 1, 0, "torchrun")),
    ],
)
def test_processes_that_were_started_for_a_run_know_their_places(devices, nodes, environment, expected):
    world = world_of(devices, nodes, environment)
    found = (world.rank, world.size, world.local, world.node, world.started_by, world.address, world.port)
    assert found[: len(expected)] == expected


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "told"),
    [
        (4, 1, TORCHRUN, "trainer.devices=4 trainer.nodes=1: expected 4 processes, .* torchrun started 2"),
        (1, 1, TORCHRUN, "expected 1 process, .* torchrun started 2; start it without torchrun"),
        (1, 2, TORCHRUN, "2 were started on this machine"),
        (2, 1, NAMED | {"RANK": "2"}, "this is number 2"),
        (2, 2, {}, "nothing in the environment tells of any; srun --nodes=2 --ntasks-per-node=2 or torchrun"),
        (2, 2, STEP, r"the environment tells of 1 \(SLURM_STEP_NUM_TASKS\)"),
        (4, 1, STEP | FOUR, "srun started 4 on 2 machines"),
        (2, 2, STEP | FOUR | {"SLURM_LOCALID": "2", "SLURM_PROCID": "2"}, "number 2 of machine 0"),
    ],
)
def test_a_world_that_does_not_agree_is_refused(devices, nodes, environment, told):
    with pytest.raises(UserError, match=told):
        world_of(devices, nodes, environment)


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.dictionaries(st.sampled_from(sorted({*FOUR, *STEP, *TORCHRUN})), st.sampled_from(["0", "1", "2", "4", "", "x"])),
)
def test_a_world_is_always_of_as_many_as_the_run_asks_for(devices, nodes, environment):
    told = ""
    try:
        world = world_of(devices, nodes, environment)
    except UserError as problem:
        world, told = None, str(problem)
    if told:
        assert told.startswith(f"trainer.devices={devices} trainer.nodes={nodes}: expected {devices * nodes} ")
    elif world is None:
        assert devices > 1
        assert nodes == 1
    else:
        assert world.size == devices * nodes
        assert world.rank < world.size
        assert world.local < devices
        assert world.node < nodes
    forget_world(environment)
    assert nodes > 1 or devices == 1 or world_of(devices, nodes, environment) is None
