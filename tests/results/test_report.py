"""`peftbench report`: figures, and what counts in them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from peftbench.common.vtab_tasks import GROUPS
from peftbench.results.boards import boards
from peftbench.results.collect import collect
from peftbench.results.pareto import pareto_front
from peftbench.results.published import TABLE
from support.reports import TASKS, leaderboard, one, record, tell, write

# -- figures


def test_means_are_of_groups_and_intervals_of_seeds(suite):
    lines = leaderboard(suite)
    values: dict[str, np.ndarray] = {}
    for task in TASKS:
        found = [json.loads(p.read_text()) for p in suite.glob(f"lora-x-{task.replace('/', '_')}-s*/result.json")]
        values[task] = np.array([r["metrics"]["test/accuracy"] for r in found])
        cell = one(lines, method="lora", task=task)
        assert float(cell["value"]) == pytest.approx(values[task].mean())
        low, high = scipy.stats.t.interval(0.95, 2, values[task].mean(), scipy.stats.sem(values[task]))
        assert float(cell["half"]) == pytest.approx((high - low) / 2)
        assert cell["n"] == "3"
    by_group = {g: np.mean([values[f"vtab/{t}"].mean() for t in tasks]) for g, tasks in GROUPS.items()}
    for group, mean in by_group.items():
        assert float(one(lines, method="lora", task=group)["value"]) == pytest.approx(mean)
    grouped = one(lines, method="lora", task="mean of groups")
    assert float(grouped["value"]) == pytest.approx(np.mean(list(by_group.values())))
    flat = one(lines, method="lora", task="flat mean")
    assert float(flat["value"]) == pytest.approx(np.mean([v.mean() for v in values.values()]))
    weights = {f"vtab/{t}": 1 / 3 / len(tasks) for tasks in GROUPS.values() for t in tasks}
    parts = np.array([weights[t] ** 2 * v.var(ddof=1) / 3 for t, v in values.items()])
    freedom = parts.sum() ** 2 / (parts**2 / 2).sum()
    assert float(grouped["half"]) == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))


def test_differences_are_paired_and_said_in_words(suite, tmp_path):
    lines = list(csv.DictReader(io.StringIO(tell("report", suite, "--format=csv", "table=pairs"))))
    pair = one(lines, first="lora", second="bitfit")

    def means(method: str) -> np.ndarray:
        at = [[json.loads((suite / f"{method}-x-{t.replace('/', '_')}-s{s}/result.json").read_text()) for s in range(3)]
              for t in TASKS]  # fmt: skip
        return np.array([np.mean([r["metrics"]["test/accuracy"] for r in own]) for own in at])

    test = scipy.stats.ttest_rel(means("lora"), means("bitfit"))
    assert float(pair["p"]) == pytest.approx(test.pvalue)
    assert float(pair["p_wilcoxon"]) == pytest.approx(scipy.stats.wilcoxon(means("lora"), means("bitfit")).pvalue)
    assert float(pair["p_holm"]) >= float(pair["p"])
    assert (pair["n"], pair["verdict"]) == ("19", "better")
    for seed, (a, b) in enumerate([(0.90, 0.91), (0.92, 0.90), (0.91, 0.92)]):
        write(tmp_path, record("lora", "digits", seed, a), record("bitfit", "digits", seed, b))
    out = tell("report", tmp_path)
    assert "inside the noise" in out
    assert "3 seeds" in out
    test = scipy.stats.ttest_rel([0.91, 0.90, 0.92], [0.90, 0.92, 0.91])
    (line,) = csv.DictReader(io.StringIO(tell("report", tmp_path, "--format=csv", "table=pairs")))
    assert float(line["p"]) == pytest.approx(test.pvalue)


def test_a_single_seed_has_no_interval_and_no_verdict(tmp_path):
    write(tmp_path, record("lora", accuracy=0.9), record("bitfit", accuracy=0.8))
    out = tell("report", tmp_path)
    assert "too few pairs to tell" in out
    assert "90.0 ±" not in out


def test_a_mean_over_fewer_tasks_is_refused_unless_asked_for_and_then_named(suite, tmp_path):
    shutil.copytree(suite, tmp_path / "a")
    for folder in (tmp_path / "a").glob("lora-x-vtab_kitti-*"):
        shutil.rmtree(folder)
    lines = leaderboard(tmp_path)
    for name in ("structured", "mean of groups", "flat mean"):
        line = one(lines, method="lora", task=name)
        assert (line["value"], line["missing"]) == ("", "vtab/kitti")
    assert one(lines, method="lora", task="natural")["value"] != ""
    assert "lora lacks 1 task (kitti); incomplete=true gives" in tell("report", tmp_path)
    asked = one(leaderboard(tmp_path, incomplete="true"), method="lora", task="flat mean")
    assert float(asked["value"]) > 0.5
    assert asked["missing"] == "vtab/kitti"
    assert re.search(r"\d \* +│|\d\*", tell("report", tmp_path, "--incomplete"))


def test_costs_are_averaged_and_memory_is_the_largest(tmp_path):
    for seed, (seconds, memory) in enumerate([(10.0, 2e8), (20.0, 4e8)]):
        more = {"costs__time__train": seconds, "costs__memory__peak": {"allocated": memory, "reserved": 9e9}}
        write(tmp_path, record("lora", seed=seed, **more))
    line = one(leaderboard(tmp_path), task="digits")
    assert (float(line["train"]), float(line["memory"])) == (15.0, 4e8)


def test_times_of_two_machines_are_not_averaged(tmp_path):
    write(tmp_path, record("lora", seed=0), record("lora", seed=1, stamps__machine__processor="another CPU"))
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["machines"], line["train"], line["memory"], line["parameters"]) == ("2", "", "", "1000.0")
    assert "2 machines" in tell("report", tmp_path)


def test_settings_of_one_method_are_rows_named_by_what_differs(tmp_path):
    for rank in (4, 8):
        for rate in (1e-3, 1e-2):
            more = {"config__method__options": {"rank": rank, "alpha": 1.0}, "config__optimizer__lr": rate}
            each = record("lora", accuracy=0.5 + rank / 100 + rate, **more)
            write(tmp_path, each | {"id": f"lora-{rank}-{rate}"})
    found = {line["method"] for line in leaderboard(tmp_path, settings="all")}
    assert found == {f"lora rank={r}, lr={lr}" for r in (4, 8) for lr in ("0.001", "0.01")}


def test_what_a_protocol_chose_per_task_is_one_row_and_says_so(tmp_path):
    protocol = {"name": "vtab1k", "trials": 2, "grid": {"optimizer.lr": [1e-3, 1e-2]}}
    for task, rate in (("vtab/dtd", 1e-3), ("vtab/svhn", 1e-2)):
        write(tmp_path, record("lora", task, config__optimizer__lr=rate, config__protocol=protocol))
        write(tmp_path, record("lora", task, config__optimizer__lr=rate) | {"id": f"plain-{rate}"})
    lines = leaderboard(tmp_path, settings="all")
    tuned = {line["method"] for line in lines if line["tuned"]}
    assert len(tuned) == 1
    assert len({line["method"] for line in lines if not line["tuned"]}) == 2, "untuned settings are rows of their own"
    assert "vtab1k: 2 trials a task (optimizer.lr in [0.001, 0.01])" in tell("report", tmp_path)


def test_ood_columns_are_there_where_records_have_them(tmp_path):
    metrics = {"test/accuracy": 0.9, "ood/accuracy": 0.6, "ood/noise:3/accuracy": 0.6, "ood/noise:3/loss": 2.0}
    write(tmp_path, record("lora", metrics=metrics), record("bitfit"))
    out = tell("report", tmp_path)
    assert "On shifted test sets" in out
    assert "noise:3" in out
    assert one(leaderboard(tmp_path), method="lora", task="digits")["ood"] == "0.6"


SHIFTED = {
    "multilabel": ("mAP", {"AP/cat": 0.2, "AP/mAP": 0.3, "f1": 0.4}),
    "regression": ("r2", {"mae": 12.0, "mae/r2": 11.0}),
    "classification": ("accuracy", {"class_accuracy": 0.2, "class_accuracy/accuracy": 0.3}),
}


@pytest.mark.parametrize("task", SHIFTED)
def test_shifted_sets_are_reported_by_what_the_task_is_judged_by(task, tmp_path):
    metric, others = SHIFTED[task]
    metrics = {f"test/{metric}": 0.8, "test/loss": 1.0, f"ood/{metric}": 0.61, f"ood/noise/{metric}": 0.62}
    metrics |= {f"ood/noise:3/{name}": value for name, value in ({metric: 0.63, "loss": 1.0} | others).items()}
    images = {"train": 1000, "test": 10_000, "ood/noise:3": 10_000}
    more = {"metrics": metrics, "config__task": {"name": task}, "stamps__data__images": images}
    write(tmp_path, record("lora", **more), record("bitfit", **{**more, "metrics": {f"test/{metric}": 0.7}}))
    shown = tell("report", tmp_path, "--format=markdown").split("On shifted test sets, %")[1].split("\n## ")[0]
    assert shown.splitlines()[0].strip() == ("" if task == "classification" else metric)
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert (lines[0], lines[2:]) == (
        "| method | test % | mean | noise | noise:3 |",
        ["| lora | 80.0 | 61.0 | 62.0 | 63.0 |"],
    )
    assert one(leaderboard(tmp_path), method="lora", task="digits")["ood"] == "0.61"


@given(points=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    on = set(pareto_front(points))
    for i, (cost, accuracy) in enumerate(points):
        beaten = any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        twin = any((c, a) == (cost, accuracy) and j in on for j, (c, a) in enumerate(points) if j != i)
        assert (i in on) == (not beaten and not (twin and i not in on))


# -- what is not comparable


def test_published_numbers_stand_beside_the_official_split_only(suite, tmp_path):
    out = tell("report", suite, "--format=markdown")
    assert "Published, for orientation" in out
    assert "V-PETL Bench" in out
    lora = next(r for r in TABLE if r.method == "lora")
    assert f"{lora.mean:.1f}" in out
    assert "| full |" not in out.split("Published, for orientation")[1], "only methods that were run"
    for path in suite.glob("*/result.json"):
        each = json.loads(path.read_text())
        each["stamps"]["data"]["split"] += "@peftbench-v1"
        write(tmp_path, each)
    for form in ("markdown", "latex", "terminal"):
        made = tell("report", tmp_path, f"--format={form}")
        assert "V-PETL" not in made
        assert "peftbench-v1" in made
    tell("report", tmp_path, "--format=html")
    assert "V-PETL" not in (tmp_path / "report.html").read_text()


def test_published_means_are_those_of_their_groups():
    assert {r.method for r in TABLE} == {"full", "linear", "bitfit", "lora", "lst", "spt_lora", "spt_adapter"}
    for row in TABLE:
        assert row.mean == pytest.approx((row.natural + row.specialized + row.structured) / 3, abs=0.08)


def test_tuning_runs_and_failures_are_counted_and_in_no_mean(tmp_path):
    write(tmp_path, record("lora", seed=0, accuracy=0.9))
    write(tmp_path, record("lora", seed=1, metrics={"val/accuracy": 0.1}) | {"id": "tuning"})
    write(tmp_path, record("lora", seed=2, metrics={}, status="failed", reason="the loss became nan") | {"id": "bad"})
    out = tell("report", tmp_path)
    assert "No table shows 1 complete run without this metric (of data.stage=tune, say)" in out
    assert "the loss became nan" in out
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["value"], line["n"], line["failed"]) == ("0.9", "1", "1")
    assert one(leaderboard(tmp_path, metric="val/accuracy"), task="digits")["value"] == "0.1"


# -- what runs leave


def test_a_report_of_real_runs(cli, tiny, tmp_path):
    assert cli("-m", *tiny, "method=linear,bitfit", "seed=0,1")[0] == 0
    lines = leaderboard(tmp_path)
    found = {m: one(lines, method=m, task="digits") for m in ("linear", "bitfit")}
    assert {line["n"] for line in found.values()} == {"2"}
    assert float(found["bitfit"]["parameters"]) > float(found["linear"]["parameters"]) == 0
    assert len(boards(collect([tmp_path]).runs, "test/accuracy")) == 1
    shown = tell("report", tmp_path)
    assert re.search(r"4 complete records of 20\d\d-\d\d-\d\d made with (commit|version) \w", shown)
    tell("report", tmp_path, "--format=html")
    assert "bitfit" in (tmp_path / "report.html").read_text()
