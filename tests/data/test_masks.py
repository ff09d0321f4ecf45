"""What mask files hold, and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.class_list import coding_of_values, read_classes
from peftbench.data.masks import IGNORED, MaskFile, counts_of_pixels
from support.segmentation import COLOURS, mask_image, write_mask

NAMES = ("ground", "red", "blue")
TABLE = "name,r,g,b\nground,0,0,0\nred,255,0,0\nblue,0,128,255\nignored,9,9,9\n"


def coloured(folder):
    (folder / "classes.csv").write_text(TABLE)
    return read_classes(folder / "classes.csv", (IGNORED,))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    names, coding = coloured(tmp_path_factory.mktemp("classes"))
    assert names == NAMES
    return coding


@settings(max_examples=25)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from([0, 1, 2])))
def test_values_a_palette_and_colours_say_the_same(colours, mask):
    values = coding_of_values(NAMES)
    for mode, coding in (("L", values), ("P", values), ("P", colours), ("RGB", colours)):
        assert np.array_equal(coding.decode(mask_image(mask, mode), "mask"), mask), mode


def test_a_palette_in_another_order_is_read_by_its_colours(tmp_path):
    (tmp_path / "classes.csv").write_text(TABLE)
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([part for colour in reversed(COLOURS) for part in colour])
    image.save(tmp_path / "mask.png")
    coding = read_classes(tmp_path / "classes.csv", (IGNORED,))[1]
    assert MaskFile(tmp_path / "mask.png", coding).read().tolist() == [[2, 1, 0]]


def test_values_of_their_own_16_bits_and_bits(tmp_path):
    (tmp_path / "classes.csv").write_text("name,value\nroad,7\nwater,300\nignored,0\n")
    names, coding = read_classes(tmp_path / "classes.csv", (IGNORED,))
    assert names == ("road", "water")
    Image.fromarray(np.array([[7, 300, 0, 255]], dtype=np.uint16)).save(tmp_path / "wide.png")
    assert MaskFile(tmp_path / "wide.png", coding).read().tolist() == [[0, 1, 255, 255]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert MaskFile(tmp_path / "bits.png", coding_of_values(("no", "yes"))).read().tolist() == [[1, 0]]


def test_pixels_are_counted_by_class_and_those_ignored_last(tmp_path):
    write_mask(tmp_path / "a.png", np.array([[0, 0, 2], [255, 2, 2]], dtype=np.uint8))
    assert counts_of_pixels([MaskFile(tmp_path / "a.png", coding_of_values(NAMES))], 3).tolist() == [[2, 0, 3, 1]]


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (
            np.array([[0, 7]], dtype=np.uint8),
            "holds the value 7; expected 0 to 2 (3 classes), and 255 where no class is",
        ),
        (np.array([[0, 700]], dtype=np.uint16), "holds the value 700; expected 0 to 2"),
        (
            np.zeros((2, 2, 3), dtype=np.uint8),
            "is in RGB, and nothing says which colour is which class; expected a mask",
        ),
        (np.zeros((2, 2), dtype=np.float32), "is of mode F; expected a mask of one value a pixel"),
    ],
)
def test_masks_that_say_nothing(tmp_path, pixels, told):
    path = tmp_path / ("mask.tif" if pixels.dtype == np.float32 else "mask.png")
    Image.fromarray(pixels).save(path)
    with pytest.raises(UserError) as raised:
        MaskFile(path, coding_of_values(NAMES)).read()
    assert str(raised.value).startswith(f"{path}: {told}")


def test_a_colour_of_no_class_is_named(tmp_path):
    (tmp_path / "classes.csv").write_text(TABLE)
    Image.fromarray(np.full((2, 2, 3), 200, dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"colour \(200, 200, 200\), which is of no class; expected one of the 4"):
        MaskFile(tmp_path / "mask.png", read_classes(tmp_path / "classes.csv", (255,))[1]).read()


def test_a_damaged_mask_is_named(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"mask\.png: cannot be read as a mask"):
        MaskFile(tmp_path / "mask.png", coding_of_values(NAMES)).read()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("classes.csv", "class,r\nroad,1\n", "expected the column name, found class, r"),
        ("classes.csv", "name,r\nroad,1\n", "has some of the columns r, g and b; expected all of them"),
        ("classes.csv", "name,value\nroad,1\nwater,1\n", ":3: the value 1 stands for two rows"),
        ("classes.csv", "name,value\nroad,1\nwater,x\n", ":3: 'x' is no whole number from 0 to 65535"),
        ("classes.csv", "name,r,g,b\nroad,1,2,3\nwater,1,2,3\n", "the colour (1, 2, 3) stands for two rows"),
        ("classes.csv", "name,value\nroad,1\n,2\n", ":3: expected the name of a class"),
        ("classes.txt", "road\nroad\n", "names the class 'road' twice"),
        ("classes.txt", "road\n", "names 1 classes; expected 2 to 255"),
    ],
)  # fmt: skip
def test_lists_of_classes_that_contradict_themselves(tmp_path, file, content, told):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as raised:
        read_classes(tmp_path / file, (IGNORED,))
    assert str(raised.value).startswith(str(tmp_path / file))
    assert told in str(raised.value)
