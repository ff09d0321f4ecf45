"""What a GPU is asked for while taps are filled and read: a CPU stands behind `torch.cuda`, and notes it in order."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

import peftbench
from peftbench.data.images import Batch
from peftbench.data.read_ahead import ReadAhead
from peftbench.training.computed_taps import Pace, computed_taps
from support.taps import cached, model_and_images, tensors

GPU = torch.device("cuda", 0)


class Stream:
    """Stands in for a stream of CUDA: notes in `log` what is asked of it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def record_event(self) -> Stream:
        self.log.append(f"{self.name} records")
        return self

    def wait_event(self, event: Stream) -> None:
        self.log.append(f"{self.name} waits for {event.name}")

    wait_stream = wait_event

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


@pytest.fixture
def streams(monkeypatch) -> list[str]:
    """`torch.cuda` with a CPU behind it: what is asked of its streams, in order."""
    log: list[str] = []
    main, now = Stream(log, "main"), threading.local()

    @contextlib.contextmanager
    def on(stream):
        now.stream = stream
        yield
        now.stream = main

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(log, "side"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: getattr(now, "stream", main))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(f"kept for {stream.name}"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    to, empty = torch.Tensor.to, torch.empty

    def on_processor(tensor, *where, **options):
        return tensor if where and isinstance(where[0], torch.device) else to(tensor, *where, **options)

    def unpinned(*shape, pin_memory=False, **options):
        return empty(*shape, **options)

    monkeypatch.setattr(torch.Tensor, "to", on_processor)
    monkeypatch.setattr(torch, "empty", unpinned)
    return log


def test_batches_are_copied_on_a_side_stream_that_the_device_waits_for_and_the_host_does_not(streams):
    batches = [Batch(torch.zeros(1), torch.tensor([i]), [torch.full((1, 2), float(i))]) for i in range(4)]
    values = []
    for batch in ReadAhead(iter(batches), GPU):
        streams.append(f"step {int(batch.targets)}")
        values.append(batch.taps[0][0, 0].item())
    assert values == [0.0, 1.0, 2.0, 3.0]
    assert streams.count("side records") == 4
    assert streams.count("main waits for side") == 4
    assert not any("host waits" in line for line in streams)
    for i in range(4):
        assert "main waits for side" in streams[: streams.index(f"step {i}")]


def test_a_gpu_has_its_next_images_before_the_host_waits_for_the_last_taps(streams, monkeypatch):
    config = peftbench.compose("method=linear", "backbone=vit_nano", "data=digits", "data.eval_batch_size=8")
    model, images = model_and_images(config, 21)
    frozen = type(model).frozen

    def noted(model, pictures):
        streams.append("forward")
        return frozen(model, pictures)

    monkeypatch.setattr(type(model), "frozen", noted)
    with model.padded_batches():
        (theirs,) = zip(*computed_taps(config, model, images, torch.device("cpu"), Pace()), strict=True)
        assert streams == ["forward"] * 3
        streams.clear()
        (ours,) = zip(*computed_taps(config, model, images, GPU, Pace()), strict=True)
    assert torch.equal(torch.cat(ours), torch.cat(theirs))
    order = [line for line in streams if line == "forward" or line.startswith("host")]
    assert order == [
        "forward",
        "forward",
        "host waits for side",
        "forward",
        "host waits for side",
        "host waits for side",
    ]
    first = streams.index("forward")
    assert "main waits for side" in streams[:first], "the images arrive before the pass begins"
    assert streams[first + 1] == "side waits for main", "taps are copied once they are computed"


def test_rows_that_go_to_a_gpu_are_those_of_the_file(streams, tmp_path):
    taps, values = cached(tmp_path, n=24), tensors(24)
    taps.device = GPU
    rows = torch.randint(24, (7,))
    assert all(torch.equal(ours, theirs[rows]) for ours, theirs in zip(taps(rows), values, strict=True))
    assert not streams, "on the stream that is current, and the host waits for nothing"
