"""`data.augment_on=device`: what is drawn for each image on the host, applied to a whole batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data.augmentation import MARGIN
from peftbench.data.base import Split
from peftbench.data.drawn_changes import Drawn, applied
from peftbench.data.images import Images, Indices, Transform, ready
from support.datasets import load

HALF = (0.5,) * 3


def images(augment: str, on: str, size: int, frames: int | None = None, seed: int = 0) -> Images:
    kept = round(size * MARGIN.get(augment, 1.0))
    smooth = np.random.default_rng(seed).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
    made = Images(
        Split(list(smooth), np.arange(6), [str(i) for i in range(6)]),
        Transform(size, "bilinear", HALF, HALF, augment, augment_on=on),
        "refuse",
        1.0,
        lambda done, of: None,
    )
    made.load()
    assert made.pixels is not None
    made.pixels[0] = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, kept, kept), dtype=np.uint8))
    return made


@settings(max_examples=25, deadline=None)
@given(augment=st.sampled_from(["flip", "crop", "rrc"]), size=st.integers(4, 40), seed=st.integers(0, 2**31))
def test_the_device_s_form_agrees_with_the_host_s(augment, size, seed):
    host, device = (
        images(augment, on, size, seed=seed % 7).__getitems__(Indices(range(6), seed)) for on in ("host", "device")
    )
    assert isinstance(device, Drawn)
    there = ready(device, size)
    assert torch.equal(there.targets, host.targets)
    assert there.images.dtype == torch.uint8
    assert there.images.shape == host.images.shape
    if augment == "rrc":  # the host rounds between rows and columns
        assert (there.images.int() - host.images.int()).abs().max() <= 1
    else:
        assert torch.equal(there.images, host.images)


def test_all_frames_of_a_clip_change_alike():
    one = images("rrc", "device", 16).__getitems__(Indices(range(6), 3))
    clips = one._replace(images=one.images[:, None].expand(-1, 2, -1, -1, -1))
    moved = applied(clips, 16)
    assert moved.shape == (6, 2, 3, 16, 16)
    assert torch.equal(moved[:, 0], applied(one, 16))
    assert torch.equal(moved[:, 1], moved[:, 0])


@pytest.mark.parametrize("augment", ["flip", "rrc"])
def test_only_training_images_are_left_to_the_device(augment):
    made = images(augment, "device", 16)
    plain = Images(made.split, made.transform.plain(), "refuse", 1.0, lambda done, of: None)
    assert not isinstance(plain.__getitems__(Indices(range(6), 3)), Drawn)
    loaders = load((made.split, made.split, None), augment=augment, augment_on="device")
    assert [type(batch).__name__ for role in (loaders.train, loaders.val) for batch in role] == ["Drawn", "Batch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data.augment=trivial"],
            "data.augment_on=device: applies data.augment=flip, crop or rrc, not data.augment=trivial.",
        ),
        (
            ["data.augment=flip", "data.jitter=0.4"],
            "data.jitter=0.4: is not applied by data.augment_on=device; leave one of them out.",
        ),
        (
            ["data.augment=flip", "taps.views=2"],
            "taps.views=2: fixed views are made on the host; leave data.augment_on=device out.",
        ),
    ],
)
def test_what_is_not_applied_there_is_refused(cli, words, said):
    status, _, err = cli("method=linear", "backbone=vit_nano", "data=digits", "data.augment_on=device", *words)
    assert (status, err.count(said)) == (2, 1), err


@pytest.mark.slow
def test_a_run_with_flips_on_the_device_has_the_metrics_of_the_host_s(cli, tiny, tmp_path):
    import json

    metrics = []
    for on in ("host", "device"):
        out = tmp_path / on
        status, _, err = cli(
            *tiny,
            "method=bitfit",
            "data.augment=flip",
            f"data.augment_on={on}",
            f"output_dir={out}",
            "optimizer.find_lr=true",
        )
        assert status == 0, err
        (record,) = out.glob("*/result.json")
        metrics.append(json.loads(record.read_text())["metrics"])
    assert metrics[0] == metrics[1]
