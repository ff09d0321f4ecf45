"""A server on loopback that speaks as much of the Hub's interface as a push asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_a_test"
_MOST = 50_000_000  # bytes of a request
_PLAIN = 2_000  # bytes of a file that is sent within the commit


@dataclass
class Hub:
    """What it holds: repository -> path -> bytes; whether each is private; what it answers instead, by path."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refuses: dict[str, int] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # sha256 -> bytes, uploaded apart


@contextmanager
def hub() -> Iterator[Hub]:
    """The server, on a free port, until the block ends."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def log_message(self, *args: Any) -> None:
            pass

        def _body(self) -> bytes:
            length = int(self.headers.get("Content-Length", 0))
            assert length <= _MOST
            return self.rfile.read(length)

        def _say(self, content: Any = None, status: int = 200, raw: bytes | None = None) -> None:
            body = raw if raw is not None else json.dumps(content or {}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _answered(self) -> bool:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not self.path.startswith("/upload/"):
                self._say({"error": "who are you?"}, 401)
                return True
            for part, status in state.refuses.items():
                if part in self.path:
                    self._say({"error": "not now"}, status)
                    return True
            return False

        def do_POST(self) -> None:
            body = self._body()
            if self._answered():
                return
            path = self.path.partition("?")[0]
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if name in state.files:
                    self._say({"url": f"{state.address}/{name}", "id": name, "name": name}, 409)
                    return
                state.files[name] = {}
                state.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
                self._say({"url": f"{state.address}/{name}", "id": name, "name": name})
            elif path.endswith("/preupload/main"):
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "regular" if f["size"] <= _PLAIN or f["path"].endswith(".md") else "lfs",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(body)["files"]
                ]
                self._say({"files": files})
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {
                        "oid": o["oid"],
                        "size": o["size"],
                        "authenticated": True,
                        "actions": {"upload": {"href": f"{state.address}/upload/{o['oid']}"}},
                    }
                    for o in json.loads(body)["objects"]
                ]
                self._say({"transfer": "basic", "objects": objects})
            elif path.endswith("/commit/main"):
                self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
            elif path.endswith("/validate-yaml"):
                self._say({"errors": [], "warnings": []})
            else:
                self._say({"error": f"no {path}"}, 404)

        def _commit(self, name: str, body: bytes) -> None:
            for line in body.splitlines():
                said = json.loads(line)
                value = said["value"]
                if said["key"] == "header":
                    state.messages.append(value["summary"])
                elif said["key"] == "file":
                    state.files[name][value["path"]] = base64.b64decode(value["content"])
                elif said["key"] == "lfsFile":
                    state.files[name][value["path"]] = state.large[value["oid"]]
            url = f"{state.address}/{name}/commit/{'0' * 40}"
            self._say({"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})

        def do_PUT(self) -> None:
            body = self._body()
            digest = hashlib.sha256(body).hexdigest()
            assert self.path == f"/upload/{digest}"
            state.large[digest] = body
            self._say()

        def do_GET(self) -> None:
            if self._answered():
                return
            path = self.path.partition("?")[0]
            name, mark, file = path.strip("/").partition("/resolve/main/")
            if mark:
                content = state.files.get(name, {}).get(file)
                if content is None:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("ETag", hashlib.sha256(content).hexdigest())
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                return
            if (name := path.removeprefix("/api/models/")) in state.files:
                self._say({"id": name, "modelId": name, "private": state.private[name], "tags": [], "siblings": []})
                return
            self._say({"error": f"no {path}"}, 404)

        do_HEAD = do_GET

    return Handler
