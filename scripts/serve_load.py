"""Asks a server of `peftbench serve` from several clients, and counts answers that are lost or of another image.

python scripts/serve_load.py http://127.0.0.1:8000 IMAGES [--requests 10000] [--clients 4] [--reload-every 1000]

It asks for each image once, alone, and then for all in turn from every client at once: an answer that is not that of
the image is mixed up, and one that never comes is lost. With `--reload-every` it has every task read its run again
meanwhile, for which the token stands in PEFTBENCH_TOKEN. It asks nobody but this machine, and ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TOLERANCE = 1e-3
"""Between two answers for one image: a batch of another size rounds otherwise."""
_SECONDS = 60  # that a client waits for one answer
_IDLE = 1.0


@dataclass
class Load:
    """What came of the requests.

    Attributes:
        seconds: of each answered request.
        statuses: how often each status came; 0 stands for a connection that broke.
        mixed: answers that are not of the image that was sent.
        retried: requests that were sent again because the queue was full.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    mixed: int = 0
    retried: int = 0
    wall: float = 0.0
    reloads: int = 0

    def told(self) -> dict[str, Any]:
        """Its figures, for JSON."""
        return {
            "answered": self.statuses[200],
            "lost": sum(count for status, count in self.statuses.items() if status != 200),
            "mixed": self.mixed,
            "retried": self.retried,
            "reloads": self.reloads,
            "statuses": dict(self.statuses),
            "per_second": round(self.statuses[200] / self.wall, 2) if self.wall else None,
            "median_ms": round(1000 * statistics.median(self.seconds), 2) if self.seconds else None,
            "p95_ms": round(1000 * percentile(self.seconds, 0.95), 2) if self.seconds else None,
        }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Client:
    """One connection that stays open. Raises OSError, http.client.HTTPException where it breaks."""

    def __init__(self, url: str, token: str = "", tasks: str = "") -> None:
        parts = urlsplit(url)
        if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise SystemExit(f"{url}: is no server on this machine; nobody else is asked.")
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_SECONDS)
        self.path = f"/v1/predict?tasks={tasks}" if tasks else "/v1/predict"
        self.used = time.monotonic()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, path: str, body: bytes, kind: str) -> tuple[int, Any]:
        """(status, JSON) of one request."""
        if time.monotonic() - self.used > _IDLE:
            self.connection.close()  # and opened anew: a server closes those that lie idle
        self.used = time.monotonic()
        self.connection.request("POST", path, body, {**self.headers, "Content-Type": kind})
        reply = self.connection.getresponse()
        return reply.status, json.loads(reply.read())

    def predict(self, image: bytes) -> tuple[int, Any]:
        """(status, what the tasks say of one image)."""
        edge = "peftbench-load"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n\r\n'
        body = head.encode() + image + f"\r\n--{edge}--\r\n".encode()
        status, content = self.ask(self.path, body, f"multipart/form-data; boundary={edge}")
        return status, content["images"][0]["tasks"] if status == 200 else content

    def reload(self, task: str) -> int:
        """The status of a reload."""
        return self.ask(f"/v1/tasks/{task}/reload", b"", "application/json")[0]


