"""Metrics are of all images of a set: where one is lost, or processes do not work together, the run fails."""

from __future__ import annotations

import contextlib
import json

import pytest

from peftbench import UserError
from peftbench.data.loading import Share
from peftbench.runs.run import run
from peftbench.training.rendezvous import Processes
from support.runs import compose

WORDS = ["method=linear", "trainer.epochs=1", "trainer.max_batches=null", "data.batch_size=500"]
WORDS += ["data.eval_batch_size=250", "taps=off"]


@pytest.mark.parametrize(("role", "left"), [("validation", 199), ("test", 99)])
def test_a_run_that_loses_an_image_fails(tmp_path, monkeypatch, role, left):
    """Digits has 199 images to validate and 599 to test: the last batches of 250 are of 199 and of 99."""
    whole = Share.of
    monkeypatch.setattr(Share, "of", lambda self, part: whole(self, part[:-1] if len(part) == left else part))
    with pytest.raises(UserError, match=rf"the {role} set has \d99 images, and \d98 were evaluated in 1 processes"):
        run(compose(tmp_path, *WORDS))
    (path,) = tmp_path.glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["status"] == "failed"
    assert not record["metrics"]


def test_processes_that_are_not_as_many_as_each_was_told_are_refused(tmp_path, monkeypatch):
    """Whatever starts them: each of two would read half of every batch, and here is one."""
    monkeypatch.setattr(Processes, "world_size", lambda self: 1)
    monkeypatch.setattr("peftbench.training.trainer.join_group", lambda *_: None)
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("peftbench.runs.run.processes_together", lambda *_: contextlib.nullcontext())
    words = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    with pytest.raises(UserError, match="expected 2 processes, but 1 work together"):
        run(compose(tmp_path, *WORDS, *words))
