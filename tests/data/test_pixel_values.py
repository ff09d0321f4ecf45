"""Which values are black and white, and which way up: by an image's type, or as `data.range` says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import peftbench
from peftbench.cli.main import main
from peftbench.common.errors import Refusal, UserError
from peftbench.data.base import Split
from peftbench.data.decoding import open_rgb
from peftbench.data.images import Images, Transform
from peftbench.data.media import upright_size
from support.tiffs import write_colour_tiff, write_tiff

RAMP = np.arange(64, dtype=np.float64).reshape(8, 8) * 4  # 0 to 252
PREPARED = Transform(8, "nearest", (0.0,) * 3, (1.0,) * 3)


def grey(path: Path, values: str | tuple[float, float] = "auto") -> np.ndarray:
    """What a file looks like, (H, W); all three channels are the same."""
    seen = np.asarray(open_rgb(path, values))
    assert (seen == seen[..., :1]).all()
    return seen[..., 0]


KINDS = {
    "8 bits": ("uint8", 1, {}),
    "8 bits, white is 0": ("uint8", 1, {"white_is_zero": True}),
    "12 bits": ("uint16", 4095 / 255, {"bits": 12}),
    "16 bits": ("uint16", 257, {}),
    "16 bits, white is 0": ("uint16", 257, {"white_is_zero": True}),
    "floats": ("float32", 1 / 255, {}),
    "floats, white is 0": ("float32", 1 / 255, {"white_is_zero": True}),
}


@pytest.mark.parametrize(("kind", "unit", "more"), KINDS.values(), ids=KINDS)
def test_a_tiff_of_any_depth_looks_as_its_type_says(tmp_path, kind, unit, more):
    stored = RAMP * unit if kind == "float32" else (RAMP * unit).round()
    path = write_tiff(tmp_path / "x.tif", stored.astype(kind), **more)
    assert np.abs(grey(path) - (255 - RAMP if "white_is_zero" in more else RAMP)).max() <= (12 in more.values())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            (RAMP / 200).astype("float32"),
            "holds floats from 0 to 1.25999999, where only 0 to 1 are known .* data.range=[0,1.25999999].",
        ),
        (np.where(RAMP, RAMP / 255, np.nan).astype("float32"), "and 1 that are no numbers, .* data.range=[0,1]."),
        (RAMP.astype("float32"), "holds floats from 0 to 252, .* data.range=[0,255]."),
        (
            (RAMP / 255 - 1).astype("float32"),
            "holds floats from -1 to -0.01176.*, where only .* data.range=[-1,-0.01176",
        ),
        (np.full((2, 2), -3, dtype="float32"), "holds floats from -3 to -3, .* data.range=[-3,-2]."),
        (RAMP.astype("uint32"), "holds signed or 32-bit whole numbers from 0 to 252, .* data.range=[0,255]."),
        ((RAMP * 9 - 99).astype("int32"), "from -99 to 2169, .* data.range=[-99,2169]."),
        ((RAMP * 9).astype("int16"), "from 0 to 2268, .* data.range=[0,4095]."),
        (RAMP.astype("int8"), "holds signed numbers of 8 bits"),
    ],
)
@pytest.mark.parametrize("on_error", ["refuse", "skip"])
def test_an_image_whose_black_and_white_nobody_knows_is_refused_by_name(tmp_path, values, sentence, on_error):
    path = write_tiff(tmp_path / "x.tif", values)

    def read() -> None:
        Images(Split([path], np.array([0]), ["x"]), PREPARED, on_error, 1.0, lambda done, of: None).load()

    with pytest.raises(Refusal) as told:
        read()
    assert str(told.value).startswith(f"{path}: ")
    rest = str(told.value)
    for part in sentence.split(".*"):
        assert part.strip() in rest
        rest = rest.partition(part.strip())[2]


@given(
    kind=st.sampled_from(["uint16", "int16", "uint32", "int32", "float32"]),
    black=st.integers(-3000, 3000),
    width=st.integers(1, 5000),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_range_makes_its_ends_black_and_white_in_any_type(tmp_path_factory, kind, black, width, seed):
    values = np.random.default_rng(seed).integers(-4000, 9000, (6, 7)).clip(0 if kind[0] == "u" else None, None)
    path = write_tiff(tmp_path_factory.getbasetemp() / "range.tif", values.astype(kind))
    expected = np.clip((values.astype(float) - black) / width, 0, 1) * 255
    assert np.abs(grey(path, (black, black + width)) - expected).max() <= 0.5 + 1e-6


def test_what_is_no_number_is_black_and_without_end_is_cut(tmp_path):
    values = np.array([[np.nan, -np.inf, np.inf, 2.5]], dtype=np.float32)
    assert grey(write_tiff(tmp_path / "x.tif", values), (0, 5)).tolist() == [[0, 0, 255, 128]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK"])
def test_a_range_is_not_for_images_of_eight_bits(tmp_path, mode):
    image = Image.new("RGB", (8, 8), (9, 120, 250)).convert(mode)
    image.save(tmp_path / "x.tif")
    with pytest.raises(Refusal, match=rf"x\.tif: is of mode {mode}, .* data\.range=\[0,4095\] is for grey images"):
        open_rgb(tmp_path / "x.tif", (0, 4095))
    same = np.asarray(open_rgb(tmp_path / "x.tif", (0, 255)))
    assert (same == np.asarray(open_rgb(tmp_path / "x.tif"))).all(), "0 to 255 is what they are"


@pytest.mark.parametrize(("depth", "planes"), [(np.uint8, False), (np.uint8, True), (np.uint16, False)])
def test_colours_of_sixteen_bits_become_those_of_eight(tmp_path, depth, planes):
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3))
    deep = (colours * (257 if depth == np.uint16 else 1)).astype(depth)
    file = write_colour_tiff(tmp_path / "a.tif", deep, planes)
    np.testing.assert_array_equal(np.asarray(open_rgb(file)), colours)


def test_planes_of_sixteen_bits_which_pillow_misreads_are_refused(tmp_path):
    file = write_colour_tiff(tmp_path / "a.tif", np.full((6, 5, 3), 300, np.uint16), planes=True)
    with pytest.raises(Refusal) as told:
        open_rgb(file)
    assert str(told.value) == (
        f"{file}: holds colours of 16 bits, one plane after another, which are not read; convert it to interleaved "
        f"colours, or to 8 bits."
    )


@pytest.mark.parametrize("pixels", [np.full((4, 4), 0.4, np.float32), np.full((4, 4), 26214, np.uint16)])
def test_arrays_and_opened_images_are_read_as_files_are(pixels):
    for source in (pixels, Image.fromarray(pixels)):
        assert np.asarray(open_rgb(source)).tolist() == [[[102] * 3] * 4] * 4
    for unknown in (np.full((4, 4), 1.5, np.float32), np.full((4, 4), 7, np.int32)):
        for source in (unknown, Image.fromarray(unknown)):
            with pytest.raises(Refusal, match="this image: holds"):
                open_rgb(source)


@pytest.mark.parametrize("form", ["jpg", "png", "tif", "lzw.tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_before_reading_is_that_of_the_upright_image(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((16, 48, 3), dtype=np.uint8)
    stored[:, 24:] = 255
    options = {"lzw.tif": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}.get(form, {})
    path = tmp_path / f"x.{form}"
    Image.fromarray(stored).save(path, exif=exif, **options)
    upright = open_rgb(path)
    with Image.open(path) as opened:
        before = upright_size(opened)
        opened.load()
        expected = (48, 16) if orientation > 4 else (16, 48)
        assert before == (upright.height, upright.width) == expected
        assert np.array_equal(np.asarray(open_rgb(opened)), np.asarray(upright)), "an opened image is the same"
    lying = np.asarray(open_rgb(path, annotated=(16, 48))).astype(int)
    assert lying.shape == stored.shape
    if orientation > 4:
        assert np.abs(lying - stored).max() < 40


@pytest.mark.parametrize(
    ("range_", "sentence"),
    [
        ("[1,1]", "data.range=[1.0, 1.0]: expected the value that is black and a larger one that is white"),
        ("[9,2]", "data.range=[9.0, 2.0]: expected the value that is black and a larger one"),
        ("[1]", "data.range=[1]: expected"),
        ("full", "data.range='full': expected 'auto' or a list"),
        ("[0,inf]", "data.range=[0, inf]: expected"),
    ],
)
def test_a_range_that_is_none(range_, sentence):
    with pytest.raises(UserError) as told:
        peftbench.compose("data=digits", f"data.range={range_}")
    assert str(told.value).startswith(sentence)


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    """The same pictures of two classes in 8 bits, and as 32-bit whole numbers from 0 to 4080."""
    root, rng = tmp_path_factory.mktemp("twins"), np.random.default_rng(0)
    for number in range(12):
        values = rng.integers(0, 60, (16, 16))
        values[:, :8] += 150 * (number % 2)
        values[:8] += 150 * (1 - number % 2)
        for form, stored in {"bytes": values.astype("uint8"), "whole": (values * 16).astype("int32")}.items():
            folder = root / form / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stored).save(folder / f"{number:02}.tif")
    return root


def predicted(run: Path, images: Path, out: Path) -> list[str]:
    """The rows of the table, without their first column."""
    assert main(["predict", f"run={run}", f"images={images}", f"out={out}", "device=cpu"]) == 0
    return [row.partition(",")[2] for row in out.read_text().splitlines()]


def test_a_run_and_its_predictions_with_a_range_are_those_on_the_same_pictures_in_bytes(
    twins, cli, tiny, tmp_path, capsys
):
    words = [*(word for word in tiny if word != "data=digits"), "method=linear", "data=folder", "data.val_fraction=0"]
    ranges = {"bytes": ("auto", []), "whole": ([0.0, 4080.0], ["data.range=[0,4080]"])}
    runs, losses, tables = {}, {}, {}
    for form, (range_, asked) in ranges.items():
        assert cli(*words, *asked, f"data.root={twins / form}", f"output_dir={tmp_path / form}")[0] == 0
        (file,) = (tmp_path / form).glob("*/result.json")
        record = json.loads(file.read_text())
        assert record["stamps"]["data"]["transform"]["range"] == range_
        runs[form], losses[form] = file.parent, (record["history"][0]["train_loss"], record["metrics"]["test/loss"])
        tables[form] = predicted(file.parent, twins / form, tmp_path / f"{form}.csv")
    assert losses["whole"] == losses["bytes"]
    assert tables["whole"] == tables["bytes"]
    assert len(tables["whole"]) == 13

    darker = tmp_path / "darker"  # the same files, whose taps are kept by now
    assert cli(*words, "data.range=[0,8160]", f"data.root={twins / 'whole'}", f"output_dir={darker}")[0] == 0
    (file,) = darker.glob("*/result.json")
    assert file.parent.name != runs["whole"].name
    assert json.loads(file.read_text())["metrics"]["test/loss"] != losses["whole"][1]

    capsys.readouterr()
    other = twins / "bytes" / "a"
    assert main(["predict", f"run={runs['whole']}", f"images={other}", "device=cpu"]) == 2
    told = capsys.readouterr().err
    assert "is of mode L, whose black and white are known" in told
    assert "convert it to the kind of image that the run was trained on" in told
    config = runs["whole"] / "config.yaml"
    config.write_text(config.read_text().replace("4080.0", "255.0"))
    with pytest.raises(Refusal, match=r"made with data\.range=\[0\.0, 4080\.0\]"):
        peftbench.load(runs["whole"])


def test_a_run_on_what_has_no_known_range_is_refused_and_names_the_key(twins, cli, tiny, tmp_path):
    words = [word for word in tiny if word != "data=digits"]
    status, _, told = cli(*words, "method=linear", "data=folder", f"data.root={twins / 'whole'}", "data.on_error=skip")
    assert status == 2
    assert "holds signed or 32-bit whole numbers from 0 to" in told
    assert "such as data.range=[0,4095]." in told
    (file,) = tmp_path.glob("*/result.json")
    assert json.loads(file.read_text())["status"] == "refused"
