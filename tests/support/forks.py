"""New processes of `python -m peftbench` that need not import torch: they are forked from one that has.

A process that imports what a run needs takes seconds before it does anything. `python()` is a program that stands in
for `sys.executable`: what follows `-m peftbench` runs in a fork of a server that has everything imported, with the
working folder, the environment, the standard files and the signals of whoever called; it ends as that one ends. All
else it hands to Python. That a start from nothing works too is for tests that call `sys.executable` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import marshal
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("forked.py")
ROOT = CLIENT.parents[2]


@lru_cache(maxsize=1)
def python() -> str:
    """The program; it starts the server when it is first asked for. `sys.executable` where there are no such forks."""
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="peftbench-forks-"))
    program, place = folder / "python", folder / "server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SsE "{CLIENT}" "{place}" "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    paths = [str(ROOT / "src"), str(CLIENT.parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place))
    listening.listen(64)
    server = subprocess.Popen(
        [sys.executable, "-c", "from support.forks import serve; serve()", str(listening.fileno())],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        pass_fds=[listening.fileno()],
        start_new_session=True,
    )
    listening.close()
    atexit.register(_end, server, folder)
    return str(program)


def _end(server: subprocess.Popen, folder: Path) -> None:
    assert server.stdin
    server.stdin.close()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


def serve() -> None:
    """Forks a process for each connection, until the standard input is closed."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)
    running: dict[int, tuple[int, int, socket.socket]] = {}  # by each of its two files
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listening:
                client = listening.accept()[0]
                if not (child := _forked(client, [listening.fileno(), *running])):
                    continue
                ends = os.pidfd_open(child)
                running[ends] = running[client.fileno()] = (child, ends, client)
                waiting.register(ends, selectors.EVENT_READ)
                waiting.register(client.fileno(), selectors.EVENT_READ)
            elif key.fd == 0:
                for child, _, _ in running.values():
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            elif key.fd in running:
                child, ends, client = running[key.fd]
                if key.fd != ends:  # the caller is gone, or was killed
                    os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                for file in (ends, client.fileno()):
                    waiting.unregister(file)
                    del running[file]
                os.close(ends)
                with contextlib.suppress(OSError):
                    client.sendall(f"{status}\n".encode())
                client.close()


def _import_all() -> None:
    import importlib
    import pkgutil

    import lightning.pytorch  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import peftbench

    for module in pkgutil.walk_packages(peftbench.__path__, "peftbench.", onerror=lambda _: None):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # a library of an extra that is not here
                importlib.import_module(module.name)
    assert threading.active_count() == 1, "what another thread holds is held for ever in a fork"


def _forked(client: socket.socket, others: list[int]) -> int:
    """The id of the process that does what the client asks; 0 if the client asked for nothing."""
    first, files, *_ = socket.recv_fds(client, 20, 3)
    content = bytearray()
    length = int(first) if first else 0
    while len(content) < length and (more := client.recv(length - len(content))):
        content += more
    if not length or len(content) < length:
        client.close()
        return 0
    if child := os.fork():
        client.sendall(f"{child}\n".encode())
        for file in files:
            os.close(file)
        return child
    status = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        for file in {*files, *others, client.fileno()} - {0, 1, 2}:
            os.close(file)
        client.detach()
        status = _carried_out(*marshal.loads(bytes(content)))
    finally:
        os._exit(status)


def _carried_out(place: str, program: str, module: str, words: list[bytes], environment: list[bytes]) -> int:
    """What `python -m module word …` does from where it begins; its exit status."""
    import random
    import runpy
    import traceback

    os.setsid()
    os.chdir(place)
    os.environ.clear()
    os.environb.update(pair.split(b"=", 1) for pair in environment)
    given = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = [place, *given, *(folder for folder in sys.path[1:] if folder not in given)]
    sys.executable = program
    sys.argv = [module, *map(os.fsdecode, words)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    at_once: dict[str, Any] = {"write_through": True} if os.environ.get("PYTHONUNBUFFERED") else {}
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = open(number, "w", closefd=False, errors=getattr(sys, name).errors)  # noqa: SIM115
        file.reconfigure(line_buffering=number == 2 or file.isatty(), **at_once)
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    status: Any = 0
    sys.modules.pop(module, None)  # it begins anew
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException as problem:
        traceback.print_exception(problem)
        status = 130 if isinstance(problem, KeyboardInterrupt) else 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (OSError, ValueError):
            status = status or 120  # as Python does
    return int(status) if isinstance(status, int) else int(status is not None)
