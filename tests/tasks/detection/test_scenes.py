"""Scenes: boxes go where the pixels go, whatever is done to an image, and batches are those of a resumed run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.boxes import BoxSplit, Objects, box_split
from peftbench.data.images import Batch, Indices
from peftbench.data.loading import BatchOrder, Loaders, loaders
from peftbench.tasks.detection.scenes import SCENES, Scenes, SceneTransform
from support.datasets import options

SIZES = [(60, 100), (100, 60), (80, 80), (30, 120), (64, 48)]  # height, width


def transform(size: tuple[int, int] | None = (64, 96), augment: str = "none", **more: Any) -> SceneTransform:
    """Black is what is padded: the mean of nothing."""
    given = {"min_size": (40, 48, 64), "max_size": 110, "interpolation": "bilinear", "mean": (0.0,) * 3}
    return SceneTransform(size=size, std=(1.0,) * 3, augment=augment, **{**given, **more})


def objects(id_: int, size: tuple[int, int], *boxes: tuple[int, ...], crowd: tuple[bool, ...] = ()) -> Objects:
    whole = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    area = (whole[:, 2:] - whole[:, :2]).prod(axis=1)
    flags = np.array(crowd or [False] * len(whole), dtype=bool)
    return Objects(id_, size, whole, np.arange(len(whole), dtype=np.int64), flags, area)


def one_box(size: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = size
    return width // 5, height // 4, width * 4 // 5, height // 2


def painted(path: Path, size: tuple[int, int], box: tuple[int, int, int, int], mode: str = "RGB", **more: Any) -> Path:
    """A black image with one white box."""
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("RGB").convert(mode).save(path, **more)
    return path


def split(folder: Path, sizes: list[tuple[int, int]] = SIZES) -> BoxSplit:
    """Black images, each with a white box."""
    paths = [painted(folder / f"{i}.png", size, one_box(size)) for i, size in enumerate(sizes)]
    rows = [objects(100 + i, size, one_box(size)) for i, size in enumerate(sizes)]
    return box_split(paths, rows, [p.name for p in paths], [7])


def scenes(of: BoxSplit, how: SceneTransform, on_error: str = "refuse", memory_gb: float = 1.0) -> Scenes:
    return Scenes(of, how, on_error, memory_gb, lambda done, of: None)


def batch(of: Scenes, seed: int | None = None) -> Batch:
    return of.__getitems__(Indices(range(len(of)), seed))


def white(image: torch.Tensor) -> torch.Tensor | None:
    """The box around what is lighter than grey."""
    lit = image.float().mean(0) > 100
    if not lit.any():
        return None
    rows, columns = lit.any(1).nonzero(), lit.any(0).nonzero()
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def test_an_image_in_memory_is_prepared_as_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = painted(tmp_path / "a.png", (40, 60), (5, 5, 50, 20), exif=exif)
    expected, place = transform()(path)
    found, there = transform()(Image.open(path))
    assert torch.equal(found, expected)
    assert there == place
    assert place["original"] == (60, 40)
    with pytest.raises(UserError, match="in a Tensor: expected a file, a PIL image or pixels"):
        transform()(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("size", [None, (64, 96), (96, 96)], ids=str)
@pytest.mark.parametrize("augment", SCENES)
def test_boxes_go_where_the_pixels_go(tmp_path, augment, size):
    made = scenes(split(tmp_path), transform(size, augment))
    seen = 0
    for seed in range(6):
        found = batch(made, seed)
        for image, target in zip(found.images, found.targets, strict=True):
            height, width = target["size"]
            assert not image[:, height:].any(), "padding is below"
            assert not image[:, :, width:].any(), "and right"
            lit = white(image)
            if not len(target["boxes"]):
                assert lit is None or (lit[2:] - lit[:2]).min() <= 3, "cut away, or too small to learn from"
                continue
            assert lit is not None
            torch.testing.assert_close(target["boxes"][0], lit, atol=2.0, rtol=0)
            seen += 1
    assert seen > (20 if augment not in ("lsj", "ssd") else 8)


@pytest.mark.parametrize("augment", [a for a in SCENES if a != "none"])
def test_an_augmentation_changes_from_batch_to_batch_and_is_a_function_of_the_seed(tmp_path, augment):
    made = scenes(split(tmp_path), transform((64, 96), augment))
    boxes = [torch.cat([t["boxes"] for t in batch(made, seed).targets]) for seed in (1, 2, 3, 1)]
    assert torch.equal(boxes[0], boxes[3])
    assert any(b.shape != boxes[0].shape or not torch.equal(b, boxes[0]) for b in boxes[1:3])
    states = torch.random.get_rng_state()
    batch(made, 5)
    assert torch.equal(states, torch.random.get_rng_state()), "the run's own random numbers are left alone"


def test_flips_come_half_the_time(tmp_path):
    off_centre = [objects(i, (20, 40), (2, 5, 12, 15)) for i in range(40)]
    paths = [painted(tmp_path / f"{i}.png", (20, 40), (2, 5, 12, 15)) for i in range(40)]
    made = scenes(box_split(paths, off_centre, [p.name for p in paths], [1]), transform((20, 40), "flip"))
    left = sum(float(t["boxes"][0, 0]) == 2 for t in batch(made, 3).targets)
    assert 10 < left < 30
    assert all(float(t["boxes"][0, 0]) in (2, 28) for t in batch(made, 3).targets)


@pytest.mark.parametrize("augment", SCENES)
def test_memory_decides_nothing_and_a_resumed_run_sees_the_same(tmp_path, augment):
    made = split(tmp_path, SIZES * 2)

    def run(memory_gb: float, done: int) -> list[Batch]:
        few = options(batch_size=3, eval_batch_size=2, memory_gb=memory_gb)
        found = loaders((made, None, None), transform(augment=augment), few, seed=4)
        found.order.place = lambda: (1, done)
        return list(found.train)

    whole, resumed = run(1.0, 0), run(0.0, 2)
    assert len(whole) == 3  # a trailing batch of one image is left out
    assert len(resumed) == 1
    assert torch.equal(whole[2].images, resumed[0].images)
    for ours, theirs in zip(whole[2].targets, resumed[0].targets, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_workers_give_the_same_batches(tmp_path):
    made = split(tmp_path)
    ours, theirs = (
        next(iter(loaders((made, None, None), transform(None, "multiscale"), few, seed=4).train))
        for few in (options(batch_size=3, eval_batch_size=2, workers=workers) for workers in (0, 1))
    )
    assert torch.equal(ours.images, theirs.images)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(ours.targets, theirs.targets, strict=True))


def test_sizes_of_the_input(tmp_path):
    found = batch(scenes(split(tmp_path), transform(None, divisor=16)))
    sizes = [t["size"] for t in found.targets]
    assert sizes == [(64, 107), (107, 64), (64, 64), (28, 110), (85, 64)], "64 on the shorter side, 110 at most"
    assert found.images.shape == (5, 3, 112, 112)
    fixed = batch(scenes(split(tmp_path), transform((64, 96))))
    assert [t["size"] for t in fixed.targets] == [(58, 96), (64, 38), (64, 64), (24, 96), (64, 48)]
    assert fixed.images.shape == (5, 3, 64, 96)
    several = scenes(split(tmp_path, [(60, 100)]), transform(None, "multiscale"))
    drawn = {t["size"] for seed in range(9) for t in batch(several, seed).targets}
    assert drawn == {(40, 67), (48, 80), (64, 107)}


def test_what_is_padded_has_the_colour_of_the_mean(tmp_path):
    found = batch(scenes(split(tmp_path, [(20, 80)]), transform((64, 64), mean=(0.5, 0.25, 1.0))))
    assert found.images[0, :, 40, 40].tolist() == [128, 64, 255]


def test_targets(tmp_path):
    size = (60, 100)
    path = painted(tmp_path / "a.png", size, one_box(size))
    rows = [objects(41, size, (10, 10, 30, 20), (0, 0, 100, 60), (50, 50, 51, 51), crowd=(False, True, False))]
    made = scenes(box_split([path], rows, ["a"], [1, 2, 3]), transform((30, 50)))
    (target,) = batch(made).targets
    assert target["boxes"].tolist() == [[5, 5, 15, 10]], "no crowd, and nothing smaller than a pixel"
    assert target["labels"].tolist() == [0]
    on_the_host = {"size": (30, 50), "scale": (0.5, 0.5), "original": (60, 100), "image_id": 41}
    assert {k: v for k, v in target.items() if not isinstance(v, torch.Tensor)} == on_the_host
    assert target["true_boxes"].tolist() == [[10, 10, 30, 20], [0, 0, 100, 60], [50, 50, 51, 51]]
    assert target["true_crowd"].tolist() == [0, 1, 0]
    assert target["true_area"].tolist() == [200, 6000, 1]
    kinds = {"boxes": torch.float32, "true_boxes": torch.float32, "true_area": torch.float32}
    on_device = {k: v for k, v in target.items() if k not in on_the_host}
    assert {k: v.dtype for k, v in on_device.items()} == {k: kinds.get(k, torch.int64) for k in on_device}
    (trained,) = batch(made, 1).targets
    assert set(trained) == {"boxes", "labels", "size", "scale", "original", "image_id"}


def test_stored_taps_stand_in_for_pixels_and_targets_stay_whole(tmp_path):
    made = scenes(split(tmp_path), transform())
    plain = batch(made)
    made.stored = lambda rows: [rows[:, None].float()]
    found = batch(made)
    assert found.images.shape == (5, 3, 0, 0)
    assert found.taps is not None
    assert found.taps[0].flatten().tolist() == [0, 1, 2, 3, 4]
    for ours, theirs in zip(found.targets, plain.targets, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_grey_and_cmyk_files(tmp_path, mode):
    path = painted(tmp_path / "a.jpg", (40, 60), (12, 10, 48, 20), mode)
    made = scenes(box_split([path], [objects(1, (40, 60), (12, 10, 48, 20))], ["a"], [1]), transform((40, 60)))
    found = batch(made)
    lit = white(found.images[0])
    assert lit is not None
    torch.testing.assert_close(lit, found.targets[0]["boxes"][0], atol=1.0, rtol=0)


@pytest.mark.parametrize("form", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("annotated", ["upright", "raw"])
def test_an_image_is_turned_by_exif_if_it_was_annotated_so(tmp_path, annotated, form):
    """The file holds 40 x 60 pixels, and says that they are to be turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = (6, 10, 48, 20)
    path = painted(tmp_path / f"a.{form}", (40, 60), raw, exif=exif)
    turned = (40 - raw[3], raw[0], 40 - raw[1], raw[2])
    size, place = ((60, 40), turned) if annotated == "upright" else ((40, 60), raw)
    made = scenes(box_split([path], [objects(1, size, place)], ["a"], [1]), transform(None, min_size=(40,)))
    found = batch(made)
    lit = white(found.images[0])
    assert lit is not None
    torch.testing.assert_close(lit, torch.tensor(place).float(), atol=1.0, rtol=0)


