"""What makes a run's id, and what does not."""

import pytest

import peftbench
from peftbench.config import identity, run_id


def test_the_id_ignores_what_cannot_change_the_numbers():
    base = peftbench.compose("data=digits")
    same = peftbench.compose(
        "data=digits", "logger=wandb", "force=true", "output_dir=elsewhere", "data_dir=there", "data.workers=3",
        "trainer.progress=false", "trainer.checkpoint_seconds=1", "data.eval_batch_size=7",
        "trainer.meet_seconds=5",
    )  # fmt: skip
    assert identity(base) == identity(same)
    assert run_id(base, "f", "s") == run_id(same, "f", "s")


@pytest.mark.parametrize(
    "change", ["seed=1", "method.rank=4", "trainer.epochs=3", "data.batch_size=8", "trainer.precision=bf16",
               "optimizer.lr=1", "backbone=resnet_nano", "data=photos", "data.normalize=none"]
)  # fmt: skip
def test_the_id_changes_with_what_can(change):
    base = peftbench.compose("data=digits")
    assert run_id(base, "f", "s") != run_id(peftbench.compose("data=digits", change), "f", "s")


def test_the_id_changes_with_weights_and_split():
    base = peftbench.compose("data=digits")
    assert len({run_id(base, "f", "s"), run_id(base, "g", "s"), run_id(base, "f", "t")}) == 3
