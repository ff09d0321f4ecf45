"""Signals ask a training to save and stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from peftbench.common.stopping import ENDINGS
from peftbench.training.checkpoint import Aborted, Checkpoints, Stopped


class Signals(Callback):
    """Within this block Ctrl-C, SIGTERM and SIGHUP ask `checkpoints` to save and stop; a second one stops at once.

    Lightning has a handler of its own for SIGTERM, upon which it leaves in the midst of a validation without saving:
    the hooks here, which come after it was set, put ours in its place.

    Raises:
        Stopped: SIGTERM came before that.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ENDINGS):
                if number == signal.SIGINT or signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self._ask)

    def __exit__(self, kind: Any, problem: Any, _: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(problem, SIGTERMException):
            raise Stopped from None

    def on_train_start(self, *_: Any) -> None:
        self._take()

    def on_validation_start(self, *_: Any) -> None:
        self._take()

    def on_test_start(self, *_: Any) -> None:
        self._take()

    def _take(self) -> None:
        for number in self.before:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.checkpoints.stop:
            raise Aborted
        self.checkpoints.ask()
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # a closed terminal; the midst of another print
            print("\nstopping after this step (once more: at once) …", flush=True)