# -- images that cannot be used


def damaged(folder: Path) -> BoxSplit:
    made = split(folder)
    (folder / "1.png").write_bytes(b"no image")
    return made


@pytest.mark.parametrize("size", [None, (64, 96)], ids=str)
def test_a_damaged_image_is_named_or_left_out(tmp_path, size):
    made = damaged(tmp_path)
    with pytest.raises(UserError, match=r"1\.png: cannot be read as an image .* data\.on_error=skip"):
        batch(scenes(made, transform(size)))
    left = scenes(made, transform(size), "skip")
    assert [Path(p).name for p in left.skipped] == ["1.png"]
    assert [int(t["image_id"]) for t in batch(left).targets] == [100, 102, 103, 104]


def test_no_image_can_be_read(tmp_path):
    made = split(tmp_path)
    for path in made.images:
        Path(path).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 5 images can be read"):
        scenes(made, transform(), "skip")


def test_an_image_of_another_size_than_annotated_is_named_with_both(tmp_path):
    path = painted(tmp_path / "a.png", (40, 60), (1, 1, 9, 9))
    made = scenes(box_split([path], [objects(1, (40, 61), (1, 1, 9, 9))], ["a"], [1]), transform())
    with pytest.raises(UserError, match=r"a\.png: is 60 x 40 pixels .*say 61 x 40"):
        batch(made)


