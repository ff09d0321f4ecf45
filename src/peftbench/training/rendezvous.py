"""How the processes of a run come together: all of them, of one run, within a time; and what they are told if not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment

from peftbench.common.errors import UserError
from peftbench.common.world import World
from peftbench.config import Config
from peftbench.config.identity import identity
from peftbench.training.checkpoint import Aborted

PATIENCE = 30.0
"""Seconds after which a process tells whom it waits for."""
COLLECTIVE = timedelta(minutes=30)
"""How long an exchange waits for others: they may be filling taps, or writing."""


class Processes(ClusterEnvironment):
    """What Lightning asks of a world; without it Lightning looks at the environment in its own way.

    It would take one process of a batch script of Slurm for all there are.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.world.address

    @property
    def main_port(self) -> int:
        return self.world.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.world.size

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        return self.world.local

    def node_rank(self) -> int:
        return self.world.node


class _Meeting:
    """The store that the processes of this world share, which outlives a run: a sweep has one run after another."""

    world: World | None = None
    store: Any = None
    runs = 0
    groups = 0
    joined = False  # whether the group of processes is ours to end


_met = _Meeting()


@contextlib.contextmanager
def processes_together(world: World, configs: Sequence[Config]) -> Iterator[None]:
    """Within this block all processes of the world are there, and carry out these runs.

    A process tells for whom it waits, once that takes long.

    Raises:
        UserError: one did not come within `trainer.meet_seconds`, or carries out another run.
    """
    if world.size > 1:
        deadline = time.monotonic() + configs[0].trainer.meet_seconds
        if _met.world != world:
            _met.world, _met.store, _met.runs, _met.groups = None, _connected(world, deadline), 0, 0
            _met.world = world
        _met.runs += 1
        _gather(world, deadline, _digest(configs))
    try:
        yield
    finally:
        if _met.joined:
            _met.joined = False
            dist.destroy_process_group()


def join_group(world: World, device: torch.device, seconds: float) -> None:
    """Makes the group in which the processes, who have met, exchange tensors: over nccl on GPUs, else over gloo.

    Raises:
        UserError: the first exchange did not come through within `seconds`.
    """
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store: Any = dist.HashStore() if world.size == 1 else _met.store
    _met.groups += 1
    store = dist.PrefixStore(f"group{_met.groups}", store)
    problems: list[BaseException] = []

    def exchange() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=COLLECTIVE)
            count = torch.ones((), device=device)
            dist.all_reduce(count)
            count.item()
        except BaseException as problem:
            problems.append(problem)

    # In a thread of its own: what waits for another machine inside nccl or gloo cannot be interrupted.
    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() or problems:
        why = (
            f"{type(problems[0]).__name__}: {_first_line(problems[0])}"
            if problems
            else f"nothing came in {seconds:g} s"
        )
        prefix = backend.upper()
        raise UserError(
            f"the {world.size} processes met at {world.address}:{world.port}, but the first exchange over {backend} "
            f"did not come through ({why}); name the network between the machines by {prefix}_SOCKET_IFNAME, and see "
            f"that no firewall closes its ports{'; NCCL_DEBUG=INFO tells more' if backend == 'nccl' else ''}."
        )
    _met.joined = True


@contextlib.contextmanager
def losses_told(world: World) -> Iterator[None]:
    """Within this block an exchange that breaks off, since another process ended, ends the run as if it was stopped.

    Raises:
        Aborted: so it is; the last checkpoint stays.
    """
    try:
        yield
    except RuntimeError as problem:
        if world.size > 1 and (isinstance(problem, dist.DistError) or "gloo" in str(problem)):
            raise Aborted(f"another of its {world.size} processes ended") from problem
        raise


def _digest(configs: Sequence[Config]) -> str:
    runs = [[identity(config), str(config.output_dir)] for config in configs]
    return hashlib.sha256(json.dumps(runs, sort_keys=True).encode()).hexdigest()


def _connected(world: World, deadline: float) -> Any:
    """The store at the first process. Raises UserError where it cannot be reached, or its port is taken."""
    hosts = world.rank == 0 and not world.hosted
    if not hosts:
        _await_listener(world, deadline)
    left = timedelta(seconds=max(deadline - time.monotonic(), 1.0))
    try:
        store = dist.TCPStore(world.address, world.port, None, hosts, left, False)
    except (RuntimeError, ValueError) as problem:
        what = f"cannot listen there for the other {world.size - 1}" if hosts else "finds no process 0 there"
        raise UserError(
            f"{world.address}:{world.port}: process {world.rank} of {world.size} {what} ({_first_line(problem)}); give "
            f"another MASTER_PORT."
        ) from None
    return dist.PrefixStore(f"peftbench{world.attempt}", store)


def _await_listener(world: World, deadline: float) -> None:
    """Until somebody listens at the first process's port: torch's own tries cannot be interrupted, and fill the log."""
    begun, told = time.monotonic(), False
    while True:
        try:
            socket.create_connection((world.address, world.port), timeout=5.0).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise _nobody(world, "process 0", deadline - begun) from None
        if not told and time.monotonic() - begun > PATIENCE:
            told = True
            _say(_waiting(world, "process 0"))
        time.sleep(0.1)


def _gather(world: World, deadline: float, digest: str) -> None:
    """Waits for all. Raises UserError where one does not come, or carries out another run."""
    store, begun, told = _met.store, time.monotonic(), False
    keys = [f"run{_met.runs}/{rank}" for rank in range(world.size)]
    try:
        store.set(keys[world.rank], digest)
        while missing := [rank for rank, key in enumerate(keys) if not store.check([key])]:
            who = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            if time.monotonic() > deadline:
                raise _nobody(world, who, deadline - begun)
            if not told and time.monotonic() - begun > PATIENCE:
                told = True
                _say(_waiting(world, who))
            time.sleep(0.05)
        others = [rank for rank, key in enumerate(keys) if store.get(key).decode() != digest]
    except RuntimeError as problem:  # whoever keeps the store has ended
        raise UserError(
            f"process 0 of {world.size} ended before all had come together ({_first_line(problem)})."
        ) from None
    if others:
        raise UserError(
            f"process {world.rank} of {world.size} carries out another run than process {others[0]}, with which it "
            f"would train; give all of them the same words, and each run of its own another MASTER_PORT."
        )


def _waiting(world: World, who: str) -> str:
    return f"process {world.rank} of {world.size}: waiting at {world.address}:{world.port} for {who}"


def _nobody(world: World, who: str, seconds: float) -> UserError:
    ways = {
        "srun": "start the command with srun on all machines, not in a batch script alone",
        "torchrun": "start torchrun on every machine, with the same --rdzv-endpoint",
    }
    remedy = ways.get(world.started_by, "unset RANK and WORLD_SIZE where they are left from something else")
    return UserError(
        f"{_waiting(world, who)}, in vain for {seconds:.0f} s (trainer.meet_seconds); {remedy}, and see that "
        f"{world.address} is reached from every machine (MASTER_ADDR, MASTER_PORT)."
    )


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [""])[0]


def _say(text: str) -> None:
    """Tells of a process that waits, whichever it is."""
    print(text, file=sys.stderr, flush=True)
