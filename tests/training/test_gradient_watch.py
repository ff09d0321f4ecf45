"""What a method adds and nothing trains fails the run by its name, alone, resumed and trained jointly."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from support.mistakes import record, refused, run_folder

IDLE = """
    import os
    import signal
    from dataclasses import dataclass
    from typing import ClassVar

    import torch
    from torch import nn

    from peftbench.methods.base import Method, Side, freeze

    STOP = 0  # the training step that asks for an end


    class Shift(Side):
        '''Adds a trained number to the last tap, and has others that nothing reads, or that count for nothing.'''

        def __init__(self, kind):
            super().__init__()
            self.shift, self.kind, self.steps = nn.Parameter(torch.zeros(1)), kind, 0
            if kind != "none":
                self.spare = nn.Parameter(torch.ones(3))

        def forward(self, taps):
            self.steps += self.training
            if self.training and self.steps == STOP:
                os.kill(os.getpid(), signal.SIGINT)
            extra = self.shift + (self.spare.sum() * 0 if self.kind == "zero" else 0)
            return [taps[-1] + extra]


    @dataclass(frozen=True)
    class Idle(Method):
        '''A side method with a parameter too many, of a kind: none, unread or zero.'''

        side: ClassVar[bool] = True
        kind: str = "unread"

        def adapt(self, backbone, plan):
            freeze(backbone)
            return Shift(self.kind)
"""


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of a method with an idle parameter."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "idle_method.py").write_text(textwrap.dedent(IDLE))
    monkeypatch.syspath_prepend(tmp_path / "outside")
    yield importlib.import_module("idle_method")
    del sys.modules["idle_method"]


WORDS = ["method=linear", "method.path=idle_method.Idle"]


def test_a_resumed_run_counts_the_steps_of_both_sessions_and_fails_by_the_name(idle, cli, tiny, tmp_path):
    words = [*tiny, *WORDS, "+method.kind=unread", "trainer.max_batches=4", "trainer.epochs=3"]
    idle.STOP = 6
    cli(*words)
    assert record(tmp_path)["status"] == "interrupted"
    idle.STOP = 0
    told = refused(cli(*words), "side.spare trains nothing: its gradient was zero in each of 12 steps")
    stored = record(tmp_path)
    assert stored["status"] == "failed"
    assert stored["reason"] in told
    assert not (run_folder(tmp_path) / "delta.safetensors").exists()


def test_too_few_steps_leave_a_note(idle, cli, tiny, tmp_path):
    status, _, told = cli(*tiny, *WORDS, "+method.kind=zero", "trainer.progress=true")
    assert status == 0
    why = "its gradient was zero in each of 2 steps, too few to tell whether it ever trains"
    assert f"side.spare: {why}" in told
    assert record(tmp_path)["plan"] == {"untrained": {"side.spare": why}}


def test_of_runs_that_train_jointly_the_one_with_an_idle_tensor_fails_alone(idle, cli, tiny, tmp_path):
    words = [*tiny, *WORDS, "trainer.max_batches=5", "trainer.epochs=2", "sweep.together=2"]
    cli("-m", *words, "+method.kind=none,zero")
    stored = {r["config"]["method"]["options"]["kind"]: r for r in map(_read, tmp_path.glob("*/result.json"))}
    assert {kind: r["status"] for kind, r in stored.items()} == {"none": "complete", "zero": "failed"}
    assert stored["zero"]["reason"].startswith("side.spare trains nothing: its gradient was zero in each of 10 steps")
    assert stored["none"]["costs"]["together"] == 2
    assert stored["none"]["plan"] == {}


def _read(path: Path) -> dict:
    return json.loads(path.read_text())
