"""`protocol=vtab1k`: what it tunes on, what it chooses, what it tests, what it does not repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import peftbench
from peftbench.common.config_files import names
from peftbench.config import CONFIGS, Protocol, Sweep, replaced
from peftbench.results import Record
from peftbench.sweeps.protocol import carry_out_vtab1k

GRID = "sweep.grid={optimizer.lr:[1e-3,1e-1]}"
RULE = ["protocol=vtab1k", "protocol.trials=2", "protocol.seeds=2", GRID]


def records(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob("[!.]*/result.json"))]


def test_it_tunes_on_val_trains_anew_and_tests_once_with_every_seed(cli, tiny, tmp_path):
    words = ["-m", *tiny, *RULE, "method=linear,bitfit"]
    status, out, err = cli(*words)
    assert status == 0, err
    found = records(tmp_path)
    assert len(found) == 2 * (2 + 2)
    for method in ("linear", "bitfit"):
        own = [r for r in found if r["config"]["method"]["name"] == method]
        trials = [r for r in own if r["stamps"]["data"]["stage"] == "tune"]
        finals = [r for r in own if r["stamps"]["data"]["stage"] == "final"]
        assert sorted(r["config"]["optimizer"]["lr"] for r in trials) == [1e-3, 1e-1]
        assert not any(k.startswith("test/") for r in trials for k in r["metrics"])
        assert {r["config"]["seed"] for r in finals} == {0, 1}
        assert all("test/accuracy" in r["metrics"] for r in finals)
        best = max(trials, key=lambda r: (r["metrics"]["val/accuracy"], -r["metrics"]["val/loss"]))
        for final in finals:
            told = final["config"]["protocol"]
            assert (
                final["config"]["optimizer"]["lr"]
                == best["config"]["optimizer"]["lr"]
                == told["chosen"]["optimizer.lr"]
            )
            assert (told["name"], told["trials"], told["grid"]) == ("vtab1k", 2, {"optimizer.lr": [1e-3, 1e-1]})
            assert {t["run"] for t in told["tried"]} == {r["id"] for r in trials}
        assert all("protocol" not in r["config"] or not r["config"]["protocol"] for r in trials)
    assert "A protocol chose settings on validation images, namely vtab1k: 2 trials a task" in out

    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    status, again, _ = cli(*words)
    assert status == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")} == before, "nothing is run again"
    assert "linear" in again


def test_trials_of_a_side_method_train_together(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    assert cli("-m", *tiny, *RULE, "method=linear", "sweep.together=2")[0] == 0
    costs = {r["stamps"]["data"]["stage"]: r["costs"].get("together") for r in records(tmp_path)}
    assert costs["tune"] == 2


def test_the_protocol_of_a_run_that_is_there_is_noted_and_not_run_again(cli, tiny, tmp_path):
    assert cli(*tiny, "method=linear", "optimizer.lr=1e-3", "data.stage=final")[0] == 0
    assert cli("-m", *tiny, "method=linear", "protocol=vtab1k", "protocol.trials=1", "protocol.seeds=1",
               "sweep.grid={optimizer.lr:[1e-3]}")[0] == 0  # fmt: skip
    (final,) = [r for r in records(tmp_path) if r["stamps"]["data"]["stage"] == "final"]
    assert final["config"]["protocol"]["trials"] == 1


def test_every_shipped_method_declares_a_grid_with_the_same_number_of_points():
    budget = yaml.safe_load((CONFIGS / "protocol/vtab1k.yaml").read_text())["trials"]
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text())
        grid = content.get("method", content)["grid"]
        size = 1
        for values in grid.values():
            size *= len(values)
        assert size == budget, name
        config = peftbench.compose(f"method={name}", "data=digits")
        for key, values in grid.items():
            for value in values:
                replaced(config, {key: value})


class Trained:
    """Stands for training: a record for each config, with the accuracy that its learning rate is given."""

    def __init__(self, accuracies: dict[float, float | None], losses: dict[float, float] | None = None) -> None:
        self.accuracies, self.losses, self.seen = accuracies, losses or {}, []

    def __call__(self, configs):
        found = []
        for config in configs:
            self.seen.append(config)
            rate = config.optimizer.lr
            accuracy = self.accuracies[rate]
            metrics = {} if accuracy is None else {"val/accuracy": accuracy, "val/loss": self.losses.get(rate, 1.0)}
            status = "failed" if accuracy is None else "complete"
            name = f"run-{rate}-{config.seed}-{config.data.stage}"
            found.append(Record(name, status, config.to_dict(), metrics=metrics))
        return found


def tuned(trained: Trained, **more) -> list[Record]:
    config = peftbench.compose("method=lora", "data=digits", "seed=5")
    grid = {"optimizer.lr": list(trained.accuracies)}
    rule = Protocol(name="vtab1k", trials=len(trained.accuracies), seeds=2)
    return carry_out_vtab1k(config, rule, Sweep(grid=grid, **more), trained)


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ({0.1: 0.5, 0.2: 0.7, 0.3: 0.6}, {}, 0.2),
        ({0.1: 0.7, 0.2: 0.7, 0.3: 0.6}, {0.1: 2.0, 0.2: 1.0}, 0.2),
        ({0.1: 0.7, 0.2: 0.7}, {}, 0.1),
        ({0.1: None, 0.2: 0.1}, {}, 0.2),
    ],
)
def test_the_best_on_validation_is_chosen(accuracies, losses, best):
    trained = Trained(accuracies, losses)
    tuned(trained)
    stages = [(c.data.stage, c.optimizer.lr, c.seed) for c in trained.seen]
    assert stages[: len(accuracies)] == [("tune", rate, 5) for rate in accuracies]
    assert stages[len(accuracies) :] == [("final", best, 5), ("final", best, 6)]


def test_where_every_trial_failed_nothing_is_tested():
    trained = Trained({0.1: None, 0.2: None})
    assert [r.status for r in tuned(trained)] == ["failed", "failed"]
    assert {c.data.stage for c in trained.seen} == {"tune"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "protocol.trials=3", GRID], "sweep.grid: has 2 points for method=linear, and protocol.trials=3"),
        (["-m", "sweep.grid=null"], "method=linear declares no grid to tune over"),
        (["-m", "protocol.trials=1", "sweep.grid={optimizer.lrr:[1]}"], "optimizer.lrr: there is no such key"),
        (["-m", "protocol.trials=1", "sweep.grid={seed:[1]}"], "seed is not to be tuned"),
        (["-m", "protocol.trials=0"], "protocol.trials=0: expected at least 1"),
        (["-m", "protocol.seds=1"], "protocol.seds: there is no such key"),
        (["protocol.seeds=1"], "start it with peftbench -m"),
    ],
)
def test_mistakes_are_one_sentence(cli, tiny, tmp_path, words, told):
    status, out, err = cli(*words, *tiny, "method=linear", "protocol=vtab1k")
    assert status != 0
    assert told in out + err
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("linear-*"))


def test_what_the_final_runs_could_not_do_is_said_before_the_trials(cli, tiny, tmp_path):
    status, out, err = cli("-m", *tiny, "method=linear", *RULE, "trainer.keep=best")
    assert status == 2
    assert "trainer.keep=best: data.stage=final trains on the validation" in " ".join((out + err).split())
    assert not list(tmp_path.glob("*/result.json"))
