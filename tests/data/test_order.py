"""The order of batches: each image once, shared out over ranks, the same when resumed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data.images import Indices
from peftbench.data.loading import BatchOrder, Share

orders = {
    "size": st.integers(1, 70),
    "per_process": st.integers(1, 9),
    "processes": st.integers(1, 4),
    "seed": st.integers(0, 2**40),
    "epoch": st.integers(0, 30),
}


def order(size: int, batch: int, seed: int = 0, place: tuple[int, int] = (0, 0), **more: object) -> list[Indices]:
    return list(BatchOrder(size, batch, seed, **({"shuffle": True} | more), place=lambda: place))


@given(**orders)
@settings(deadline=None)
def test_an_epoch_shows_every_image_once_but_for_a_trailing_batch_that_is_too_small(
    size, per_process, processes, seed, epoch
):
    batch = per_process * processes
    seen = [
        i
        for process in range(processes)
        for b in order(size, batch, seed, (epoch, 0), share=Share(process, processes))
        for i in b
    ]
    rest = size % batch
    dropped = rest if size > batch and rest < max(2, processes) else 0
    assert len(seen) == len(set(seen)) == size - dropped
    assert set(seen) <= set(range(size))


@given(**orders)
@settings(deadline=None)
def test_the_processes_share_out_each_batch(size, per_process, processes, seed, epoch):
    batch = per_process * processes
    shares = [order(size, batch, seed, (epoch, 0), share=Share(process, processes)) for process in range(processes)]
    whole = order(size, batch, seed, (epoch, 0))
    assert len({len(s) for s in shares}) == 1
    for parts, together in zip(zip(*shares, strict=True), whole, strict=False):
        assert sorted(i for part in parts for i in part) == sorted(together)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        if size >= processes:
            assert min(map(len, parts)) > 0


@given(**orders, done=st.integers(0, 80), shuffle=st.booleans())
@settings(deadline=None)
def test_a_resumed_order_is_the_rest_of_the_whole_one(size, per_process, processes, seed, epoch, done, shuffle):
    batch = per_process * processes
    whole, rest = (
        order(size, batch, seed, (epoch, at), share=Share(processes - 1, processes), shuffle=shuffle)
        for at in (0, done)
    )
    assert rest == whole[done:]
    assert [b.seed for b in rest] == [b.seed for b in whole[done:]]


@given(epochs=st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_epochs_and_seeds_differ_and_each_repeats_itself(epochs, seed):
    first, second = (order(40, 40, seed, (e, 0)) for e in epochs)
    assert first == order(40, 40, seed, (epochs[0], 0))
    assert first != second
    assert first[0].seed != second[0].seed
    assert first != order(40, 40, seed + 1, (epochs[0], 0))


def test_every_batch_process_and_epoch_has_a_seed_of_its_own():
    seeds = [b.seed for e in range(5) for r in range(2) for b in order(40, 4, 0, (e, 0), share=Share(r, 2))]
    assert len(seeds) == len(set(seeds)) == 100


def test_evaluation_goes_through_the_images_as_they_lie():
    made = order(10, 4, shuffle=False)
    assert made == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.seed for b in made] == [None] * 3


def test_a_limit_shortens_the_epoch():
    assert len(order(100, 10, limit=3)) == len(BatchOrder(100, 10, 0, True, limit=3)) == 3
    assert len(order(20, 10, limit=3)) == 2
