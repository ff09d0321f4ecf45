"""Loaders: the same batches from memory and disk, from workers, over ranks, and after resuming."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftbench.common.errors import UserError
from peftbench.data.base import Split
from peftbench.data.decoding import decode_image
from peftbench.data.images import Indices
from peftbench.data.loading import Loaders, Share
from support.datasets import load, noise, write


@pytest.fixture
def files(tmp_path) -> Split:
    """Twenty image files, each of a class of its own."""
    paths = [write(tmp_path / f"{i:02d}.png", pixels) for i, pixels in enumerate(noise(20, 24))]
    return Split(paths, np.arange(20), [p.name for p in paths])


def drawn(made: Loaders, epoch: int = 0, done: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made.order.place = lambda: (epoch, done)
    return [(batch.images, batch.targets) for batch in made.train]


def same(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


AUGMENTS = ["none", "flip", "crop", "rrc", "trivial", "randaugment"]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_images_in_memory_and_from_disk_make_the_same_batches(files, augment):
    kept, read = (load((files, None, None), augment=augment, memory_gb=gb) for gb in (1.0, 0.0))
    for made in (kept, read):
        made.load(lambda done, of: None)
    assert kept.train.dataset.pixels is not None
    assert read.train.dataset.pixels is None
    assert same(drawn(kept), drawn(read))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_batch_is_uint8_images_of_the_input_size_and_their_labels(files, augment):
    made = drawn(load((files, None, None), augment=augment))
    assert [tuple(x.shape) for x, _ in made] == [(8, 3, 16, 16), (8, 3, 16, 16), (4, 3, 16, 16)]
    assert {x.dtype for x, _ in made} == {torch.uint8}
    assert sorted(y for _, labels in made for y in labels.tolist()) == list(range(20))


def test_images_keep_their_labels(files):
    for pixels, labels in drawn(load((files, None, None))):
        for image, label in zip(pixels, labels, strict=True):
            assert (image.numpy() == decode_image(files.images[int(label)], 16, "bilinear")).all()


@pytest.mark.parametrize("augment", AUGMENTS[1:])
def test_augmentation_repeats_for_a_seed_and_differs_between_epochs_and_seeds(files, augment):
    made = load((files, None, None), augment=augment)
    assert same(drawn(made), drawn(made))
    assert same(drawn(made), drawn(load((files, None, None), augment=augment)))
    assert same(drawn(made)[1:], drawn(made, done=1))
    first, second, other = (
        by_label(d) for d in (drawn(made), drawn(made, 1), drawn(load((files, None, None), augment=augment, seed=4)))
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def by_label(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    pixels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    return pixels[labels.argsort()]


def test_augmentation_leaves_the_global_random_state_alone(files):
    made = load((files, None, None), augment="trivial")
    before = torch.get_rng_state()
    made.train.dataset.__getitems__(Indices(range(8), 5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("role", [1, 2])
def test_validation_and_test_images_are_not_augmented(files, role):
    roles = [files, None, None]
    roles[role] = files
    made = load(tuple(roles), augment="rrc")
    loader = (made.val, made.test)[role - 1]
    batches = [(batch.images, batch.targets) for batch in loader]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(20))
    expected = np.stack([decode_image(p, 16, "bilinear") for p in files.images])
    assert (torch.cat([pixels for pixels, _ in batches]).numpy() == expected).all()


def test_worker_processes_make_the_same_batches(files):
    here, there = (load((files, None, None), augment="rrc", memory_gb=0.0, workers=n) for n in (0, 2))
    assert same(drawn(here), drawn(there))


def test_processes_see_parts_of_the_same_batches(files):
    parts = [drawn(load((files, None, None), share=Share(process, 2))) for process in range(2)]
    for (_, whole), (_, a), (_, b) in zip(drawn(load((files, None, None))), *parts, strict=True):
        assert sorted(whole.tolist()) == sorted(a.tolist() + b.tolist())


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_processes_evaluate_every_image_once_even_when_one_is_left_over(files, memory_gb):
    odd = files.take(range(17))
    made = [load((files, odd, None), share=Share(r, 2), eval_batch_size=8, memory_gb=memory_gb) for r in range(2)]
    seen = [y for one in made for batch in one.val for y in batch.targets.tolist()]
    assert sorted(seen) == list(range(17))


@pytest.mark.slow
def test_two_processes_evaluate_a_last_batch_of_one_image(cli, tiny):
    words = ["trainer=ddp", "trainer.accelerator=cpu", "data.eval_batch_size=299"]  # of 599 test images
    status, out, err = cli(*tiny, "method=linear", *words, "trainer.max_batches=3")
    assert (status, err) == (0, ""), out


def test_a_batch_that_cannot_be_shared_evenly_is_refused(files):
    with pytest.raises(UserError, match=r"data\.batch_size=9: cannot be shared evenly by 2 devices"):
        load((files, None, None), batch_size=9, share=Share(0, 2))


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_skipped_images_of_every_role_are_named(files, memory_gb):
    for index in (3, 15):
        files.images[index].write_bytes(b"no image")
    roles = (files.take(range(10)), files.take(range(10, 20)), None)
    made = load(roles, batch_size=3, on_error="skip", memory_gb=memory_gb)
    assert made.skipped == (str(files.images[3]), str(files.images[15]))
    assert (made.order.size, len(made.train.dataset), len(made.val.dataset)) == (9, 9, 9)
    labels = [y for _, ys in drawn(made) for y in ys.tolist()]
    assert sorted(labels) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_reading_images_is_watched_to_the_end(files):
    seen = []
    load((files, None, None)).load(lambda done, of: seen.append((done, of)))
    assert seen == sorted(set(seen))
    assert {of for _, of in seen} == {20}
    assert seen[-1] == (20, 20)
