"""A batch norm that learns on one image whose map is 1 x 1: one sentence, in training, jointly and in a plan."""

from __future__ import annotations

import pytest

from peftbench.cli.main import main

ONE = ["backbone=resnet_nano", "backbone.pretrained=false", "data=digits", "data.size=32", "data.batch_size=1"]
TOLD = "a step on 1 image of 32x32 px has a map of 1 x 1 where a batch norm learns"


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "method=full"],
        ["method=full"],
        pytest.param(["method=cst", "method.norm=batch"], marks=pytest.mark.slow),
        pytest.param(["method=petah", "method.norms=affine+stats"], marks=pytest.mark.slow),
        pytest.param(["method=full", "data.batch_size=3", "trainer.micro_batch=1"], marks=pytest.mark.slow),
    ],
)
def test_one_value_a_channel_is_refused_in_one_sentence(tmp_path, capsys, words):
    few = ["trainer.max_batches=1", "trainer.epochs=1", "trainer.progress=false", f"output_dir={tmp_path}"]
    verb = words[:1] if words[0] == "plan" else []
    status = main([*verb, *ONE, *words[len(verb) :], *([] if verb else few)])
    told = capsys.readouterr().err
    assert status == 2, told
    assert TOLD in told
    assert "give a data.batch_size (and trainer.micro_batch) of 2 or more" in told


@pytest.mark.slow
def test_so_are_runs_that_train_together(cli, tmp_path):
    words = ["-m", *ONE, "method=cst", "method.norm=batch", "seed=0,1", "sweep.together=2", "trainer.max_batches=1"]
    status, out, err = cli(*words, "trainer.epochs=1", "trainer.progress=false")
    assert (status, err.count("Traceback")) == (2, 0)
    assert TOLD in out + err
