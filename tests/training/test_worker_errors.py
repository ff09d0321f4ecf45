"""An error in a loader's worker process is told by its sentence alone."""

import os
import signal

import pytest
from torch.utils.data import DataLoader, Dataset

from peftbench.common.errors import Refusal, UserError
from peftbench.training.worker_errors import plain_sentences


class Refusing(Dataset):
    """One image that cannot be read."""

    def __init__(self, kind: type[UserError]) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        raise self.kind("a.png: cannot be read (UserError: so it says).")


@pytest.mark.parametrize(
    ("workers", "kind"),
    [(0, UserError), (0, Refusal), (1, UserError), pytest.param(1, Refusal, marks=pytest.mark.slow)],
)
def test_a_worker_s_error_is_one_sentence_of_the_same_kind(kind, workers):
    with pytest.raises(kind) as refusal, plain_sentences():
        list(DataLoader(Refusing(kind), num_workers=workers))
    assert type(refusal.value) is kind
    assert str(refusal.value) == "a.png: cannot be read (UserError: so it says)."


class Killed(Dataset):
    """Its second image ends the process that reads it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_worker_that_is_killed_in_the_middle_of_an_epoch_ends_the_run_with_what_to_do():
    how = "killed by signal: Killed|exited unexpectedly"  # by what torch notices first
    ended = rf"^data\.workers: a process that reads images was ended from outside \(({how})\).*data\.workers=0"
    with pytest.raises(UserError, match=ended), plain_sentences():
        list(DataLoader(Killed(), num_workers=1))
    with pytest.raises(RuntimeError, match="another"), plain_sentences():
        raise RuntimeError("another")
