"""Which process of how many this is, as whoever started it says in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from peftbench.common.errors import UserError

_OF_TORCHRUN = "TORCHELASTIC_"
_OF_PROCESSES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
HOW = (
    "srun --nodes={nodes} --ntasks-per-node={devices} or torchrun --nnodes={nodes} --nproc-per-node={devices} starts "
    "such a run"
)


@dataclass(frozen=True)
class World:
    """The processes that carry out a run together, and this one among them.

    Attributes:
        rank: the number of this process, from 0, of `size`.
        local: its number among those of its machine, which is that of its device.
        node: the number of its machine.
        started_by: `torchrun`, `srun`, or `RANK` for whoever else says so; empty where it is alone.
        address: of the first process, and its `port`.
        hosted: whether torchrun itself listens at that port.
        attempt: how often torchrun has started all of them anew.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    node: int = 0
    started_by: str = ""
    address: str = "127.0.0.1"
    port: int = 0
    hosted: bool = False
    attempt: str = "0"


def world_of(devices: int, nodes: int, environment: Mapping[str, str] = os.environ) -> World | None:
    """The world of a run on `devices` of each of `nodes`; None where nobody has started as many processes for it.

    What the environment says counts only where it tells of exactly as many: a batch script of Slurm without srun, a
    shell that kept RANK, and workers of joblib or Ray hold such variables too, and are alone.

    Raises:
        UserError: torchrun started another number of processes, or they are spread otherwise over the machines; or
            several machines are asked for, and nobody started the processes.
    """
    size = devices * nodes
    torchrun = any(name.startswith(_OF_TORCHRUN) for name in environment)
    if torchrun and _number(environment, "WORLD_SIZE") not in (None, size):
        raise _disagreement(devices, nodes, f"torchrun started {environment['WORLD_SIZE']}")
    if size == 1:
        return World()
    if torchrun or not (world := _of_slurm(devices, nodes, environment)):
        world = _of_variables(devices, nodes, environment, torchrun)
    if world is None and nodes > 1:
        raise _disagreement(devices, nodes, _what_is_there(environment))
    if world and not (world.rank < size and world.local < devices and world.node < nodes):
        spread = f"this is number {world.rank}, number {world.local} of machine {world.node}"
        raise _disagreement(devices, nodes, f"by {world.started_by} {spread} (all from 0)")
    return world


def forget_world(environment: MutableMapping[str, str] = os.environ) -> None:
    """Removes what whoever started a process said of its world: the process begins one of its own."""
    for name in [n for n in environment if n in _OF_PROCESSES or n.startswith(_OF_TORCHRUN)]:
        del environment[name]


def _of_slurm(devices: int, nodes: int, environment: Mapping[str, str]) -> World | None:
    """The world of a step of srun that has as many tasks; a batch script, which has no step, is one process."""
    of_step = _number(environment, "SLURM_STEP_NUM_TASKS")
    if of_step is None and environment.get("ENVIRONMENT") == "BATCH":  # as slurmd says in a batch script, and no step
        return None
    tasks = of_step if of_step is not None else _number(environment, "SLURM_NTASKS")
    rank = _number(environment, "SLURM_PROCID")
    if rank is None or tasks != devices * nodes:
        return None
    machines = _number(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    if of_step is not None and machines not in (None, nodes):
        raise _disagreement(devices, nodes, f"srun started {tasks} on {machines} machines")
    local = _number(environment, "SLURM_LOCALID")
    node = _number(environment, "SLURM_NODEID")
    job, step = _number(environment, "SLURM_JOB_ID") or 0, _number(environment, "SLURM_STEP_ID") or 0
    machine = "127.0.0.1" if nodes == 1 else _first_host(environment)
    return World(
        rank,
        tasks,
        rank % devices if local is None else local,
        rank // devices if node is None else node,
        "srun",
        environment.get("MASTER_ADDR") or machine,
        _number(environment, "MASTER_PORT") or 15000 + (job + 1009 * step) % 10000,  # alike in all tasks of a step
    )


def _of_variables(devices: int, nodes: int, environment: Mapping[str, str], torchrun: bool) -> World | None:
    """The world of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, where all are there and tell of as many processes."""
    rank, port = _number(environment, "RANK"), _number(environment, "MASTER_PORT")
    address = environment.get("MASTER_ADDR")
    if rank is None or port is None or not address or _number(environment, "WORLD_SIZE") != devices * nodes:
        return None
    here = _number(environment, "LOCAL_WORLD_SIZE")
    if here not in (None, devices):
        raise _disagreement(devices, nodes, f"{here} were started on this machine")
    local, node = _number(environment, "LOCAL_RANK"), _number(environment, "GROUP_RANK", "NODE_RANK")
    return World(
        rank,
        devices * nodes,
        rank % devices if local is None else local,
        rank // devices if node is None else node,
        "torchrun" if torchrun else "RANK",
        address,
        port,
        environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _disagreement(devices: int, nodes: int, what: str) -> UserError:
    asked = f"trainer.devices={devices} trainer.nodes={nodes}"
    expected = f"{devices * nodes} process{'es' if devices * nodes > 1 else ''}"
    remedy = HOW.format(devices=devices, nodes=nodes) if devices * nodes > 1 else "start it without torchrun"
    return UserError(f"{asked}: expected {expected}, {devices} on each of {nodes} machines, but {what}; {remedy}.")


def _what_is_there(environment: Mapping[str, str]) -> str:
    for name in ("SLURM_STEP_NUM_TASKS", "WORLD_SIZE", "SLURM_NTASKS"):
        if name in environment:
            return f"the environment tells of {environment[name]} ({name})"
    return "nothing in the environment tells of any"


def _first_host(environment: Mapping[str, str]) -> str:
    """The first machine of a list such as `node[003-005,9],gpu7`."""
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if hosts := environment.get(name):
            return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", hosts).split(",")[0].strip()
    return "127.0.0.1"


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    """The first of the variables that is there and a number from 0."""
    for name in names:
        value = environment.get(name, "").strip()
        if value.isdecimal():
            return int(value)
    return None
