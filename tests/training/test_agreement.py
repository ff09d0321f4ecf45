"""How several processes come to stop and to save at the same step."""

import copy
from types import SimpleNamespace

import pytest
import torch

from peftbench.training import agreement
from peftbench.training.agreement import Agreement
from peftbench.training.trainer import lightning_trainer
from support.runs import compose


class World:
    """Two processes in lockstep, whose `reduce` adds what both gave, and a clock."""

    def __init__(self, monkeypatch):
        self.now, self.asked = 0.0, 0
        monkeypatch.setattr(agreement, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.both = [Agreement(), Agreement()]

    def step(self, seconds, stop=(False, False), due=(False, False), now=False, stage="train"):
        """What each is answered: the first gets its answer when the second has given its numbers."""
        self.now += seconds
        given = []
        trainers = [self._trainer(rank, stage, given) for rank in (0, 1)]
        for rank in (0, 1):  # what each would give
            probe = copy.deepcopy(self.both[rank])
            probe.of(trainers[rank], stop[rank], due[rank], now)
        if given:
            self.asked += 1
            sums = sum(given)
            for trainer in trainers:
                trainer.strategy.reduce = lambda tensor, reduce_op: sums
        return [self.both[rank].of(trainers[rank], stop[rank], due[rank], now) for rank in (0, 1)]

    def _trainer(self, rank, stage, given):
        def reduce(tensor, reduce_op):
            given.append(tensor)
            return tensor

        strategy = SimpleNamespace(reduce=reduce, root_device="cpu")
        return SimpleNamespace(
            world_size=2, is_global_zero=rank == 0, strategy=strategy, state=SimpleNamespace(stage=stage)
        )


NO, STOP, SAVE = (False, False), (True, False), (False, True)


def test_one_process_asks_nobody():
    alone = SimpleNamespace(world_size=1)
    assert Agreement().of(alone, True, False, False) == STOP
    assert Agreement().of(alone, False, True, True) == SAVE


def test_many_short_steps_have_about_one_question_in_a_second(monkeypatch):
    world = World(monkeypatch)
    for _ in range(5000):
        assert world.step(0.01) == [NO, NO]
    assert 45 <= world.asked <= 60


def test_long_steps_ask_each_time(monkeypatch):
    world = World(monkeypatch)
    for _ in range(20):
        world.step(3.0)
    assert world.asked == 20


@pytest.mark.parametrize("which", [(True, False), (False, True), (True, True)])
def test_all_stop_at_the_same_step_within_two_seconds_whoever_was_asked(monkeypatch, which):
    world = World(monkeypatch)
    for _ in range(500):
        world.step(0.01)
    answers = [world.step(0.01, stop=which) for _ in range(200)]
    assert all(a == b for a, b in answers)
    assert [STOP, STOP] in answers


def test_it_is_saved_by_the_clock_of_the_first_alone(monkeypatch):
    world = World(monkeypatch)
    assert world.step(0.01, due=(False, True), now=True) == [NO, NO]
    assert world.step(0.01, due=(True, False), now=True) == [SAVE, SAVE]


def test_a_stage_of_slower_steps_begins_with_a_question(monkeypatch):
    world = World(monkeypatch)
    for _ in range(1000):
        world.step(0.001)
    assert world.step(5.0, stop=(False, True), stage="validate") == [STOP, STOP]


def test_lightning_does_not_ask_in_each_step_besides(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *given, **more: asked.append(given))
    loop = lightning_trainer(compose(tmp_path, "method=linear", "trainer=cpu"), tmp_path, []).fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):  # Lightning has it from 2.6 on
        loop._broadcast_sigterm_tensor()
    assert asked == []
