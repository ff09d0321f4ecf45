"""Which steps have cuDNN try out its convolutions, and that it is as before after a run."""

from types import SimpleNamespace

import pytest
import torch

import peftbench
from peftbench.training.ways_of_steps import faster_steps
from support.models import adapted_model


@pytest.mark.parametrize(("family", "size", "tried"), [("cnn", 32, True), ("cnn", None, False), ("vit", 32, False)])
def test_convolutions_are_tried_out_where_images_are_of_one_size(family, size, tried):
    loaders = SimpleNamespace(train=SimpleNamespace(dataset=SimpleNamespace(transform=SimpleNamespace(size=size))))
    before = torch.backends.cudnn.benchmark
    with faster_steps(adapted_model("linear", family), peftbench.compose(), loaders):
        assert torch.backends.cudnn.benchmark is (before or tried)
    assert torch.backends.cudnn.benchmark is before


def test_half_precision_casts_frozen_weights_once_unless_blocks_are_compiled():
    loaders = SimpleNamespace(train=None)
    layers = {}
    for words in ([], ["trainer.precision=bf16"], ["trainer.precision=bf16", "trainer.compile=true"]):
        model = adapted_model("bitfit", "vit")
        with faster_steps(model, peftbench.compose(*words), loaders):
            layers[" ".join(words)] = sum("forward" in vars(m) for m in model.modules())
        assert not any("forward" in vars(m) for m in model.modules())
    assert [bool(count) for count in layers.values()] == [False, True, False]
