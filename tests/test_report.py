"""`peftbench report` and `peftbench choose`: figures, what is kept apart, formats, bad files, the page in a browser."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftbench.cli.main import main
from peftbench.common.vtab_tasks import GROUPS
from peftbench.results.boards import boards
from peftbench.results.collect import collect
from peftbench.results.pareto import pareto_front
from peftbench.results.published import TABLE

TASKS = [f"vtab/{t}" for group in GROUPS.values() for t in group]


def record(method: str, task: str = "digits", seed: int = 0, accuracy: float = 0.9, **more: Any) -> dict[str, Any]:
    """A complete record as a run writes it. `more` are changes by dotted path, `__` for the dot."""
    found = {
        "schema": 1,
        "id": f"{method}-x-{task.replace('/', '_')}-s{seed}",
        "status": "complete",
        "reason": None,
        "config": {
            "method": {"name": method, "path": f"peftbench.methods.{method}.X", "options": {}},
            "backbone": {"name": "vit_base_patch16_224.orig_in21k", "weights": "hub", "drop_path": 0.0},
            "data": {"name": task, "batch_size": 64, "augment": "none", "stage": "final", "options": {}},
            "task": {"name": "classification", "label_smoothing": 0.0},
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4},
            "trainer": {"epochs": 100, "precision": "32", "devices": 1, "nodes": 1, "accelerator": "auto"},
            "taps": {"mode": "auto", "views": 0},
            "seed": seed,
            "choices": {"method": method, "backbone": "vit_b", "data": task},
        },
        "stamps": {
            "backbone": {"name": "vit_base_patch16_224.orig_in21k", "weights": "hub", "pretrained": True,
                         "fingerprint": "f" * 64, "input_size": 224},
            "data": {"split": task, "stage": "final", "hash": f"{task}-hash", "classes": 10, "skipped": [],
                     "transform": {"size": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}},
            "machine": {"processor": "a CPU", "threads": 2, "devices": []},
        },
        "metrics": {"test/accuracy": accuracy, "test/loss": 1 - accuracy, "train/loss": 0.1},
        "costs": {
            "parameters": {"method": 1000, "head": 100},
            "time": {"train": 60.0, "validate": 6.0, "step": {"median": 0.05}},
            "memory": {"peak": {"resident": 5e8, "exact": True}},
        },
        "history": [{"epoch": e, "step": e, "train_loss": 1 / e, "val_accuracy": 0.5} for e in (1, 2, 3)],
        "plan": {},
    }  # fmt: skip
    for path, value in more.items():
        *parents, last = path.split("__")
        place = found
        for key in parents:
            place = place[key]
        place[last] = value
    return found


def write(folder: Path, *records: dict[str, Any]) -> Path:
    for each in records:
        place = folder / each["id"]
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").write_text(json.dumps(each))
    return folder


def tell(*words: Any) -> str:
    status, out, err = call(*words)
    assert status == 0, err
    return out


def call(*words: Any) -> tuple[int, str, str]:
    """The command line in process; these verbs have no output_dir, which the fixture `cli` gives."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(w) for w in words])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """Three methods on all of VTAB, three seeds: lora a point better than bitfit, linear far behind."""
    folder, rng = tmp_path_factory.mktemp("suite"), np.random.default_rng(0)
    for method, gain, params, memory in (("linear", -0.2, 0, 1e8), ("bitfit", 0.0, 1e5, 8e8), ("lora", 0.01, 3e5, 1e9)):
        for i, task in enumerate(TASKS):
            for seed in range(3):
                noise = rng.normal(0, 0.002)
                more = {"costs__parameters__method": params, "costs__memory__peak": {"resident": memory},
                        "costs__time__train": 30.0 + params / 1e4}  # fmt: skip
                write(folder, record(method, task, seed, 0.6 + 0.01 * i + gain + noise, **more))
    return folder


def leaderboard(*places: Path, **options: str) -> list[dict[str, str]]:
    words = [f"{k}={v}" for k, v in options.items()]
    return list(csv.DictReader(io.StringIO(tell("report", *places, "--format=csv", *words))))


def one(lines: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (found,) = [line for line in lines if all(line[k] == v for k, v in wanted.items())]
    return found


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
    line = one(leaderboard(tmp_path), task="flat mean")
    assert (float(line["train"]), float(line["memory"])) == (15.0, 4e8)


def test_times_of_two_machines_are_not_averaged(tmp_path):
    write(tmp_path, record("lora", seed=0), record("lora", seed=1, stamps__machine__processor="another CPU"))
    line = one(leaderboard(tmp_path), task="flat mean")
    assert (line["machines"], line["train"], line["memory"], line["parameters"]) == ("2", "", "", "1000.0")
    assert "2 machines" in tell("report", tmp_path)


def test_settings_of_one_method_are_rows_named_by_what_differs(tmp_path):
    for rank in (4, 8):
        for rate in (1e-3, 1e-2):
            more = {"config__method__options": {"rank": rank, "alpha": 1.0}, "config__optimizer__lr": rate}
            each = record("lora", accuracy=0.5 + rank / 100 + rate, **more)
            write(tmp_path, each | {"id": f"lora-{rank}-{rate}"})
    found = {line["method"] for line in leaderboard(tmp_path)}
    assert found == {f"lora rank={r}, lr={lr}" for r in (4, 8) for lr in ("0.001", "0.01")}


def test_what_a_protocol_chose_per_task_is_one_row_and_says_so(tmp_path):
    protocol = {"name": "vtab1k", "trials": 2, "grid": {"optimizer.lr": [1e-3, 1e-2]}}
    for task, rate in (("vtab/dtd", 1e-3), ("vtab/svhn", 1e-2)):
        write(tmp_path, record("lora", task, config__optimizer__lr=rate, config__protocol=protocol))
        write(tmp_path, record("lora", task, config__optimizer__lr=rate) | {"id": f"plain-{rate}"})
    lines = leaderboard(tmp_path)
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


@given(points=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    on = set(pareto_front(points))
    for i, (cost, accuracy) in enumerate(points):
        beaten = any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        twin = any((c, a) == (cost, accuracy) and j in on for j, (c, a) in enumerate(points) if j != i)
        assert (i in on) == (not beaten and not (twin and i not in on))


# -- what is not comparable

APART = {
    "weights": ({"stamps__backbone__weights": "augreg.safetensors"}, "weights: augreg.safetensors, not hub"),
    "fingerprint": ({"stamps__backbone__fingerprint": "e" * 64}, "other weights under the same name"),
    "backbone": ({"stamps__backbone__name": "resnet50.a1_in1k"}, "another backbone (resnet50.a1_in1k"),
    "normalisation": ({"stamps__data__transform__mean": [0.485, 0.456, 0.406]}, "normalisation: mean 0.485/0.456"),
    "size": ({"stamps__data__transform__size": 384}, "input: 384 px, bicubic, not 224 px"),
    "hash": ({"stamps__data__hash": "another"}, "another split of the same task (digits: digits (another)"),
    "made": ({"stamps__data__split": "digits@peftbench-v1"}, "split: peftbench-v1, not as listed"),
    "smaller": ({"stamps__data__split": "digits@tfds-order-16-4-12"}, "split: tfds-order-16-4-12, not as listed"),
    "stage": ({"stamps__data__stage": "fit"}, "trained on: train, not train and val"),
}  # fmt: skip


@pytest.mark.parametrize("what", APART)
def test_what_cannot_be_compared_stands_apart_with_the_reason(tmp_path, what):
    changes, reason = APART[what]
    write(tmp_path, *(record(m, seed=s, accuracy=0.9) for m in ("lora", "bitfit") for s in (0, 1)))
    write(tmp_path, *(record("lora", seed=s, accuracy=0.1, **changes) | {"id": f"other-{s}"} for s in (0, 1)))
    lines = leaderboard(tmp_path)
    first = one(lines, board="0", method="lora", task="digits")
    assert (float(first["value"]), first["n"]) == (pytest.approx(0.9), "2")
    second = one(lines, board="1", method="lora", task="digits")
    assert (float(second["value"]), second["n"]) == (pytest.approx(0.1), "2")
    assert reason in second["apart"]
    for form in ("terminal", "markdown"):
        assert "stands apart from the boards before" in tell("report", tmp_path, f"--format={form}")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"costs__taps": {"mode": "disk", "computed": 10, "seconds": 5.0}}, "from kept taps"),
        ({"costs__together": 8}, "trained together"),
    ],
)
def test_runs_whose_times_cannot_be_compared_are_rows_of_their_own(tmp_path, changes, name):
    write(tmp_path, *(record("losa", seed=s, accuracy=0.9, costs__time__train=60.0) for s in (0, 1)))
    for seed in (0, 1):
        each = copy.deepcopy(record("losa", seed=seed, accuracy=0.9, costs__time__train=6.0))
        for path, value in changes.items():
            each["costs"][path.removeprefix("costs__")] = value
        write(tmp_path, each | {"id": f"other-{seed}"})
    lines = leaderboard(tmp_path)
    assert float(one(lines, method="losa", task="digits")["train"]) == 60.0
    other = one(lines, method=f"losa {name}", task="digits")
    assert (float(other["train"]), other["n"], other["times"]) == (6.0, "2", name)


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


# -- files that are no records


def test_what_is_no_record_is_skipped_and_named(tmp_path):
    write(tmp_path, record("lora"))
    good = json.dumps(record("bitfit"))
    bad = {
        "half": good[: len(good) // 2],
        "old": json.dumps(record("bitfit", schema=0)),
        "newer": json.dumps(record("bitfit", schema=99)),
        "foreign": json.dumps({"train_config": {}, "results": [1, 2]}),
        "list": "[1, 2]",
        "number": "3",
        "empty": "",
        "no-config": json.dumps(record("bitfit", config={})),
        "typed": json.dumps(record("bitfit", config__method="lora")),
        "deep": "[" * 100_000,
    }
    for name, content in bad.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "result.json").write_bytes(b"\xff\xfe\x00\x80" * 50)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "result.json").write_text("{")
    collected = collect([tmp_path])
    assert {Path(p).parent.name for p, _ in collected.skipped} == {*bad, "binary"}
    assert len(collected.runs) == 1
    out = tell("report", tmp_path, "--format=markdown")
    assert "Skipped: no records of this version (11)" in out
    assert "has record schema 99, this version reads 1" in out
    assert "/half/result.json" in out


def test_two_records_of_one_run_count_once_and_are_named(tmp_path):
    write(tmp_path / "a", record("lora", accuracy=0.9))
    write(tmp_path / "b", record("lora", accuracy=0.8))
    out = tell("report", tmp_path, "--format=markdown")
    assert "Repeated: counted once (1)" in out
    assert "with other figures" in out
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["value"], line["n"]) == ("0.9", "1")
    again = leaderboard(tmp_path / "a", tmp_path / "a" / ".." / "a")
    assert one(again, task="digits")["n"] == "1"
    assert not collect([tmp_path / "a", tmp_path / "a"]).repeated


def test_the_same_setting_and_seed_twice_counts_once(tmp_path):
    write(tmp_path, record("lora", accuracy=0.9))
    more = {"test/accuracy": 0.9, "ood/accuracy": 0.5}
    write(tmp_path, record("lora", metrics=more) | {"id": "with-ood"})
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["n"], line["ood"]) == ("1", "0.5")
    assert "leave out 1 further run (lora-x-digits-s0)" in tell("report", tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "nowhere"], "nowhere: there is no such folder"),
        (
            ["report", "{}", "--format=htm"],
            "format=htm: expected terminal or markdown or csv or latex or html (did you",
        ),
        (["report", "{}", "--formt=html"], "there is no such option (did you mean 'format'?)"),
        (["report", "{}", "metric=test/acuracy"], "none of the 1 records has it (did you mean 'test/accuracy'?)"),
        (["report", "{}", "table=pairs"], "only format=csv has one table"),
        (["report", "{}", "--output=x.html"], "format=terminal is shown, not written"),
        (["report", "{}", "--format=html", "--output={}/mine.txt"], "is there and is no html report"),
        (["report", "{}", "--format=html", "--output={}/no/x.html"], "cannot be written"),
        (["report", "{}/empty"], "holds no record of a run"),
        (["choose", "{}"], "choose: needs a budget"),
        (["choose", "{}", "max_memory=2XB"], "max_memory=2XB: expected bytes, such as 2GB"),
        (["choose", "{}", "max_memory=-1"], "max_memory=-1: expected bytes"),
        (["choose", "{}", "max_minutes=ten"], "max_minutes=ten: expected minutes"),
        (["choose", "{}", "max_params="], "needs a value"),
        (["choose", "{}", "max_param=3"], "there is no such option (did you mean 'max_params'?)"),
        (["choose", "{}", "max_params=3", "data=digit"], "data=digit: no record is of it (did you mean 'digits'?)"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, words, told):
    write(tmp_path, record("lora"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    status, out, err = call(*(w.replace("{}", str(tmp_path)) for w in words))
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert (tmp_path / "mine.txt").read_text() == "mine"


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    if isinstance(value, dict):
        return [path, *(p for k, v in value.items() for p in leaves(v, (*path, k)))]
    if isinstance(value, list):
        return [path, *(p for k, v in enumerate(value) for p in leaves(v, (*path, k)))]
    return [path]


WHOLE = record("spt", plan={"layers": [{"name": "blocks.0.attn.qkv.weight", "kind": "lora", "parameters": 5}]})
JUNK = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just([])
    | st.just({})
    | st.just([None])
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.sampled_from(leaves(WHOLE)[1:]), junk=JUNK)
def test_a_record_with_anything_anywhere_is_read_or_named(tmp_path, where, junk):
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    changed = copy.deepcopy(WHOLE)
    place = changed
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = junk
    name = "changed"
    (tmp_path / "one" / name).mkdir(parents=True)
    (tmp_path / "one" / name / "result.json").write_text(json.dumps(changed))
    write(tmp_path / "one", record("lora"))
    for form in ("terminal", "html"):
        status, _, err = call("report", tmp_path / "one", f"--format={form}")
        assert status == 0, err
    collected = collect([tmp_path / "one"])
    assert len(collected.runs) + len(collected.skipped) + len(collected.repeated) == 2


# -- formats


def test_latex_escapes_and_balances(suite, tmp_path):
    out = tell("report", suite, "--format=latex", f"--output={tmp_path / 'r.tex'}")
    assert out.startswith("report: ")
    text = (tmp_path / "r.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") >= 3
    for number, line in enumerate(text.splitlines()):
        assert not re.search(r"(?<!\\)_", line), (number, line)
        if line.endswith(r"\\"):
            assert "%" not in line.replace(r"\%", "")
    tell("report", suite, "--format=latex", f"--output={tmp_path / 'r.tex'}")  # a report may be written again


def test_markdown_tables_have_equal_columns(suite):
    rows = [line for line in tell("report", suite, "--format=markdown").splitlines() if line.startswith("|")]
    blocks = "\n".join(rows)
    assert "| lora | 3 |" in blocks
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) >= 3


def test_hostile_names_stay_text_on_the_page(tmp_path):
    evil = "<script>alert(1)</script>&\"'</script>"
    each = record("lora", config__choices={"method": evil, "backbone": evil, "data": evil}, reason=evil)
    write(tmp_path, each | {"id": "x"}, record("bitfit", status="failed", reason=evil))
    tell("report", tmp_path, "--format=html")
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>") == 2


def test_the_page_fetches_nothing(suite, tmp_path):
    tell("report", suite, "--format=html", f"--output={tmp_path / 'r.html'}")
    text = (tmp_path / "r.html").read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\bsrc=|@import|url\(|<link|fetch\(", text)
    assert "default-src 'none'" in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text

    class Tables(HTMLParser):
        found: list[str] = []

        def handle_data(self, data: str) -> None:
            self.found.append(data)

    reader = Tables()
    reader.feed(text)
    assert "lora" in reader.found, "the tables are there without the script"


def test_no_torch_is_imported(suite):
    code = f"import sys; from peftbench.cli.main import main; main(['report', {str(suite)!r}])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


# -- the page in a browser


def browser() -> str:
    """A Chromium. Where PEFTBENCH_BROWSER=required (as in .ci/run) its absence is a failure."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("PEFTBENCH_BROWSER") == "required":
        pytest.fail("no Chromium is installed, and PEFTBENCH_BROWSER=required")
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")


