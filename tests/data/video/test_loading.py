"""Loading of clips: whole, augmented alike, shared out, and damaged ones named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.images import Indices, Transform
from peftbench.data.loading import Share, loaders
from peftbench.data.video_folder import VideoFolder
from support.clips import images, tree
from support.datasets import options


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("augment", ["none", "flip", "crop", "rrc", "trivial"])
def test_a_batch_is_clips_and_augmentation_is_the_same_for_all_frames(tmp_path, augment, memory_gb):
    rng = np.random.default_rng(0)
    for label in "ab":
        pixels = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        (tmp_path / label / "c").mkdir(parents=True)
        for i in range(3):
            pixels.save(tmp_path / label / "c" / f"{i}.png")
    still = VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0, frames=3).load().train
    made = images(still, augment, memory_gb)
    seen = set()
    for seed in range(6):
        batch = made.__getitems__(Indices([0, 1, 0], seed))
        assert (batch.images.shape, batch.images.dtype) == ((3, 3, 3, 8, 8), torch.uint8)
        assert batch.targets.tolist() == [0, 1, 0]
        assert torch.equal(batch.images, batch.images[:, :1].expand_as(batch.images))
        seen.add(batch.images.numpy().tobytes())
    assert (len(seen) == 1) == (augment == "none")


def test_fixed_views_of_a_clip_are_whole_clips(split):
    made = images(split, "crop", views=2)
    assert made.rows == 20
    pictures = made.pictures(torch.arange(4))
    assert pictures.shape == (4, 2, 3, 8, 8)
    assert torch.equal(pictures, images(split, "crop", 0.0, 2).pictures(torch.arange(4)))


def test_clips_of_which_taps_are_stored_leave_their_shape(split):
    made = images(split)
    made.stored = lambda rows: [torch.zeros(len(rows), 2, 5, 7)]
    batch = made.__getitems__(Indices([3, 1, 2], None))
    assert batch.images.shape == (3, 2, 3, 0, 0)
    assert batch.taps[0].shape == (6, 5, 7)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_workers_and_processes_share_the_same_clips(split, memory_gb):
    transform = Transform(8, "nearest", (0.5,) * 3, (0.5,) * 3, "flip")
    few = {"batch_size": 4, "eval_batch_size": 4, "memory_gb": memory_gb}
    whole, apart = (loaders((split, split, None), transform, options(workers=n, **few), seed=0) for n in (0, 1))
    for a, b in zip(whole.train, apart.train, strict=True):
        assert torch.equal(a.images, b.images)
    roles = (split, split.take([0]), None)
    parts = [loaders(roles, transform, options(**few), seed=0, share=Share(r, 2)) for r in (0, 1)]
    assert [next(iter(p.val)).images.shape[1:] for p in parts] == [(2, 3, 8, 8)] * 2  # the second has no clip at all
    assert sorted(t for p in parts for b in p.train for t in b.targets.tolist()) == sorted(split.labels.tolist())


def test_memory_counts_every_frame(split):
    size = 10 * 2 * 3 * 8 * 8 / 2**30
    assert images(split, memory_gb=size).fits
    assert not images(split, memory_gb=size * 0.99).fits


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_damaged_and_empty_clips_are_named_with_the_frame_or_left_out(tmp_path, memory_gb):
    tree(tmp_path)
    broken = tmp_path / "a" / "c1"
    (broken / "0.png").write_bytes((broken / "0.png").read_bytes()[:40])
    (tmp_path / "b" / "empty").mkdir()
    split = VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0, frames=3).load().train
    for at, what in ((1, "cannot be read as a clip (0.png: "), (-1, "cannot be read as a clip (it holds no frames)")):
        with pytest.raises(UserError) as refusal:
            images(split, memory_gb=0.0).pictures(torch.tensor([range(len(split))[at]]))
        assert str(refusal.value).startswith(f"{split.images[at]}: {what}")
        assert "leave such clips out with data.on_error=skip" in str(refusal.value)
    made = images(split, memory_gb=memory_gb, on_error="skip")
    assert made.skipped == [str(broken), str(tmp_path / "b" / "empty")]
    assert made.split.frames == 3
    assert made.pictures(torch.arange(len(made))).shape == (9, 3, 3, 8, 8)
