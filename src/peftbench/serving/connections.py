"""Connections that come to nothing are closed: one that sends its headers slowly would stay for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, which closes a connection on which no request has begun after so many seconds."""

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._between_requests():
                self._wait()
            elif self._late is not None:
                self._late.cancel()
                self._late = None

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._late is not None:
                self._late.cancel()

        def _between_requests(self) -> bool:
            return self.cycle is None or bool(self.cycle.response_complete)

        def _wait(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(seconds, self._close)

        def _close(self) -> None:
            self._late = None
            if self._between_requests() and not self.transport.is_closing():
                self.transport.close()

    return Bounded
