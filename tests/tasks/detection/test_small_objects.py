"""Objects that are less than a pixel once their image is resized: counted in a note, refused where they are many."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftbench.common.errors import Refusal
from peftbench.data.boxes import BoxSplit, Objects, box_split
from peftbench.data.images import Indices
from peftbench.tasks.detection.scenes import Scenes, SceneTransform
from peftbench.tasks.detection.small_objects import note_small_objects
from support.coco import box, write

SMALL_INPUT = SceneTransform((64, 64), (64,), 64, "bilinear", (0.5,) * 3, (0.5,) * 3)


def split(sides: list[int], size: tuple[int, int] = (1000, 1000), crowd: bool = False) -> BoxSplit:
    """Images with two objects each, squares of these sides."""
    rows = []
    for number, side in enumerate(sides):
        boxes = np.array([[5, 5, 5 + side, 5 + side], [50, 50, 50 + side, 50 + side]], dtype=np.float32)
        crowds = np.full(2, crowd)
        rows.append(Objects(number, size, boxes, np.zeros(2, np.int64), crowds, np.full(2, side**2, np.float32)))
    return box_split([], rows, [f"{number}.png" for number in range(len(sides))], [1])


def test_what_the_input_loses_is_noted_up_to_a_share_and_then_refused():
    some = split([7] + [40] * 9)
    (note,) = note_small_objects(SMALL_INPUT, (some, None, None), 0.1)
    assert note == (
        "data.size=[64, 64]: 2 of the 20 objects to train on are less than a pixel wide or high once their images are "
        "resized to that, such as one of 7 x 7 pixels in 0.png (1000 x 1000); they are left out"
    )
    with pytest.raises(Refusal) as told:
        note_small_objects(SMALL_INPUT, (split([7] * 10), some, some), 0.1)
    assert str(told.value).startswith("data.size=[64, 64]: 20 of the 20 objects to train on are less than a pixel")
    assert str(told.value).endswith("or a larger share to leave out, such as data.dropped=1.")
    notes = note_small_objects(SMALL_INPUT, (split([7] * 10), some, split([7])), 1.0)
    assert [note.partition(": ")[2][:30] for note in notes] == [
        "20 of the 20 objects to train ",
        "2 of the 20 objects to validat",
        "2 of the 2 objects to test on ",
    ]


def test_images_that_keep_their_shape_are_judged_at_their_own_size():
    free = dataclasses.replace(SMALL_INPUT, size=None, min_size=(32, 64), max_size=2000)
    assert note_small_objects(free, (split([16]), None, None), 0.1) == []
    with pytest.raises(Refusal, match=r"data\.min_size and data\.max_size=64 and 2000: 2 of the 2 objects"):
        note_small_objects(free, (split([15]), None, None), 0.1)


def test_crowds_and_images_without_objects_count_for_nothing():
    assert note_small_objects(SMALL_INPUT, (split([7], crowd=True), split([]), None), 0.0) == []


@pytest.mark.parametrize("side", [3, 10, 15, 16, 17, 31])
@pytest.mark.parametrize("size", [(1000, 1000), (700, 1000), (999, 333), (200, 100)])
def test_what_is_counted_is_what_training_leaves_out(side, size):
    made = split([side], size)
    scenes = Scenes(made, SMALL_INPUT, "refuse", 0.0, lambda done, of: None)
    scenes.stored = lambda rows: []  # no pixels are needed
    lost = 2 - len(scenes.__getitems__(Indices([0], None)).targets[0]["boxes"])
    notes = note_small_objects(SMALL_INPUT, (made, None, None), 1.0)
    assert bool(notes) == bool(lost)
    if lost:
        assert f": {lost} of the 2 objects to train on" in notes[0]


def test_a_run_on_objects_that_vanish_is_refused(cli, tmp_path):
    content: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "5.png", "height": 200, "width": 300}],
        "categories": [{"id": 1, "name": "seed"}],
        "annotations": [box(i, 5, 1, (9 * i, 9, 3, 3)) for i in range(1, 5)],
    }
    root = write(write(tmp_path / "set", content), content, "annotations/instances_val.json")
    Image.new("RGB", (300, 200)).save(root / "images" / "5.png")
    words = ["method=linear", "backbone=resnet_nano", "data=coco_folder", f"data.root={root}", "data.size=[64,64]"]
    status, _, told = cli(*words, "task.width=64", "task.hidden=16", "task.rois=16", "trainer.progress=false")
    assert status == 2
    assert "data.size=[64, 64]: 4 of the 4 objects to train on are less than a pixel wide or high" in told
    assert "such as one of 3 x 3 pixels in 5.png (300 x 200)" in told
    assert not list(tmp_path.glob("*/delta.safetensors"))