def apart(one: Any, other: Any) -> float:
    """How far two answers are from each other: the largest difference of a number, infinite where words differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return float("inf")
        keys = [key for key in one if key not in ("class", "labels", "mask")]  # near a tie rounding decides these
        return max((apart(one[key], other[key]) for key in keys), default=0.0)
    if isinstance(one, list) and isinstance(other, list):
        return max(map(apart, one, other), default=0.0) if len(one) == len(other) else float("inf")
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


def known_answers(client: Client, images: Sequence[bytes]) -> list[tuple[bytes, Any]]:
    """Each image with its answer, asked alone; of images that no answer tells apart one is kept."""
    known: list[tuple[bytes, Any]] = []
    for image in images:
        status, answer = client.predict(image)
        if status != 200:
            raise SystemExit(f"an image was not answered: {status} {answer}")
        if all(apart(answer, other) > 3 * TOLERANCE for _, other in known):
            known.append((image, answer))
    return known


def load(
    url: str,
    known: Sequence[tuple[bytes, Any]],
    requests: int,
    clients: int = 4,
    token: str = "",
    reload_every: int = 0,
    tasks: str = "",
    right: Callable[[int, Any], bool] | None = None,
) -> Load:
    """Sends the requests from so many clients, each as soon as it has its last answer.

    Args:
        known: images with their answers.
        tasks: names after commas, those asked; by default all.
        reload_every: how many answers lie between two reloads of every task; 0 for none.
        right: whether an answer is that of the image of that number; by default, whether it is the known one.
    """
    done, lock, numbers = Load(), threading.Lock(), iter(range(requests))
    right = right or (lambda index, answer: apart(answer, known[index][1]) <= TOLERANCE)

    def work() -> None:
        client = Client(url, token, tasks)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            index = number % len(known)
            begun = time.perf_counter()
            status, answer = _asked(client, known[index][0], done, lock)
            if not status:
                client = Client(url, token, tasks)
            with lock:
                done.statuses[status] += 1
                done.seconds.append(time.perf_counter() - begun)
                done.mixed += status == 200 and not right(index, answer)

    def reloads() -> None:
        client, last = Client(url, token), 0
        while any(worker.is_alive() for worker in workers):
            if len(done.seconds) >= last + reload_every:
                last = len(done.seconds)
                for task in known[0][1]:
                    status = client.reload(task)
                    if status != 200:
                        raise SystemExit(f"{task} was not reloaded: status {status}")
                    done.reloads += 1
            time.sleep(0.01)

    workers = [threading.Thread(target=work) for _ in range(clients)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    if reload_every:
        reloads()
    for worker in workers:
        worker.join()
    done.wall = time.perf_counter() - begun
    return done


def _asked(client: Client, image: bytes, done: Load, lock: threading.Lock) -> tuple[int, Any]:
    while True:
        try:
            status, answer = client.predict(image)
        except (OSError, http.client.HTTPException):
            return 0, None
        if status != 429:
            return status, answer
        with lock:
            done.retried += 1
        time.sleep(0.05)


def arriving(url: str, known: Sequence[tuple[bytes, Any]], requests: int, per_second: float, token: str = "") -> Load:
    """Sends requests at random moments, so many in a second, whether or not the last one is answered."""
    done, lock, draw = Load(), threading.Lock(), random.Random(0)
    moments, moment = [], 0.0
    for _ in range(requests):
        moment += draw.expovariate(per_second)
        moments.append(moment)
    begun, left = time.perf_counter(), iter(enumerate(moments))

    def work() -> None:
        client = Client(url, token)
        while True:
            with lock:
                number, moment = next(left, (-1, 0.0))
            if number < 0:
                return
            time.sleep(max(0.0, begun + moment - time.perf_counter()))
            status, _ = _asked(client, known[number % len(known)][0], done, lock)
            with lock:
                done.statuses[status] += 1
                done.seconds.append(time.perf_counter() - begun - moment)

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.wall = time.perf_counter() - begun
    return done


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where an answer was lost or mixed up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server, on this machine")
    parser.add_argument("images", type=Path, help="a folder of images, at any depth")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--reload-every", type=int, default=0, metavar="N", help="reload every task all N answers")
    asked = parser.parse_args(arguments)
    token = os.environ.get("PEFTBENCH_TOKEN", "")
    files = sorted(path for path in asked.images.rglob("*") if path.suffix.lower() in SUFFIXES)[:200]
    if not files:
        parser.error(f"{asked.images}: holds no image")
    known = known_answers(Client(asked.url, token), [file.read_bytes() for file in files])
    if len(known) < 2:
        parser.error(f"{asked.images}: its images have one answer; give some that are told apart")
    done = load(asked.url, known, asked.requests, asked.clients, token, asked.reload_every)
    told = {"images": len(known), **done.told()}
    print(json.dumps(told))
    return 1 if told["lost"] or told["mixed"] or told["answered"] != asked.requests else 0


if __name__ == "__main__":
    sys.exit(main())
