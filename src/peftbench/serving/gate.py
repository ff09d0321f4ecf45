"""What stands before the application: who may ask, how much may come, and how a refusal reaches a client that sends."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from peftbench.serving.limits import Limits, Refused
from peftbench.serving.measures import Measures

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN = ("/", "/healthz", "/openapi.json")
"""What needs no token: they tell nothing of what is served."""
_AT_ONCE = 16  # largest bodies that may be in memory at once
_DRAINED = 5  # times the largest body: what is still read of a refused one, so that the client comes to read the answer


class Gate:
    """Around an ASGI application: token, origin, size of the body; counts requests.

    Args:
        app: the application.
        token: what clients must show, or empty.
        own_hosts: the names by which a server without a token is asked, lower case; no page elsewhere knows a token.
    """

    def __init__(self, app: Any, limits: Limits, token: str, own_hosts: frozenset[str], measures: Measures) -> None:
        self.app, self.limits, self.measures = app, limits, measures
        self.token, self.own_hosts = token.encode(), own_hosts
        self.coming = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(receive, self.limits.body)
        begun, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await body.answer(send, message)

        held = 0
        try:
            self._check(scope["path"], headers)
            held = self._held(headers)
            self.coming += held
            await self.app(scope, body.receive, observed)
        except Refused as refused:
            await _say(observed, refused)
        finally:
            self.coming -= held
            path = getattr(scope.get("route"), "path", "other")
            self.measures.requests.labels(path, str(status)).inc()
            if status < 400:
                self.measures.seconds.labels(path).observe(time.perf_counter() - begun)

    def _check(self, path: str, headers: dict[str, str]) -> None:
        """Raises Refused (401, 403, 413)."""
        host = _name_of(headers.get("host", ""))
        if not self.token and host not in self.own_hosts:  # a page may have had its own name lead here
            raise Refused(403, f"this server is not called {host[:80]!r}; ask it as {min(self.own_hosts)}.")
        origin = headers.get("origin", "")
        if not self.token and origin and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise Refused(403, "a page of another server may not ask this one; send the request from elsewhere.")
        if self.token and path not in OPEN:
            kind, _, shown = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(shown.strip().encode(), self.token):
                refused = Refused(401, "the token is missing, or another; send Authorization: Bearer with it.")
                refused.headers["WWW-Authenticate"] = "Bearer"
                raise refused
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.body:
            raise _too_large(self.limits.body)

    def _held(self, headers: dict[str, str]) -> int:
        """The bytes that a request may bring into memory. Raises Refused (429) where too many are coming."""
        length = headers.get("content-length", "")
        held = self.limits.body if "transfer-encoding" in headers else int(length) if length.isdecimal() else 0
        if self.coming + held > _AT_ONCE * self.limits.body:
            raise Refused(429, "too many large requests are coming in; ask again in a second.", retry=True)
        return held


class _Body:
    """The body of a request: counted as it comes, and read to its end before a refusal is over."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._bytes = receive, most, 0
        self.whole = False

    async def receive(self) -> Message:
        """The next piece. Raises Refused (413) once more has come than may."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self._bytes > self._most:
                raise _too_large(self._most)
        return message

    async def answer(self, send: Send, message: Message) -> None:
        """Sends a piece of the answer; before the last one what is still coming is read, and thrown away."""
        if self.whole or message["type"] != "http.response.body" or message.get("more_body", False):
            if message["type"] == "http.response.start" and not self.whole and message["status"] >= 400:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)
            return
        await send({**message, "more_body": True})
        try:
            async with asyncio.timeout(10):
                while not self.whole and self._bytes < self._most * _DRAINED:
                    piece = await self._receive()
                    if piece["type"] != "http.request":
                        break
                    self._bytes += len(piece.get("body", b""))
                    self.whole = not piece.get("more_body", False)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


async def _say(send: Send, refused: Refused) -> None:
    body = json.dumps({"detail": refused.sentence}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _too_large(most: int) -> Refused:
    return Refused(413, f"the body is larger than {most:,} bytes; send a smaller one, or raise max_mb of the server.")


def _name_of(host: str) -> str:
    """The name in a Host header, without the port, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
