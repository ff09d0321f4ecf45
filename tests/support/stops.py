"""Runs that are stopped in their midst and go on."""

from pathlib import Path

from peftbench.results import Record
from peftbench.runs.run import run
from peftbench.training.checkpoint import Checkpoints
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
