"""A run in one process and in two."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench.results import Record
from peftbench.runs.run import run
from support.finished_runs import records_in
from support.forks import python
from support.runs import learned


def one_and_two_processes(
    words: Sequence[str], folder: Path, rtol: float = 1e-2, atol: float = 1e-4
) -> tuple[Record, Record]:
    """The records of one process and of two gloo processes, which learned the same; sums have another order in two."""
    words = [*words, "trainer.accelerator=cpu"]
    pair = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"output_dir={folder / 'two'}"]
    command = [python(), "-m", "peftbench.cli.main", *words, *pair]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr
    (two,) = records_in(folder / "two")
    one = run(peftbench.compose(*words, f"output_dir={folder / 'one'}"))
    assert two.status == one.status == "complete"
    losses = ([row["train_loss"] for row in record.history] for record in (one, two))
    assert next(losses) == pytest.approx(next(losses), rel=1e-4)
    a, b = learned(one), learned(two)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[n], b[n], rtol=rtol, atol=atol) for n in a)
    return one, two
