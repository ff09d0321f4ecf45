"""A batch that cannot be handed over: a sentence that names `data.workers`, and nobody waits for ever."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from peftbench.common.errors import UserError
from peftbench.data.batch_indices import Indices, Whole
from peftbench.data.readers import reading
from peftbench.data.worker_handover import whole_batch
from peftbench.training.worker_errors import plain_sentences


class Batches(Dataset):
    """Two batches; what cannot be pickled stands in for whatever the handing over meets."""

    def __init__(self, unpicklable: bool = False) -> None:
        self.unpicklable = unpicklable

    def __getitems__(self, indices):
        return {"images": [torch.ones(2, 3)], "rest": (lambda: 0) if self.unpicklable else (torch.zeros(1), "a")}


def batches(images: Dataset) -> list:
    options = reading(1, images=4, batch_bytes=24, from_memory=False, again=False, share=1)
    loader = DataLoader(images, batch_sampler=[[0, 1], [2, 3]], collate_fn=whole_batch, timeout=60, **options)
    with plain_sentences():
        return list(loader)


def no_room(tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_too_little_shared_memory_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    told = r"^data\.workers: the memory that processes share cannot take a batch of 28 B \(unable .* \(28\)\); give"
    with pytest.raises(UserError, match=told):
        batches(Batches())


def test_a_process_whose_batch_never_comes_ends_and_is_not_waited_for():
    with pytest.raises(UserError, match=r"^data\.workers: a process that reads images was ended from outside"):
        batches(Batches(unpicklable=True))


def test_what_a_process_is_told_to_read_needs_no_shared_memory():
    whole = Whole(torch.tensor([5, 3, 1]), torch.tensor([0, 2]), 9)
    told = pickle.dumps(Indices([5, 1], 7, whole))
    assert b"torch._utils" not in told
    back = pickle.loads(told)
    assert (back, back.seed, back.whole.seed) == ([5, 1], 7, 9)
    assert all(torch.equal(a, b) for a, b in zip(back.whole[:2], whole[:2], strict=True))
    assert pickle.loads(pickle.dumps(Indices([4], None))).whole.indices.tolist() == [4]
