"""`protocol=continual`: a chain of runs, what it measures, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import peftbench
from peftbench import Refusal, UserError
from peftbench.config import Protocol, Sweep
from peftbench.results import Record
from peftbench.runs.run import run
from peftbench.sweeps.continual import carry_out_continual
from support.datasets import class_folders, noise, write
from support.forks import python
from support.runs import compose, learned, told_by

ONE = ["protocol=continual", "protocol.seeds=1", "protocol.trials=1", "sweep.grid=null"]
GROUPS = "data.class_groups=2"


def by_id(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("[!.]*/result.json")}


def sequence_in(folder: Path) -> dict:
    (record,) = [r for r in by_id(folder).values() if "continual" in r["stamps"]]
    return record


def test_a_sequence_is_a_chain_of_runs_with_a_record_beside_them(cli, capsys, tiny, tmp_path):
    words = ["-m", *tiny, *ONE, GROUPS, "method=full"]
    status, out, err = cli(*words)
    assert status == 0, out + err
    whole, records = sequence_in(tmp_path), by_id(tmp_path)
    about = whole["stamps"]["continual"]
    first, second = (records[name] for name in about["runs"])
    (alone,) = (records[name] for name in about["alone"])
    assert len(records) == 4
    assert [len(group) for group in about["groups"]] == [5, 5]
    assert second["stamps"]["start"]["run"] == first["id"]
    assert second["stamps"]["data"]["classes"] == 10
    assert "start" not in first["stamps"]
    assert about["matrix"] == [
        [first["metrics"]["test/accuracy"]],
        [second["metrics"][f"test/group_{j}/accuracy"] for j in (1, 2)],
    ]
    metrics = whole["metrics"]
    assert metrics["test/accuracy"] == second["metrics"]["test/accuracy"]
    assert metrics["test/task_accuracy"] == second["metrics"]["test/task_accuracy"] >= metrics["test/accuracy"]
    assert metrics["test/average_accuracy"] == pytest.approx(
        (first["metrics"]["test/accuracy"] + second["metrics"]["test/accuracy"]) / 2
    )
    assert metrics["test/forgetting"] == pytest.approx(about["matrix"][0][0] - about["matrix"][1][0])
    assert metrics["test/forward_transfer"] == pytest.approx(
        about["task_matrix"][1][1] - alone["metrics"]["test/accuracy"]
    )
    assert metrics["val/accuracy"] == first["metrics"]["val/accuracy"], "what settings are chosen by"
    assert whole["stamps"]["data"]["images"]["test"] == second["stamps"]["data"]["images"]["test"], "as many were read"
    assert "A_1:N %" in out
    assert "record of a sequence: " in out
    _, report, _ = told_by(capsys, "report", tmp_path)
    assert "3 records of single groups of classes (data.class_group) are left out" in report
    assert "2 groups of classes one after the other" in report
    with pytest.raises(UserError, match=rf"no model of its own; give one of its runs, such as .*{second['id']}"):
        peftbench.load(tmp_path / whole["id"])

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert cli(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")} == before, "nothing is repeated"

    for name in (whole["id"], second["id"]):  # as if it had been stopped in the second group
        (tmp_path / name / "result.json").unlink()
    assert cli(*words)[0] == 0
    assert sequence_in(tmp_path)["metrics"] == metrics
    kept = tmp_path / first["id"] / "result.json"
    assert kept.stat().st_mtime_ns == before[kept]


class Trained:
    """Stands for training: a complete record for each config, as a run of one group leaves it."""

    def __init__(self, folder: Path, spoil=None, ends: int = 99) -> None:
        self.folder, self.spoil, self.ends, self.seen = folder, spoil, ends, []

    def __call__(self, configs):
        (config,) = configs
        self.seen.append(config)
        k = config.data.class_group
        if self.spoil is not None and len(self.seen) == 2:
            self.spoil()
        status = "complete" if len(self.seen) < self.ends else "interrupted"
        groups = {f"test/group_{j}/{f}": 0.5 for j in range(1, k + 1) for f in ("accuracy", "task_accuracy")}
        metrics = {"test/accuracy": 0.5, "test/task_accuracy": 0.5, "val/accuracy": config.optimizer.lr, **groups}
        stamps = {"data": {"images": {"test": 4 * k}}}
        record = Record(f"run-{len(self.seen)}", status, config.to_dict(), stamps, metrics, reason="stopped")
        record.folder = str(self.folder / record.id)
        return [record]


@pytest.fixture
def shots(tmp_path) -> Path:
    return class_folders(tmp_path / "shots", dict.fromkeys("abcdef", 6))


def learn(shots: Path, tmp_path: Path, trained: Trained, *words: str, grid=None, **rule) -> list[Record]:
    config = peftbench.compose(
        "data=folder",
        f"data.root={shots}",
        "method=full",
        "data.class_groups=3",
        f"output_dir={tmp_path / 'out'}",
        *words,
    )
    protocol = Protocol(name="continual", **({"trials": 1, "seeds": 1, "alone": False} | rule))
    return carry_out_continual(config, protocol, Sweep(grid=grid), trained)


@pytest.mark.parametrize(
    ("words", "rule", "told"),
    [
        (["data.class_groups=null"], {}, "protocol=continual: needs groups of classes; give data.class_groups=10"),
        (["data.class_groups=4"], {}, "has 6 classes, and a group needs two; expected 2 to 3"),
        (["data.class_groups=1"], {}, "expected two groups of classes or more"),
        (["data.replay=-1"], {}, "data.replay=-1: expected 0 or more"),
        (["method=knn"], {}, "a sequence does not keep those of the groups before"),
        (["method=ridge"], {"learn": "apart"}, "method=ridge trains nothing"),
        (["method=ncm", "data.replay=2"], {}, "data.replay=2: method=ncm keeps sums over all images"),
        (["data.replay=1"], {"learn": "apart"}, "no group is learned from what came before"),
        (["start=outputs"], {}, "start=outputs: protocol=continual sets it for each group"),
        (["data.class_group=1"], {}, "data.class_group=1: protocol=continual sets it"),
        (["data.class_scope=own"], {}, "give protocol.learn=apart"),
        (["data.stage=tune"], {}, "data.stage=tune: tests nothing"),
        (["data.labels=x.csv", "task=regression"], {}, "data.class_groups=3: is not for task=regression"),
        ([], {"trials": 2, "grid": {"data.class_seed": [1, 2]}}, "data.class_seed is not to be tuned"),
        (["data.tasks=10"], {}, "are data.class_groups=10, with protocol=continual"),
        (["data.class_group=4"], {}, "data.class_group=4: expected 1 to 3"),
        (["data.class_groups=null", "data.replay=3"], {}, "data.replay=3: is of groups of classes"),
        (["data.class_group=2", "data.class_scope=own", "data.replay=1"], {}, "the classes of one group alone"),
    ],
)
def test_what_is_no_sequence_is_one_sentence(shots, tmp_path, words, rule, told):
    trained = Trained(tmp_path)
    with pytest.raises((UserError, Refusal)) as problem:
        learn(shots, tmp_path, trained, *words, **rule)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)
    assert not trained.seen
    assert not (tmp_path / "out").is_dir() or not list((tmp_path / "out").glob("*"))


def test_the_command_line_says_so_in_one_sentence(cli, tiny, tmp_path):
    status, out, err = cli("-m", *tiny, "method=linear", *ONE, "data.class_groups=11")
    assert status == 2
    assert "data=digits has 10 classes, and a group needs two; expected 2 to 5" in " ".join((out + err).split())
    assert "Traceback" not in out + err
    status, _, err = cli(*tiny, "method=linear", GROUPS)
    assert status == 2
    assert "a run is of one group of classes; give data.class_group=1" in err
    status, out, err = cli("experiment=continual/imagenet_r", "method=linear", f"data_dir={tmp_path}")
    assert status != 0
    assert "imagenet-r; give the folder of your images" in " ".join((out + err).split())
    assert len([line for line in (out + err).splitlines() if "imagenet-r" in line]) == 1
    assert not list(tmp_path.glob("*/result.json"))


def test_data_that_change_between_groups_end_the_sequence(shots, tmp_path):
    trained = Trained(tmp_path, lambda: write(shots / "a/0.png", noise(1, seed=77)[0]))
    with pytest.raises(UserError, match=r"data=folder: its images or labels are others .* \(group 3 of 3 was to be"):
        learn(shots, tmp_path, trained)
    assert len(trained.seen) == 2


def test_data_that_changed_since_a_sequence_was_stopped_are_refused(shots, tmp_path):
    (stopped,) = learn(shots, tmp_path, Trained(tmp_path, ends=1))
    assert (stopped.status, stopped.id) == ("interrupted", "run-1"), "in its first group"
    (stopped,) = learn(shots, tmp_path, Trained(tmp_path, ends=3))
    assert stopped.status == "interrupted"
    assert stopped.reason == "group 3 of 3: stopped"
    write(shots / "b/0.png", noise(1, seed=78)[0])
    trained = Trained(tmp_path)
    with pytest.raises(UserError, match=r"learned 2 of 3 groups.*put the data back, or give force=true"):
        learn(shots, tmp_path, trained)
    assert not trained.seen
    assert learn(shots, tmp_path, Trained(tmp_path, ends=2), "force=true")[0].status == "interrupted"
    assert learn(shots, tmp_path, Trained(tmp_path))[0].status == "complete", "what was begun anew goes on"


def test_a_setting_is_chosen_on_the_first_group_alone_and_each_seed_draws_its_groups(shots, tmp_path):
    trained = Trained(tmp_path)
    records = learn(shots, tmp_path, trained, grid={"optimizer.lr": [0.1, 0.3, 0.2]}, trials=3, seeds=2)
    trials, learned = trained.seen[:3], trained.seen[3:]
    assert [(c.data.stage, c.data.class_group) for c in trials] == [("tune", 1)] * 3
    assert {c.optimizer.lr for c in learned} == {0.3}
    assert [c.data.class_group for c in learned] == [1, 2, 3, 1, 2, 3]
    assert [c.start for c in learned[:3]] == [None, str(tmp_path / "run-4"), str(tmp_path / "run-5")]
    assert [c.data.class_seed for c in learned] == [0, 0, 0, 1, 1, 1]
    assert records[0].config["protocol"]["chosen"] == {"optimizer.lr": 0.3}
    assert records[0].id != records[1].id
    assert records[0].stamps["data"]["hash"] == records[1].stamps["data"]["hash"], "seeds are of the same data"


def test_a_method_that_keeps_sums_sees_all_so_far_and_the_others_their_own(shots, tmp_path):
    trained = Trained(tmp_path)
    learn(shots, tmp_path, trained, "method=ridge")
    assert {c.data.replay for c in trained.seen} == {"all"}
    assert {c.start for c in trained.seen} == {None}
    knn = {"name": "knn", "path": "peftbench.methods.knn.KNN"}
    trained = Trained(tmp_path)
    with pytest.raises(Refusal, match=r"method@protocol\.told_by=knn: keeps no sums"):
        learn(shots, tmp_path, trained, learn="apart", told_by=knn, grid={"optimizer.lr": [0.1, 0.3]}, trials=2)
    assert not trained.seen, "nothing is tried first"


def test_the_key_of_a_method_s_options_says_how_the_method_is_named(cli):
    status, out, err = cli("-m", "protocol=continual", "data=digits", "method=lora", "protocol.told_by=ridge")
    assert status == 2
    assert "a method is named by method@protocol.told_by=ridge" in out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method=ftp", "method.anchor=pretrained"],
        ["method=l2sp", "data.replay=2"],
        ["method=lora", "protocol.learn=apart", "protocol.told_by=null"],
        ["method=ncm"],
    ],
    ids=["ftp", "l2sp", "lora", "ncm"],
)
def test_methods_learn_groups(cli, tiny, tmp_path, words):
    status, out, err = cli("-m", *tiny, *ONE, GROUPS, "protocol.alone=false", *words)
    assert status == 0, out + err
    metrics = sequence_in(tmp_path)["metrics"]
    assert ("test/accuracy" in metrics) == ("protocol.told_by=null" not in words)
    assert 0 <= metrics["test/task_accuracy"] <= 1


@pytest.mark.slow
def test_nets_apart_are_told_by_a_nearest_class_mean(cli, tiny, tmp_path):
    words = ["backbone.pretrained=true", "trainer.max_batches=null", "protocol.learn=apart"]
    status, out, err = cli("-m", *tiny, *ONE, GROUPS, "method=losa", *words)
    assert status == 0, out + err
    whole, records = sequence_in(tmp_path), by_id(tmp_path)
    about = whole["stamps"]["continual"]
    assert records[about["told_by"][1]]["config"]["method"]["name"] == "ncm"
    assert about["task_matrix"][1][0] == about["task_matrix"][0][0], "a net of its own forgets nothing"
    assert whole["metrics"]["test/task_forgetting"] == 0
    for within, said in zip(about["task_matrix"], about["matrix"], strict=True):
        assert all(a >= b for a, b in zip(within, said, strict=True))
    assert whole["metrics"]["test/accuracy"] > 0.3
    assert np.average(about["matrix"][1], weights=[300, 299]) == pytest.approx(
        whole["metrics"]["test/accuracy"], abs=0.01
    )


@pytest.mark.slow
def test_a_sequence_that_was_killed_in_a_group_goes_on_there_to_the_same_figures(tiny, tmp_path):
    def command(folder: Path) -> list[str]:
        words = [*tiny, *ONE, GROUPS, "method=full", "protocol.alone=false", "trainer.epochs=4"]
        more = ["trainer.max_batches=6", "trainer.checkpoint_seconds=0", "logger=none", f"output_dir={folder}"]
        return [python(), "-m", "peftbench", "-m", *words, *more]

    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    assert subprocess.run(command(undisturbed), capture_output=True, check=False).returncode == 0
    begun = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    expected = sequence_in(undisturbed)
    second = killed / expected["stamps"]["continual"]["runs"][1]
    until = time.monotonic() + 240
    while not (second / "checkpoint.ckpt").is_file() and begun.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    assert json.loads((second / "result.json").read_text())["status"] == "running"
    first = killed / expected["stamps"]["continual"]["runs"][0] / "result.json"
    before = first.stat().st_mtime_ns
    assert subprocess.run(command(killed), capture_output=True, check=False).returncode == 0
    assert first.stat().st_mtime_ns == before
    assert sequence_in(killed)["metrics"] == expected["metrics"]
    assert by_id(killed)[second.name]["costs"]["time"]["sessions"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["l2sp", "ftp"])
def test_a_run_stays_near_the_previous_weights_or_is_drawn_to_the_pretrained_ones(tmp_path, method):
    def learn_group(group: int, *words: str) -> Record:
        groups = [GROUPS, f"data.class_group={group}", "optimizer.schedule=constant", "optimizer.warmup=0.0"]
        record = run(compose(tmp_path, f"method={method}", "backbone.pretrained=true", *groups, *words))
        assert record.status == "complete"
        return record

    first = learn_group(1, "optimizer.lr=1e-3")
    strong = ["optimizer=sgd", "optimizer.lr=1e-3", *(["method.strength=300"] if method == "l2sp" else [])]
    second = [
        learn_group(2, f"start={first.folder}", f"method.anchor={anchor}", *strong)
        for anchor in ("start", "pretrained")
    ]
    before, (near, drawn) = learned(first), map(learned, second)
    weights = [name for name in before if name.startswith("backbone.") and before[name].ndim == 4]
    assert weights

    def far(tensors: dict) -> float:
        return sum(float((tensors[name] - before[name]).square().sum()) for name in weights) ** 0.5

    assert second[0].id != second[1].id
    if method == "l2sp":
        assert far(drawn) > 3 * far(near)
    else:  # the first step of the one is undone, and the other is not thrown back to where nothing was learned
        assert far(near) < far(drawn) < 0.5 * sum(float(before[name].square().sum()) for name in weights) ** 0.5
