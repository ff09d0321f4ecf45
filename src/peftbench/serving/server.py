"""A socket, uvicorn on it, and signals: from finished runs to a server that stops well."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import uvicorn

from peftbench.common.errors import UserError
from peftbench.common.stopping import ENDINGS
from peftbench.serving.application import application
from peftbench.serving.connections import protocol
from peftbench.serving.gate import Gate
from peftbench.serving.service import Service

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_CONNECTIONS = 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket on that address, taken before a model is built; port 0 is any that is free.

    Raises:
        UserError: there is no such address here, or another program has the port.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port={port}: expected 0 to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as problem:
        raise UserError(f"host={host}: is no address ({getattr(problem, 'strerror', None) or problem}).") from None
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as problem:
        made.close()
        raise UserError(
            f"host={host} port={port}: cannot be taken ({problem.strerror}); give another port, or port=0 for any."
        ) from None
    return made


def serve(service: Service, taken: socket.socket, host: str, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what has begun; SIGHUP reloads every task.

    In the main thread these signals are ignored from then on, since the process is to end with its own status.

    Args:
        service: what is served.
        taken: the socket.
        host: as it was given.
        ready: called with the address once requests are taken.
    """
    port = taken.getsockname()[1]
    own_hosts = _LOOPBACK | {host.lower()}
    app = Gate(application(service), service.limits, service.token, own_hosts, service.measures)
    config = uvicorn.Config(
        app,
        http=protocol(service.limits.seconds),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=round(2 * service.limits.seconds) + 1,
        loop="asyncio",
    )
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    # What uvicorn puts back once it has stopped: by default one more SIGTERM would end the process on the spot.
    _handle([signal.SIGTERM], lambda number, frame: setattr(service, "stopping", True))
    try:
        _Server(config, service, lambda: ready(url)).run(sockets=[taken])
    finally:
        _handle(ENDINGS, signal.SIG_IGN)
        service.stop()
        _handle([signal.SIGINT], signal.SIG_IGN)


def _handle(signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object] | int) -> None:
    """Sets the handler of signals for good; no other thread than the main one gets any."""
    if threading.current_thread() is threading.main_thread():
        for one in signals:
            signal.signal(one, handler)


class _Server(uvicorn.Server):
    """Stops without an error on a signal that asks for it, or once the service is `stopping`."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.ready = service, ready
        self.should_exit: bool = False

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, self.service.reload_all))
        self.ready()

    async def on_tick(self, counter: int) -> bool:
        return self.service.stopping or await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self.should_exit
        self.service.stopping = self.should_exit = True
        if again and sig == signal.SIGINT:
            self.force_exit = True
