"""Metrics are of all images of a set: where one is lost, or processes do not work together, the run fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from peftbench import UserError
from peftbench.data.loading import Share
from peftbench.runs.run import run
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


@pytest.mark.slow
def test_a_process_that_works_alone_where_two_are_asked_for_is_refused(tiny, tmp_path):
    """As in a batch script: Slurm's variables say that this is one of several processes, and there is no other."""
    slurm = {"JOB_ID": "1", "JOB_NAME": "job", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    command = [sys.executable, "-m", "peftbench.cli.main", *tiny, "method=bitfit", "trainer=ddp", "trainer.devices=2"]
    told = subprocess.run(
        [*command, "trainer.accelerator=cpu", f"output_dir={tmp_path}"],
        env=os.environ | {f"SLURM_{name}": value for name, value in slurm.items()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 2, told.stderr
    assert "expected 2 processes, but 1 work together" in told.stderr