class Dom(HTMLParser):
    """What a test reads of the page: attributes by tag, the text of cells by row, and the text by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.nodes: list[tuple[str, dict[str, str]]] = []
        self.rows: list[tuple[dict[str, str], list[str]]] = []
        self.by_id: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {k: v or "" for k, v in attrs}
        self.nodes.append((tag, own))
        self._open = own.get("id")
        if tag == "tr":
            self.rows.append((own, []))
        if tag in ("td", "th") and self.rows:
            self.rows[-1][1].append("")
            self._open = "cell"

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open == "cell":
            self.rows[-1][1][-1] += data
        elif self._open:
            self.by_id[self._open] = self.by_id.get(self._open, "") + data


def load(page: Path, fragment: str, profile: Path) -> Dom:
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    command += ["--virtual-time-budget=3000", f"file://{page}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Dom(done.stdout)


def test_in_a_browser_the_page_draws_sorts_and_filters(suite, tmp_path):
    shutil.copytree(suite, tmp_path / "runs")
    layers = [{"name": f"blocks.{i}.attn.qkv.weight", "kind": "lora", "parameters": 100 * (i + 1)} for i in range(3)]
    for path in (tmp_path / "runs").glob("lora-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"plan": {"layers": layers}}))
    tell("report", tmp_path / "runs", "--format=html")
    page = tmp_path / "runs" / "report.html"
    whole = load(page, "", tmp_path / "profile")
    assert whole.by_id["count"] == "3 of 3 rows"
    points = [a for t, a in whole.nodes if t == "circle" and a.get("data-label")]
    assert {p["data-label"] for p in points} == {"lora", "bitfit", "linear"}
    on_front = {p["data-label"] for p in points if p["data-front"] == "true"}
    assert {"lora", "bitfit"} <= on_front
    bars = [a for t, a in whole.nodes if t == "rect" and a.get("data-task") == "kitti"]
    lines = leaderboard(tmp_path / "runs")
    for bar in bars:
        mean = float(one(lines, method=bar["data-label"], task="vtab/kitti")["value"])
        assert float(bar["width"]) == pytest.approx(180 * mean, rel=1e-4), "bars are as long as the means are large"
    assert len(bars) == 3
    assert len([a for t, a in whole.nodes if t == "svg" and a["aria-label"] == "lora: budget by layer"]) == 1
    ordered = [cells[0] for _, cells in whole.rows if cells and cells[0] in ("lora", "bitfit", "linear")][:3]
    assert ordered == ["lora", "bitfit", "linear"]

    sorted_ = load(page, "#q=kitti&sort=params&order=ascending", tmp_path / "profile")
    ordered = [cells[0] for _, cells in sorted_.rows if cells and cells[0] in ("lora", "bitfit", "linear")][:3]
    assert ordered == ["linear", "bitfit", "lora"]
    assert {a["data-task"] for t, a in sorted_.nodes if t == "rect" and "data-task" in a} == {"kitti"}

    filtered = load(page, "#q=bitfit", tmp_path / "profile")
    assert filtered.by_id["count"] == "1 of 3 rows"
    assert {a["data-label"] for t, a in filtered.nodes if t == "circle" and "data-label" in a} == {"bitfit"}
    shown = [
        cells[0] for attrs, cells in filtered.rows if "hidden" not in attrs and cells[0] in ("lora", "bitfit", "linear")
    ]
    assert set(shown) == {"bitfit"}


# -- choose


def test_choose_names_the_best_that_fits(suite):
    out = tell("choose", suite, "max_params=0.2M", "max_memory=900MB")
    overall = out.split("all 19 tasks: ")[1]
    assert overall.startswith("bitfit: ")
    mean = one(leaderboard(suite), method="bitfit", task="mean of groups")
    assert overall.startswith(f"bitfit: {100 * float(mean['value']):.1f} ±")
    assert (
        "better, but over max_memory=900MB (1.0 GB, 1.1 times) and max_params=0.2M (300,000, 1.5 times): lora"
        in overall
    )
    assert out.count("\nkitti: ") + out.count("\nvtab/kitti: ") == 1
    only = tell("choose", suite, "max_params=10M", "data=vtab/cifar100")
    assert "vtab/cifar: lora" in only
    assert "kitti" not in only


def test_choose_says_what_misses_least_when_nothing_fits(suite):
    status, out, _ = call("choose", suite, "max_memory=50MB", "max_minutes=1h", "data=vtab/dtd")
    assert status == 1
    assert "nothing fits. Nearest: linear" in out
    assert "over max_memory=50MB (100 MB, 2 times)" in out


def test_choose_tells_what_is_as_good_and_cheaper(tmp_path):
    for seed, (a, b) in enumerate([(0.90, 0.91), (0.93, 0.90), (0.91, 0.92)]):
        write(
            tmp_path,
            record("lora", seed=seed, accuracy=a),
            record("bitfit", seed=seed, accuracy=b, costs__parameters__method=10),
        )
    out = tell("choose", tmp_path, "max_minutes=90s")
    assert "digits: lora" in out
    assert "inside its noise with less parameters: bitfit" in out


def test_choose_counts_filling_taps_and_the_worst_seed(tmp_path):
    taps = {"mode": "disk", "computed": 100, "seconds": 600.0}
    write(
        tmp_path,
        record("losa", seed=0, costs__taps=taps),
        record("losa", seed=1, costs__taps=taps | {"computed": 0, "seconds": 0}),
    )
    status, out, _ = call("choose", tmp_path, "max_minutes=5")
    assert status == 1
    assert "11.1 min" in out


@pytest.mark.parametrize(
    ("word", "most"),
    [("max_memory=2GB", 2e9), ("max_memory=512MiB", 2**29), ("max_memory=1000", 1e3), ("max_minutes=2h", 120),
     ("max_minutes=90s", 1.5), ("max_params=10k", 1e4), ("max_params=0.4M", 4e5)],
)  # fmt: skip
def test_units(word, most):
    from peftbench.results.choice import limits

    key, _, value = word.partition("=")
    assert limits({key: value})[0].most == pytest.approx(most)


# -- what runs leave


def test_a_report_of_real_runs(cli, tiny, tmp_path):
    assert cli("-m", *tiny, "method=linear,bitfit", "seed=0,1")[0] == 0
    lines = leaderboard(tmp_path)
    found = {m: one(lines, method=m, task="digits") for m in ("linear", "bitfit")}
    assert {line["n"] for line in found.values()} == {"2"}
    assert float(found["bitfit"]["parameters"]) > float(found["linear"]["parameters"]) == 0
    assert len(boards(collect([tmp_path]).runs, "test/accuracy")) == 1
    tell("report", tmp_path, "--format=html")
    assert "bitfit" in (tmp_path / "report.html").read_text()
