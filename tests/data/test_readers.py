"""How many processes read: `data.workers=auto`; and `data.draft`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.data import readers
from peftbench.data.base import Split
from peftbench.data.decoding import Resizing, decode_image, open_rgb
from support.datasets import load, noise, write

LONG = {"images": 5000, "batch_bytes": 2**20, "from_memory": False, "again": True, "share": 4}


@pytest.fixture
def room(monkeypatch):
    """Sets how many bytes are free for handing tensors over."""

    def give(free: int) -> None:
        monkeypatch.setattr(readers.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    give(2**34)
    return give


@pytest.mark.parametrize(
    ("changes", "workers"),
    [
        ({}, 4),
        ({"share": 64}, readers.MOST),
        ({"share": 1}, 1),
        ({"share": 1, "from_memory": True}, 0),
        ({"images": 100}, 0),
        ({"images": 600, "from_memory": True}, 0),
        ({"images": 600}, 4),
    ],
)
def test_processes_are_as_many_as_there_are_cores_where_they_are_worth_it(room, changes, workers):
    assert readers.reading("auto", **LONG | changes)["num_workers"] == workers


def test_what_was_asked_for_is_what_there_is(room):
    assert readers.reading(3, **LONG | {"images": 10})["num_workers"] == 3
    assert readers.reading(0, **LONG) == {"num_workers": 0}


def test_what_is_read_ahead_fits_where_processes_hand_it_over(room):
    assert readers.reading("auto", **LONG)["prefetch_factor"] == 8
    room(64 * 2**20)  # as containers have it
    few = readers.reading("auto", **LONG | {"batch_bytes": 10 * 2**20})
    assert few["num_workers"] == 2
    assert few["prefetch_factor"] == 2
    assert readers.reading("auto", **LONG | {"batch_bytes": 2**25})["num_workers"] == 0


def test_processes_live_on_between_epochs_and_see_the_next_epoch_s_order(tmp_path):
    paths = [write(tmp_path / f"{i:02d}.png", pixels) for i, pixels in enumerate(noise(20, 24))]
    split = Split(paths, np.arange(20), [p.name for p in paths])
    here, there = (load((split, None, None), augment="rrc", memory_gb=0.0, workers=n) for n in (0, 1))
    pids = set()
    for epoch in range(2):
        for made in (here, there):
            made.order.place = lambda epoch=epoch: (epoch, 0)
        for one, other in zip(here.train, there.train, strict=True):
            assert (one.images == other.images).all()
            assert (one.targets == other.targets).all()
        pids.add(there.train._iterator._workers[0].pid)
    assert len(pids) == 1


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_draft_is_decoded_smaller_and_looks_the_same(tmp_path, turned, resize):
    path, upright = tmp_path / "a.jpg", (400, 600)  # height and width
    smooth = Image.fromarray(noise(1, 9)[0]).resize(upright if turned else upright[::-1], Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    smooth.save(path, quality=95, exif=exif)
    assert open_rgb(path, needed=(90, 120)).size == (150, 100)
    assert open_rgb(path, needed=(90, 160)).size == (300, 200)
    assert open_rgb(path).size == (600, 400)
    whole, draft = (decode_image(path, 64, Resizing("bicubic", resize, draft=d)) for d in (False, True))
    assert (whole != draft).any()
    assert np.abs(whole.astype(int) - draft).mean() < 4


class KeptRows:
    """Taps in memory of 20 images, each its row."""

    bytes, device, held_on = 80, torch.device("cpu"), None

    def __len__(self):
        return 20

    def __call__(self, rows):
        return [rows[:, None].float()]


def test_kept_taps_are_read_by_the_training_process(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "WORTH_FROM_DISK", 1)
    paths = [write(tmp_path / f"{i:02d}.png", pixels) for i, pixels in enumerate(noise(20, 24))]
    split = Split(paths, np.arange(20), [p.name for p in paths])
    chosen, given = (load((split, None, None), memory_gb=0.0, workers=n) for n in ("auto", 1))
    assert chosen.train.num_workers >= 1
    for made in (chosen, given):
        made.train.dataset.stored = KeptRows()
        made.load(lambda done, of: None)
    assert (chosen.train.num_workers, given.train.num_workers) == (0, 1)
    assert sum(len(batch.taps[0]) for batch in chosen.train) == 20
