"""Runs that are stopped in their midst and go on."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftbench.results import Record
from peftbench.runs.run import run
from peftbench.training.checkpoint import Checkpoints
from peftbench.training.module import Fit
from support.runs import compose


def interrupted_and_undisturbed(folder: Path, monkeypatch, *words: str, at: int = 4) -> tuple[Record, Record]:
    """The records of a run that was stopped at the end of a batch (by default in its second epoch) and resumed, and of
    the same run undisturbed.
    """
    undisturbed, other = (compose(folder / place, *words) for place in "ab")
    batch_end, ends = Checkpoints.on_train_batch_end, []

    def stop(self, *arguments):
        ends.append(1)
        self.stop = len(ends) >= at
        batch_end(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert run(other).status == "interrupted"
    return run(other), run(undisturbed)


@contextlib.contextmanager
def stopped_in(step: str, at: int, end: BaseException | None = None) -> Iterator[None]:
    """Within this block a run is stopped as by Ctrl-C, or by raising `end`, in the `at`-th call of a step of `Fit`."""
    call, calls = getattr(Fit, step), []

    def stepping(self: Fit, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == at:
            if end is not None:
                raise end
            signal.raise_signal(signal.SIGINT)
        return call(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, step, stepping)
        yield
