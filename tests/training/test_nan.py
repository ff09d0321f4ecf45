"""A loss or a weight that is no longer a number stops the run; the last good state is kept."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.mistakes import record, refused, run_folder


def test_a_loss_that_becomes_nan_stops_the_run_and_names_the_step(cli, tiny, tmp_path):
    told = refused(cli(*tiny, "method=full", "optimizer.lr=1e30"), "the loss became", "epoch 1, step 2", "optimizer.lr")
    stored = record(tmp_path)
    assert stored["status"] == "failed"
    assert stored["reason"] in told
    assert stored["metrics"] == {}
    assert not (run_folder(tmp_path) / "delta.safetensors").exists()


POISON = """
    from dataclasses import dataclass

    import torch

    from peftbench.methods.full import Full


    @dataclass(frozen=True)
    class Poison(Full):
        '''Full fine-tuning whose weights become NaN in step `at`, as after a gradient that overflowed.'''

        own_optimizer = True
        at: int = 3

        def optimizer(self, named, anchors, inner):
            steps = []

            def spoil(*_):
                steps.append(1)
                if len(steps) == self.at:
                    with torch.no_grad():
                        named[0][1].fill_(float("nan"))

            inner.register_step_post_hook(spoil)
            return inner
"""


@pytest.fixture
def poisoned(cli: Callable, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`poisoned(step)` runs four steps of a method whose weights become NaN in that one; a checkpoint each step."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "poison.py").write_text(textwrap.dedent(POISON))
    monkeypatch.syspath_prepend(tmp_path / "outside")

    def call(at: int, *words: str) -> tuple[int, str, str]:
        method = ["method=full", "method.path=poison.Poison", f"+method.at={at}"]
        return cli(*tiny, *method, "trainer.max_batches=4", "trainer.checkpoint_seconds=0", *words)

    return call


def finite(folder: Path) -> bool:
    """Whether the checkpoint in `folder` holds numbers only."""
    state = torch.load(folder / "checkpoint.ckpt", weights_only=True)["state_dict"]
    assert state
    return all(torch.isfinite(t).all() for t in state.values() if t.is_floating_point())


def test_the_last_good_state_is_kept_when_the_loss_becomes_nan(poisoned, tmp_path):
    told = refused(poisoned(3), "became nan", "epoch 1, step")
    folder = run_folder(tmp_path)
    assert str(folder / "checkpoint.ckpt") in told
    assert finite(folder)
    assert record(tmp_path)["status"] == "failed"


def test_weights_that_become_nan_in_the_last_step_do_not_count_as_complete(poisoned, tmp_path):
    refused(poisoned(4), "nan")
    assert record(tmp_path)["status"] == "failed"
    assert not (run_folder(tmp_path) / "delta.safetensors").exists()


def test_weights_that_become_nan_at_the_end_of_an_epoch_do_not_replace_the_last_good_state(poisoned, tmp_path):
    refused(poisoned(4, "trainer.epochs=2"), "nan")
    assert finite(run_folder(tmp_path))


def test_a_run_that_failed_is_not_taken_for_complete_by_the_same_command(poisoned, tmp_path):
    for _ in range(2):
        refused(poisoned(1), "became nan")
        assert record(tmp_path)["status"] == "failed"
