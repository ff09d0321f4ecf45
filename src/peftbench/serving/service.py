"""What a server has and does, whatever its interface: tasks, queue, files that are watched, reloads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from peftbench.common.errors import UserError
from peftbench.serving.batching import Batching
from peftbench.serving.limits import Limits
from peftbench.serving.measures import Measures
from peftbench.serving.watching import Watching, about
from peftbench.tuned.multitask import MultiTask

_THREADS = 4  # that decode: more of them would keep as many large images in memory


class Service:
    """Tasks that are being served.

    Args:
        tasks: what answers.
        limits: of requests.
        token: that clients must show; empty for none.
        tell: called with one sentence of what happened.
    """

    def __init__(self, tasks: MultiTask, limits: Limits, token: str, tell: Callable[[str], None]) -> None:
        self.tasks, self.limits, self.token, self.tell = tasks, limits, token, tell
        self.stopping = False
        self.measures = Measures(lambda: self.batching.admitted)
        self.batching = Batching(tasks, limits, self.measures.batches.observe)
        self.threads = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="decoding")
        self._reloading = threading.Lock()
        self.watching = Watching(tasks.runs, self._tell_changed)
        for name in tasks.tasks:
            self.measures.changed.labels(name).set_function(partial(self.watching.changed.__getitem__, name))

    def described(self) -> dict[str, Any]:
        """What is served, as `/v1/tasks` says it."""
        return {"tasks": [self.described_task(name) for name in self.tasks.tasks]}

    def described_task(self, name: str) -> dict[str, Any]:
        """One task: its kind, classes, run and delta, and whether the file of that is another by now."""
        run = self.tasks.runs[name]
        return {
            "name": name,
            "task": run.config.task.name,
            "classes": list(run.classes),
            "run": run.record.id,
            "method": run.config.method.name,
            "backbone": run.config.backbone.name,
            "delta": self.watching.hashes[name],
            "changed": self.watching.changed[name],
        }

    def reload(self, name: str) -> None:
        """Has a task answer with what its run's folder holds by now; requests go on meanwhile.

        Raises:
            UserError: that is not whole, or of another backbone; then the task stays as it was.
        """
        with self._reloading:
            found = about(self.tasks.runs[name].source)
            try:
                reopened = self.tasks.reopened(name)
            except UserError as problem:
                self.measures.reloads.labels(name, "failed").inc()
                self.tell(f"{name}: is served as before, since its run cannot be read again: {problem}")
                raise
            self.batching.change(name, reopened)
            self.watching.take(name, reopened[0].source, found)
            self.measures.reloads.labels(name, "done").inc()
            self.tell(f"{name}: answers from here on with what {reopened[0].folder} holds now.")

    def reload_all(self) -> None:
        """Reloads every task that can be; the others are told."""
        for name in list(self.tasks.tasks):
            try:
                self.reload(name)
            except UserError:
                continue

    def stop(self) -> None:
        """Answers what waits, and ends the threads."""
        self.stopping = True
        self.batching.stop()
        self.watching.stop()
        self.threads.shutdown()

    def _tell_changed(self, name: str) -> None:
        self.tell(
            f"{name}: {self.tasks.runs[name].source} is another file by now, and what was read before is served on; "
            f"reload the task (POST /v1/tasks/{name}/reload, or SIGHUP) to take it."
        )
