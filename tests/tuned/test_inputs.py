"""What a tuned model is called with: other things than the batch that its transform makes are refused or noted."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.common.notes import Note
from support.finished_runs import finish, pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = pictures(tmp_path_factory.mktemp("pictures"), train=4, test=2)
    words = ["trainer.max_batches=1", "data.normalize=imagenet"]
    return finish(tmp_path_factory.mktemp("probe"), data, "linear", "resnet_nano", *words).folder


@pytest.fixture(scope="module", params=["tuned", "tasks"])
def model(request, run):
    return peftbench.load(run) if request.param == "tuned" else peftbench.MultiTask(None, {"digits": run})


def name(model):
    return "tasks" if isinstance(model, peftbench.MultiTask) else "tuned"


PIXELS = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("photos/cat.jpg", "are the path photos/cat.jpg"),
        (["a.jpg", "b.jpg"], "are a list of 2, the first the path a.jpg"),
        (Image.new("RGB", (8, 8)), "are a PIL image"),
        ((Image.new("RGB", (8, 8)),), "are a tuple of 1, the first a PIL image"),
        (np.zeros((8, 8, 3), np.uint8), "are a numpy array of shape (8, 8, 3) in uint8"),
        ([PIXELS[0]], "are a list of 1, the first a tensor of shape (3, 32, 32)"),
        (None, "are nothing"),
    ],
)
def test_what_is_no_tensor_is_refused_with_the_way_to_make_one(model, given, what):
    with pytest.raises(peftbench.UserError) as refused:
        model(given)
    told = str(refused.value)
    assert what in told
    assert f"{name(model)}({name(model)}.transform(" in told


@pytest.mark.parametrize(
    "images",
    [PIXELS.float(), PIXELS.half(), PIXELS.to(torch.int16) * 8, PIXELS > 9, PIXELS.to(torch.int64) - 9],
    ids=["float", "half", "more than 8 bits", "truth values", "negative"],
)
def test_pixels_in_another_form_than_uint8_are_refused(model, images):
    with pytest.raises(peftbench.UserError, match=rf"in uint8, as {name(model)}\.transform makes them"):
        model(images)


def test_pixels_from_0_to_1_are_noted_once(model):
    with pytest.warns(Note, match=rf"are float32 from 0 to .*give what {name(model)}\.transform makes"):
        model(PIXELS.float() / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(PIXELS.float() / 255)


def test_normalised_images_and_blank_ones_pass_without_a_word(model):
    right, scale = model(PIXELS), model.model if name(model) == "tuned" else model.tasks["digits"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = model(scale.normalize(PIXELS))
        model(torch.zeros(1, 3, 32, 32))
        model(PIXELS.long())
    torch.testing.assert_close(same, right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_floating_images_of_another_type_are_refused_with_the_right_one(model, dtype):
    images = torch.randn(2, 3, 32, 32).to(dtype)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(peftbench.UserError, match=rf"are {kind}, .* in float32; give images\.to\(torch\.float32"):
        model(images)


def test_autocast_and_a_model_in_another_type_take_their_images(run):
    tuned = peftbench.load(run)
    images = tuned.model.normalize(PIXELS)
    with torch.autocast("cpu", torch.bfloat16):
        assert tuned(images.bfloat16()).isfinite().all()
        with pytest.raises(peftbench.UserError, match="are float64"):  # which autocast leaves alone
            tuned(images.double())
    expected = tuned(images)
    torch.testing.assert_close(tuned.double()(images.double()).float(), expected)
    with pytest.raises(peftbench.UserError, match="are float32, and the model computes in float64"):
        tuned(images)


@pytest.mark.parametrize(("value", "what"), [("nan", "NaN"), ("inf", "infinite"), ("-inf", "infinite")])
def test_values_that_are_no_numbers_are_refused(model, value, what):
    images = torch.randn(2, 3, 32, 32)
    images[1, 2, 3, 4] = float(value)
    with pytest.raises(peftbench.UserError, match=f"images: hold {what}"):
        model(images)


class Doubled(torch.nn.Module):
    """A program of the user's that looks at its images as a tuned model does."""

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs

    def forward(self, images):
        self.inputs.check(images)
        return images * 2


def test_a_graph_is_made_of_any_images_without_a_check(run):
    tuned, bright = peftbench.load(run), PIXELS.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(tuned, (bright,), check_trace=False)
    assert "aminmax" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(bright), tuned.model(bright))
    doubled = Doubled(tuned.inputs)
    with pytest.raises(peftbench.UserError):
        doubled(bright)
    program = torch.export.export(doubled, (bright,), strict=False).module()
    for graph in (program, torch.compile(doubled, backend="eager", fullgraph=True), torch.func.vmap(doubled)):
        torch.testing.assert_close(graph(bright), bright * 2)
