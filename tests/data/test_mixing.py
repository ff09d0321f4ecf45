"""Images that are changed and mixed by their place: as torchvision does it, in any process, after any stop."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from peftbench.data.base import Split
from peftbench.data.loading import Loaders, Share
from support.clips import clip
from support.datasets import arrays, load

CLASSES = 5
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def split() -> Split:
    return arrays([i % CLASSES for i in range(22)])


def drawn(made: Loaders, epoch: int = 0, done: int = 0) -> Batches:
    made.order.place = lambda: (epoch, done)
    return [(batch.images, batch.targets) for batch in made.train]


def same(a: Batches, b: Batches) -> bool:
    pairs = [(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


CHANGES = [
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"mixup": 0.4, "cutmix": 1.0, "augment": "rrc", "jitter": 0.5, "erase": 0.5, "sampler": "balanced"},
    {"jitter": 0.4},
    {"erase": 0.7},
    {"augment": "randaugment"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes))
def test_a_batch_is_a_function_of_its_place(split, changes):
    ours = partial(load, (split, None, None), classes=CLASSES, **changes)
    whole = drawn(ours())
    assert same(whole, drawn(ours()))
    assert same(whole[1:], drawn(ours(), done=1))
    assert same(whole, drawn(ours(memory_gb=0.0)))
    assert not same(whole, drawn(ours(), epoch=1))
    assert not same(whole, drawn(ours(seed=4)))
    assert {images.dtype for images, _ in whole} == {torch.uint8}
    assert [len(images) for images, _ in whole] == [8, 8, 6]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes))
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_out_the_very_batch_that_one_would_see(split, changes, processes):
    ours = partial(load, (split, None, None), classes=CLASSES, **changes)
    parts = [drawn(ours(share=Share(process, processes))) for process in range(processes)]
    for at, (images, targets) in enumerate(drawn(ours())):
        for process, part in enumerate(parts):
            assert torch.equal(part[at][0], images[process::processes])
            assert torch.equal(part[at][1], targets[process::processes])


@pytest.mark.parametrize(("key", "kind"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_a_batch_is_mixed_as_torchvision_mixes_it(split, key, kind):
    plain = drawn(load((split, None, None)))
    for (images, labels), (mixed, shares) in zip(
        plain, drawn(load((split, None, None), classes=CLASSES, **{key: 1.0})), strict=True
    ):
        own = shares.gather(1, labels[:, None]).squeeze(1)
        both = labels == labels.roll(1)
        share = float(own[~both].mean())
        assert torch.allclose(own[~both], torch.tensor(share), atol=1e-6), "one draw a batch"
        reference = kind(alpha=1.0, num_classes=CLASSES)
        assert torch.allclose(shares, reference._mixup_label(labels, lam=share), atol=1e-6)
        if key == "mixup":
            expected = reference.transform(images.float(), {"lam": share, "labels": labels, "batch_size": len(labels)})
            assert (mixed.float() - expected).abs().max() <= 0.5 + 1e-3, "rounded to whole pixels"
            continue
        theirs = (mixed == images.roll(1, 0)).all(1) & (mixed != images).any(1)
        ours = (mixed == images).all(1)
        assert (ours | theirs).all()
        assert theirs.float().mean() == pytest.approx(1 - share, abs=0.01)
        place = theirs.any(0).nonzero()
        if len(place):  # one rectangle, the same in all images
            (top, left), (bottom, right) = place.min(0).values.tolist(), place.max(0).values.tolist()
            assert theirs[:, top : bottom + 1, left : right + 1].float().mean() > 0.99


def test_of_both_each_has_some_batches(split):
    kinds = set()
    for epoch in range(6):
        plain = drawn(load((split, None, None)), epoch)
        mixed = drawn(load((split, None, None), classes=CLASSES, mixup=1.0, cutmix=1.0), epoch)
        for (images, _), (changed, _) in zip(plain, mixed, strict=True):
            copied = (changed == images) | (changed == images.roll(1, 0))
            kinds.add(bool(copied.all()))
    assert kinds == {True, False}


def test_targets_that_are_numbers_or_shares_are_mixed_as_they_are(split):
    for labels in (np.linspace(0, 9, 22, dtype=np.float32), np.eye(4, dtype=np.float32)[split.labels % 4]):
        of_numbers = Split(split.images, labels, split.names)
        plain = drawn(load((of_numbers, None, None)))
        mixed = drawn(load((of_numbers, None, None), mixup=1.0))
        for (_, before), (_, after) in zip(plain, mixed, strict=True):
            assert after.shape == before.shape
            assert torch.allclose(after.sum(0), before.sum(0), atol=1e-4), "each counts as much as before"
            assert not torch.equal(after, before)


def test_what_is_evaluated_is_neither_changed_nor_mixed(split):
    many = {"mixup": 1.0, "erase": 1.0, "jitter": 1.0, "sampler": "balanced", "classes": CLASSES}
    changed, plain = load((split, split, split), **many), load((split, split, split))
    for role in ("val", "test"):
        pairs = zip(getattr(changed, role), getattr(plain, role), strict=True)
        assert all(torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) for a, b in pairs)


def test_erasing_leaves_a_rectangle_of_the_mean_in_its_share_of_images(split):
    many = Split(np.repeat(split.images, 10, 0), np.repeat(split.labels, 10), list(split.names) * 10)
    share = 0.3
    images = torch.cat([i for i, _ in drawn(load((many, None, None), erase=share))])
    grey = (images == 128).all(1).flatten(1).float().mean(1)  # a mean of 0.5
    assert (grey > 0.01).float().mean() == pytest.approx(share, abs=0.1)


def test_the_global_random_state_is_left_alone(split):
    made = load((split, None, None), mixup=1.0, cutmix=1.0, erase=1.0, jitter=1.0, classes=CLASSES)
    before = torch.get_rng_state()
    for batch in made.order:
        made.train.dataset.__getitems__(batch)
    assert torch.equal(torch.get_rng_state(), before)


def test_clips_are_mixed_whole(tmp_path):
    paths = [clip(tmp_path / str(i), [20 * i + 100, 20 * i + 103]) for i in range(6)]
    clips = Split(paths, np.arange(6) % 3, [p.name for p in paths], frames=2)
    made = load((clips, None, None), mixup=1.0, erase=0.5, jitter=0.2, classes=3, batch_size=6)
    ((images, targets),) = drawn(made)
    assert images.shape == (6, 2, 3, 16, 16)
    assert torch.allclose(targets.sum(1), torch.ones(6))


def test_worker_processes_make_the_same_batches(split):
    here, there = (load((split, None, None), mixup=0.4, classes=CLASSES, workers=n) for n in (0, 1))
    assert same(drawn(here), drawn(there))
