"""An error in a loader's worker process is told by its sentence alone."""

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


@pytest.mark.parametrize("kind", [UserError, Refusal])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_s_error_is_one_sentence_of_the_same_kind(kind, workers):
    with pytest.raises(kind) as refusal, plain_sentences():
        list(DataLoader(Refusing(kind), num_workers=workers))
    assert type(refusal.value) is kind
    assert str(refusal.value) == "a.png: cannot be read (UserError: so it says)."
