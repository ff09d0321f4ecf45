"""What counts as training, validation and test, by a clock that moves with what happens and not by itself."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from peftbench import costs
from peftbench.data.images import Images
from peftbench.runs.run import run
from peftbench.training.checkpoint import Checkpoints
from peftbench.training.module import Fit
from support.runs import compose

START, READ, STEP, LOOK, EVALUATE, MOVE, SAVE = 5.0, 1.0, 0.125, 0.5, 0.0625, 100.0, 1000.0
WORDS = ("method=linear", "taps=off", "trainer.epochs=2", "trainer.max_batches=3", "trainer.checkpoint_seconds=0")


class Clock:
    """Steps are queued on the device, and take their time when somebody waits for it."""

    def __init__(self):
        self.now = self.queue = 0.0

    def perf_counter(self):
        return self.now

    def taking(self, seconds, function):
        def timed(*given, **named):
            self.now += seconds
            return function(*given, **named)

        return timed

    def queueing(self, seconds, function):
        def queued(*given, **named):
            self.queue += seconds
            return function(*given, **named)

        return queued

    def wait_for(self, device):
        self.now, self.queue = self.now + self.queue, 0.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for place in ("training.meters", "training.module", "data.read_ahead"):
        monkeypatch.setattr(f"peftbench.{place}.time", SimpleNamespace(perf_counter=clock.perf_counter))
    for place in ("training.meters", "training.module"):
        monkeypatch.setattr(f"peftbench.{place}.wait_for", clock.wait_for)
    read = Images.__getitems__

    def reading(self, indices):
        clock.now += LOOK if indices.seed is None else READ
        return read(self, indices)

    monkeypatch.setattr(Images, "__getitems__", reading)
    monkeypatch.setattr(DataLoader, "__iter__", clock.taking(START, DataLoader.__iter__))
    monkeypatch.setattr(Fit, "training_step", clock.queueing(STEP, Fit.training_step))
    monkeypatch.setattr(Fit, "_evaluate", clock.queueing(EVALUATE, Fit._evaluate))
    move = SingleDeviceStrategy.model_to_device
    monkeypatch.setattr(SingleDeviceStrategy, "model_to_device", clock.taking(MOVE, move))
    monkeypatch.setattr(Trainer, "save_checkpoint", clock.taking(SAVE, Trainer.save_checkpoint))
    return clock


EPOCH = START + 3 * (READ + STEP)
LOOKED = START + 3 * (LOOK + EVALUATE)


def test_each_time_is_from_the_first_request_to_the_last_result_and_holds_nothing_else(clock, tmp_path):
    times = run(compose(tmp_path, *WORDS)).costs["time"]
    assert times["train"] == 2 * EPOCH
    assert times["validate"] == 2 * LOOKED
    assert times["test"] == LOOKED
    assert clock.now > 4 * SAVE + 2 * MOVE


def test_a_resumed_run_adds_the_start_of_its_workers(clock, monkeypatch, tmp_path):
    batch_end = Checkpoints.on_train_batch_end

    def stop(self, trainer, *rest):
        self.stop = trainer.global_step == 4
        batch_end(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert run(compose(tmp_path, *WORDS)).status == "interrupted"
    assert run(compose(tmp_path, *WORDS)).costs["time"]["train"] == 2 * EPOCH + START


def test_latency_waits_for_the_device_before_and_after_each_pass(monkeypatch):
    waits = []
    monkeypatch.setattr("peftbench.costs.compute.wait_for", waits.append)
    model = torch.nn.Identity()
    costs.latency(model, torch.zeros(1, 3, 8, 8), repeats=2)
    assert len(waits) == 2 * (2 + 3)


def test_every_device_is_waited_for_but_the_cpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for name in ("cpu", "meta", "cuda:1", "mps"):
        costs.wait_for(torch.device(name))
    assert waited == ["cuda:1", "mps"]


def test_memory_on_a_gpu_is_told_in_total_and_above_the_set_up(monkeypatch):
    taken = {"memory_allocated": 700, "max_memory_allocated": 700, "max_memory_reserved": 900}
    for name in taken:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: taken[name])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    meter = costs.PeakMemory(torch.device("cuda"))
    meter.start()
    taken |= {"max_memory_allocated": 1000, "max_memory_reserved": 1300}
    with meter.paused():
        taken |= {"max_memory_allocated": 5000, "max_memory_reserved": 5000}
    taken |= {"max_memory_allocated": 800, "max_memory_reserved": 1300}
    assert meter.read() == {"measure": "allocated", "total": 1000, "above": 300, "reserved": 1300, "exact": True}


def test_filling_taps_has_a_peak_of_its_own_in_the_record(tmp_path):
    words = ("method=linear", "taps=memory", "trainer.epochs=1", "trainer.max_batches=1")
    costs_of = run(compose(tmp_path, *words)).costs
    filling, training = costs_of["taps"]["memory"], costs_of["memory"]["peak"]
    assert filling.keys() == training.keys() == {"measure", "total", "above", "exact"}
    assert 0 <= filling["above"] < filling["total"]
