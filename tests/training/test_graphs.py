"""`trainer.graphs`: which steps are captured, and that capturing leaves no trace. A stand-in captures here."""

import pytest
import torch

from peftbench.data.images import Batch
from peftbench.training.graphs import LossGraphs
from support.batches import batch
from support.models import adapted_model


class OnCuda(torch.Tensor):
    """Says that it is on a CUDA device."""

    @property
    def is_cuda(self):
        return True


@pytest.fixture
def captured(monkeypatch):
    """The samples that were captured; what captures draws random numbers and computes, as torch's does."""
    samples = []

    def capture(module, given, allow_unused_input):
        assert not torch.is_autocast_cache_enabled()
        samples.append(given)
        loss = module(*given)
        torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
        torch.rand(3)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    return samples


def taken(model, count=8):
    """A batch of `count` images, with their taps as of a CUDA device."""
    images, labels = batch(count)
    taps = [tap.as_subclass(OnCuda) for tap in model.frozen(images)]
    return Batch(torch.empty(count, 3, 0, 0, dtype=torch.uint8), labels, taps), model.loss((images, labels))


def test_a_shape_is_captured_once_and_steps_have_the_same_loss_and_gradients(captured):
    model = adapted_model("losa", "vit").train()
    graphs = LossGraphs(model)
    for count in (8, 8, 4):
        given, expected = taken(model, count)
        wanted = torch.autograd.grad(expected, [p for _, p in model.trainable()])
        before = torch.get_rng_state()
        loss = graphs.loss(given)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(loss.as_subclass(torch.Tensor), expected)
        gradients = torch.autograd.grad(loss, [p for _, p in model.trainable()])
        assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))
    assert [len(sample[1]) for sample in captured] == [8, 4]
    assert graphs.stamp() == {"shapes": 2}


def test_what_is_not_kept_taps_on_a_gpu_computes_as_ever_and_says_so_once(captured, capsys):
    model = adapted_model("losa", "vit").train()
    graphs, (images, labels) = LossGraphs(model), batch()
    given, expected = taken(model)
    plain = given._replace(taps=[tap.as_subclass(torch.Tensor) for tap in given.taps])
    assert torch.equal(graphs.loss(plain), expected)
    assert torch.equal(graphs.loss(Batch(images, labels)), expected)
    assert not captured
    assert capsys.readouterr().err.count("not captured in CUDA graphs: its device is no CUDA GPU") == 1
    LossGraphs(model).loss(Batch(images, labels))
    assert "not captured in CUDA graphs: the run reads no kept taps" in capsys.readouterr().err


def test_a_model_that_cannot_be_captured_trains_without_and_says_so_once(monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing. And more.")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    model = adapted_model("losa", "vit").train()
    graphs = LossGraphs(model)
    for _ in range(2):
        given, expected = taken(model)
        assert torch.equal(graphs.loss(given).as_subclass(torch.Tensor), expected)
    assert capsys.readouterr().err.count("trainer.graphs=true: steps are not captured in CUDA graphs: ") == 1
    assert "not permitted" in graphs.stamp()["without"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trainer.accumulate=2", "trainer.accumulate=2"),
        ("trainer.micro_batch=4", "trainer.micro_batch=4"),
        ("trainer=ddp", "trainer.strategy=ddp"),
    ],
)
def test_what_is_no_whole_step_is_refused(cli, word, said):
    status, _, err = cli("method=losa", "backbone=vit_nano", "data=digits", word, "trainer.graphs=true")
    assert status == 2
    assert f"trainer.graphs=true: captures the one loss of a step on one device, unlike {said}; leave one" in err