@pytest.mark.parametrize(
    ("how", "views", "sentence"),
    [
        (transform(augment="trivial"), 0, "data.augment=trivial: is for classification"),
        (transform(augment="flip"), 2, "taps.views=2: fixed views are not offered for detection"),
    ],
)
def test_what_detection_does_not_offer(tmp_path, how, views, sentence):
    with pytest.raises(UserError, match=sentence):
        loaders((split(tmp_path), None, None), how, options(batch_size=2, eval_batch_size=2), seed=0, views=views)


def test_a_file_by_itself(tmp_path):
    path = painted(tmp_path / "a.png", (40, 80), (1, 1, 9, 9))
    image, place = transform((64, 64))(path)
    assert image.shape == (3, 64, 64)
    assert place == {"size": (32, 64), "scale": (0.8, 0.8), "original": (40, 80)}
    path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read as an image"):
        transform()(path)


# -- the order of batches


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 2), min_size=1, max_size=60),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_batches_of_one_group_hold_every_image_once(groups, batch_size, seed, epoch):
    def order(kinds: torch.Tensor | None) -> BatchOrder:
        return BatchOrder(len(groups), batch_size, seed, shuffle=True, place=lambda: (epoch, 0), groups=kinds)

    kinds = torch.tensor(groups)
    made = order(kinds)
    batches = [list(b) for b in made]
    assert batches == [list(b) for b in made], "a function of seed and epoch"
    assert len(batches) == len(made) == len(order(None))
    seen = [i for b in batches for i in b]
    assert len(set(seen)) == len(seen)
    assert len(seen) == len([i for b in order(None) for i in b])
    pure = sum(len(b) == batch_size and len({groups[i] for i in b}) == 1 for b in batches)
    assert pure >= sum(groups.count(kind) // batch_size for kind in set(groups))


def test_training_batches_of_variable_sizes_are_wide_or_tall(tmp_path):
    made = split(tmp_path, [(30, 60), (60, 30)] * 8)
    found: Loaders = loaders((made, made, None), transform(None), options(batch_size=4, eval_batch_size=4), seed=0)
    shapes = {tuple(b.images.shape[2:]) for b in found.train}
    assert shapes == {(64, 128), (128, 64)}
    kinds = [[i % 2 for i in b] for epoch in range(3) for b in _at(found.order, epoch)]
    assert kinds[:4] != sorted(kinds[:4]) or kinds[4:8] != sorted(kinds[4:8]), "wide and tall take turns at random"
    assert found.val is not None
    assert [int(t["image_id"]) for b in found.val for t in b.targets] == list(range(100, 116)), "in the file's order"


def _at(order: BatchOrder, epoch: int) -> list[list[int]]:
    order.place = lambda: (epoch, 0)
    return [list(b) for b in order]


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_colours_are_jittered_and_boxes_stay(tmp_path, augment):
    plain, changed = (
        batch(scenes(split(tmp_path), replace(transform((64, 96), augment), jitter=jitter)), 3) for jitter in (0.0, 0.5)
    )
    if augment == "none":
        pairs = zip(plain.targets, changed.targets, strict=True)
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in pairs)
    assert not torch.equal(plain.images, changed.images)
    still = batch(scenes(split(tmp_path), replace(transform((64, 96), augment), jitter=0.5)))
    assert torch.equal(still.images, batch(scenes(split(tmp_path), transform((64, 96)))).images), "without a seed"
