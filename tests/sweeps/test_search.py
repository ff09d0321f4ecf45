"""A search with Optuna."""

from __future__ import annotations

import re

import pytest

from support.sweeps import needs, records

SEARCH = ["hydra/sweeper=optuna", "optimizer.lr=tag(log, interval(1e-4, 1e-1))", "data.batch_size=choice(8, 16)"]


def test_optuna_searches_on_validation_images_and_goes_on(cli, tiny, tmp_path):
    needs("optuna")
    words = ["-m", *tiny, "method=linear", *SEARCH]
    status, out, err = cli(*words, "hydra.sweeper.trials=2")
    assert status == 0, err
    assert "best of 2 trials" in out
    found = records(tmp_path)
    assert {r["stamps"]["data"]["stage"] for r in found.values()} == {"tune"}
    assert all(1e-4 <= r["config"]["optimizer"]["lr"] <= 1e-1 for r in found.values())
    best = max(r["metrics"]["val/accuracy"] for r in found.values())
    assert f"by validation accuracy: {100 * best:.1f} %" in out
    status, out, err = cli(*words, "hydra.sweeper.trials=3")
    assert status == 0, err
    assert "goes on after 2 of 3 trials" in out
    assert set(re.findall(r"^job (\d+) of 3", out, re.M)) == {"3"}, "one more was run"
    assert len(records(tmp_path)) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra/sweeper=optuna"], "nothing to search"),
        ([*SEARCH, "hydra.sweeper.sampler=tp"], "expected tpe or random (did you mean 'tpe'?)"),
        ([*SEARCH, "hydra.sweeper.trials=0"], "hydra.sweeper.trials=0: expected a whole number"),
        ([*SEARCH, "sweep.together=4"], "leave one of them out"),
        ([*SEARCH, "optimizer.find_lr=true"], "optimizer.find_lr=true: each trial would look for its own optimizer.lr"),
    ],
)
def test_mistakes_of_a_search_are_one_sentence(cli, tiny, tmp_path, words, told):
    needs("optuna")
    status, _, err = cli("-m", *tiny, "method=linear", *words)
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
    assert not records(tmp_path)
