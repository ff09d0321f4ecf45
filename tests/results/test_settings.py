"""Of a method's settings, which figures on test images are shown: those of the one that validation images choose."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from peftbench.results.settings import basis_of, data_setting_of, setting_of
from peftbench.results.task_results import results_of
from support.reports import call, columns, leaderboard, one, record, tell, write

OPTIMISTIC = "chosen on test: optimistic"


def tried(rate, test=None, val=None, method="lora", task="digits", seed=0, loss=None, **more):
    """A run in the setting `optimizer.lr=rate`, with what it reached on test and on validation images."""
    figures = {"test/accuracy": test, "val/accuracy": val, "val/loss": loss, "train/loss": 0.1}
    metrics = {name: value for name, value in figures.items() if value is not None}
    stage = {"stamps__data__stage": "final" if val is None else "tune" if test is None else "fit"}
    each = record(method, task, seed, **{"metrics": metrics, "config__optimizer__lr": rate} | stage | more)
    return each | {"id": f"{method}-{task.replace('/', '_')}-{stage['stamps__data__stage']}-{rate}-s{seed}"}


def shown_everywhere(folder):
    """What a report says in each of its forms."""
    tell("report", folder, "--format=html")
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    forms = ("terminal", "markdown", "latex", "csv")
    return [page, *(tell("report", folder, f"--format={form}") for form in forms)]


def test_validation_chooses_and_test_is_shown_for_the_chosen_one_alone(tmp_path):
    for seed in range(3):
        write(tmp_path, tried(1e-3, test=0.911, val=0.70, seed=seed), tried(1e-2, test=0.877, val=0.80, seed=seed))
        write(tmp_path, record("bitfit", seed=seed, accuracy=0.9, stamps__data__stage="fit"))
    line = one(leaderboard(tmp_path), task="digits", method="lora lr=0.01")
    assert float(line["value"]) == pytest.approx(0.877)
    assert (line["chosen"], line["settings"]) == ("chosen on validation", "2")
    assert one(leaderboard(tmp_path), task="digits", method="bitfit")["chosen"] == ""
    for text in shown_everywhere(tmp_path):
        assert "chosen on validation" in text
        assert "91.1" not in text
        assert "0.911" not in text
        assert OPTIMISTIC not in text
    shown = tell("report", tmp_path, "--format=markdown")
    tables = shown.split("\n## ")
    assert re.search(r"\| bitfit \|.*\n\| lora lr=0.01 \|", tables[2]), "the better one stands first"
    settings_table = next(table for table in tables if table.startswith("Settings that were tried"))
    assert "| lora lr=0.001 | 3 | 1 | 70.0 | no |" in settings_table
    assert "| lora lr=0.01 | 3 | 1 | 80.0 | chosen on validation |" in settings_table
    assert "Left out" not in shown
    out = tell("choose", tmp_path, "max_params=1M")
    assert re.search(r"digits: bitfit: 90.0", out)
    out = tell("choose", tmp_path, "max_params=1M", "metric=test/accuracy")
    assert "91.1" not in out


def test_without_validation_the_row_says_that_test_chose(tmp_path):
    write(tmp_path, tried(1e-3, test=0.7), tried(1e-2, test=0.8), tried(1e-1, test=0.6))
    write(tmp_path, record("bitfit", accuracy=0.5))
    line = one(leaderboard(tmp_path), task="digits", method="lora lr=0.01")
    assert (line["chosen"], line["settings"]) == (OPTIMISTIC, "3")
    for form in ("terminal", "markdown", "latex"):
        shown = tell("report", tmp_path, f"--format={form}")
        answer, row = [line for line in shown.splitlines() if "lora lr=0.01" in line][:2]
        assert f"Highest: lora lr=0.01, 80.0 {'' if form != 'latex' else chr(92)}%, {OPTIMISTIC}." in answer
        assert OPTIMISTIC in row
        assert "bitfit" not in row
        assert "no validation" in shown or "where there are none" in shown.lower()
    assert OPTIMISTIC in shown_everywhere(tmp_path)[0]
    out = tell("choose", tmp_path, "max_params=1M")
    assert re.search(rf"digits: lora lr=0.01: 80.0 .*setting {OPTIMISTIC} \(best of 3\)", out)


def test_a_verdict_for_a_setting_that_test_images_chose_says_so(tmp_path):
    for seed in range(3):
        write(
            tmp_path,
            tried(1e-3, 0.7, seed=seed),
            tried(1e-2, 0.8, seed=seed),
            record("bitfit", seed=seed, accuracy=0.6),
        )
    assert f"lora lr=0.01 is better, but {OPTIMISTIC}" in tell("report", tmp_path)
    (pair,) = csv.DictReader(io.StringIO(tell("report", tmp_path, "--format=csv", "table=pairs")))
    assert (pair["verdict"], pair["first_chosen"], pair["second_chosen"]) == ("better", OPTIMISTIC, "")


def test_a_setting_without_validation_does_not_win_by_its_test_figures(tmp_path):
    write(tmp_path, tried(1e-3, test=0.7, val=0.6), tried(1e-2, test=0.99, stamps__data__stage="fit"))
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["method"], line["chosen"]) == ("lora lr=0.001", "chosen on validation")
    assert "lora lr=0.001: 70.0" in tell("choose", tmp_path, "max_params=1M")


def test_trials_that_saw_no_test_image_choose_among_runs_that_saw_no_validation(tmp_path):
    write(tmp_path, tried(1e-3, val=0.8), tried(1e-2, val=0.7))
    write(tmp_path, *(tried(rate, test=test, seed=s) for rate, test in ((1e-3, 0.6), (1e-2, 0.9)) for s in (0, 1)))
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["method"], line["chosen"]) == ("lora lr=0.001", "chosen on validation")
    assert "lora lr=0.001: 60.0" in tell("choose", tmp_path, "max_params=1M")
    # Those of another split of the data, or another backbone, say nothing of these.
    for change in ({"config__data__options": {"split_seed": 1}}, {"stamps__backbone__fingerprint": "e" * 64}):
        for rate in (1e-3, 1e-2):
            write(tmp_path, tried(rate, val=0.5, **change))
        assert one(leaderboard(tmp_path), task="digits")["chosen"] == OPTIMISTIC


def test_what_a_protocol_chose_was_chosen_on_validation(tmp_path):
    grid = {"optimizer.lr": [1e-3, 1e-2]}
    trials = [{"run": "a", "point": {"optimizer.lr": 1e-3}, "val/accuracy": 0.6},
              {"run": "b", "point": {"optimizer.lr": 1e-2}, "val/accuracy": 0.8}]  # fmt: skip
    protocol = {"name": "vtab1k", "trials": 2, "grid": grid, "chosen": {"optimizer.lr": 1e-2}, "tried": trials}
    write(tmp_path, tried(1e-2, test=0.7, config__protocol=protocol) | {"id": "tuned"})
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["value"], line["chosen"]) == ("0.7", "")
    write(tmp_path, tried(1e-1, test=0.9))
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["value"], line["chosen"]) == ("0.7", "chosen on validation")
    write(tmp_path, tried(1e-1, val=0.85))
    assert one(leaderboard(tmp_path), task="digits")["value"] == "0.9"


def test_no_task_loses_its_figure(tmp_path):
    """Settings that were tuned by hand for each data set: one does not hide another, and a mean needs one for all."""
    write(tmp_path, tried(1e-3, 0.7, 0.6, task="a"), tried(1e-2, 0.8, 0.7, task="b"), tried(1e-2, 0.9, 0.9, task="c"))
    write(tmp_path, tried(1e-1, 0.99, 0.1, task="b"))
    lines = [line for line in leaderboard(tmp_path) if line["task"] in "abc" and line["value"]]
    assert {(line["method"], line["task"]) for line in lines} == {("lora", "a"), ("lora lr=0.01", "b"), ("lora", "c")}
    assert "lora: lr=0.01 on b; lr=0.001 on a; lr=0.01 on c" in tell("report", tmp_path)
    lines = [line for line in leaderboard(tmp_path, means="all") if line["task"] in "abc" and line["value"]]
    assert {(line["method"], line["task"]) for line in lines} == {
        ("lora lr=0.001", "a"), ("lora lr=0.01", "b"), ("lora lr=0.01", "c")}  # fmt: skip
    assert "no: fewer tasks" in tell("report", tmp_path, "means=all")
    assert "b: lora lr=0.01: 80.0" in tell("choose", tmp_path, "max_params=1M", "data=b")


def test_over_several_tasks_the_mean_on_validation_chooses(tmp_path):
    for task, (a, b) in {"a": (0.9, 0.8), "b": (0.5, 0.7)}.items():
        write(tmp_path, tried(1e-3, 0.9, a, task=task), tried(1e-2, 0.6, b, task=task))
    assert {line["method"] for line in leaderboard(tmp_path, means="all")} == {"lora lr=0.01"}
    lines = leaderboard(tmp_path)
    assert {(line["method"], line["task"]) for line in lines} == {("lora lr=0.001", "a"), ("lora lr=0.01", "b")}
    out = tell("choose", tmp_path, "max_params=1M")
    assert "\na: lora lr=0.001: 90.0" in out, "for a task alone, that task's validation images"
    assert "\nb: lora lr=0.01: 60.0" in out
    assert "\nall 2 tasks: lora lr=0.01: 60.0" in out


def test_ties_go_to_the_lower_validation_loss_and_never_to_test(tmp_path):
    write(tmp_path, tried(1e-3, test=0.9, val=0.7, loss=1.0), tried(1e-2, test=0.5, val=0.7, loss=0.9))
    assert one(leaderboard(tmp_path), task="digits")["method"] == "lora lr=0.01"


def test_choose_picks_among_the_settings_that_fit(tmp_path):
    def ranked(rank, test, val):
        more = {"config__method__options": {"rank": rank}, "costs__parameters__method": 1000 * rank}
        return tried(1e-3, test, val, **more) | {"id": f"rank-{rank}"}

    write(tmp_path, ranked(4, 0.80, 0.70), ranked(8, 0.70, 0.75), ranked(16, 0.90, 0.80), ranked(32, 0.95, 0.78))
    out = tell("choose", tmp_path, "max_params=10k")
    assert "digits: lora rank=8: 70.0" in out
    assert "better, but over max_params=10k (16,000, 1.6 times): lora rank=16: 90.0" in out
    assert "rank=4" not in out
    assert "rank=32" not in out
    status, out, _ = call("choose", tmp_path, "max_params=1k")
    assert (status, "Nearest: lora rank=4" in out) == (1, True)


def test_a_pruned_backbone_is_compared_and_not_chosen_among(tmp_path):
    pruned = {"config__pruning": {"name": "unstructured", "ratio": 0.5}}
    write(tmp_path, tried(1e-3, 0.9, 0.8), tried(1e-3, 0.7, 0.6, **pruned) | {"id": "pruned"})
    lines = [line for line in leaderboard(tmp_path) if line["task"] == "digits"]
    assert [line["chosen"] for line in lines] == ["", ""]


def test_kinds_of_times_are_not_settings(tmp_path):
    taps = {"mode": "disk", "computed": 10, "seconds": 5.0}
    for rate, val in ((1e-3, 0.8), (1e-2, 0.7)):
        write(tmp_path, tried(rate, 0.9, val, seed=0), tried(rate, 0.9, val, seed=1, costs__taps=taps))
    lines = [line for line in leaderboard(tmp_path) if line["task"] == "digits"]
    assert {(line["times"], line["settings"]) for line in lines} == {("", "2"), ("from kept taps", "2")}
    assert all("lr=0.001" in line["method"] for line in lines)


def test_every_setting_can_be_seen_and_is_then_chosen_by_nobody(tmp_path):
    write(tmp_path, tried(1e-3, 0.9, 0.7), tried(1e-2, 0.8, 0.8))
    both = {"lora lr=0.001", "lora lr=0.01"}
    lines = leaderboard(tmp_path, settings="all")
    assert {line["method"] for line in lines} == both
    assert {line["chosen"] for line in lines} == {""}
    assert "is to choose on test images: optimistic" in tell("report", tmp_path, "settings=all")
    assert {line["method"] for line in leaderboard(tmp_path, metric="val/accuracy")} == both
    assert "optimistic" not in tell("report", tmp_path, "metric=val/accuracy")


def test_the_table_after_a_sweep_says_what_its_figures_are_for(capsys):
    columns(capsys, tried(1e-3, 0.9, 0.7), tried(1e-2, 0.8, 0.8, seed=1))
    _, rows = columns(capsys, tried(1e-3, 0.9, 0.7), tried(1e-2, 0.8, 0.8))
    assert "Test images judge a setting and must not choose it" in rows[-1]
    _, rows = columns(capsys, tried(1e-3, val=0.7), tried(1e-2, val=0.8))
    assert "must not choose" not in rows[-1]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    val=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    tests=st.permutations([0.1, 0.3, 0.5, 0.7]),
    others=st.permutations([0.1, 0.3, 0.5, 0.7]),
)
@example(val=[1, 1], tests=[0.1, 0.3], others=[0.3, 0.1])
def test_figures_on_test_images_never_change_the_choice(val, tests, others, tmp_path_factory):
    """Whatever the test images say, the same setting is shown where there is any validation."""
    chosen = []
    for figures in (tests, others):
        folder = tmp_path_factory.mktemp("choice")
        for i, (value, test) in enumerate(zip(val, figures, strict=False)):
            write(folder, tried(10.0**-i, test=test, val=value / 4))
        lines = leaderboard(folder)
        chosen.append({line["method"] for line in lines})
        best = tell("choose", folder, "max_params=1M")
        assert next(iter(chosen[-1])) in best
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 1


def test_a_real_sweep_shows_what_its_validation_images_chose(cli, tiny, tmp_path):
    words = ["method=linear", "optimizer.lr=1e-4,1", "data.eval_batch_size=100"]
    status, out, err = cli("-m", *tiny, *words)
    assert status == 0, err
    assert "must not choose it" in out
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    assert len(runs) == 2
    best = max(runs, key=lambda r: (r["metrics"]["val/accuracy"], -r["metrics"]["val/loss"]))
    line = one(leaderboard(tmp_path), task="digits")
    assert line["method"] == f"linear lr={best['config']['optimizer']['lr']:g}"
    assert float(line["value"]) == best["metrics"]["test/accuracy"]
    assert (line["chosen"], line["settings"]) == ("chosen on validation", "2")
    assert line["images"] == str(best["stamps"]["right"]["images"])


def test_every_combination_of_what_is_known_is_said_rightly(tmp_path):
    """Two settings, each with or without validation of its own and trials: how the choice came about."""
    for own, trial in itertools.product(itertools.product((0, 1), repeat=2), repeat=2):
        folder = tmp_path / f"{own}{trial}"
        for rate, has_own, has_trial in zip((1e-3, 1e-2), own, trial, strict=True):
            value = 0.5 + rate if has_own else None
            write(folder, tried(rate, test=0.9 - rate, val=value, stamps__data__stage="fit"))
            if has_trial:
                write(folder, tried(rate, val=0.5 + rate))
        line = one(leaderboard(folder), task="digits")
        known = [has_own or has_trial for has_own, has_trial in zip(own, trial, strict=True)]
        assert line["chosen"] == ("chosen on validation" if any(known) else OPTIMISTIC), (own, trial)
        expected = "0.01" if known[1] else "0.001"
        assert line["method"] == f"lora lr={expected}", (own, trial)


def test_keys_that_came_later_are_a_setting_where_they_differ_from_what_runs_did_before(tmp_path):
    """An older record lacks them, and is one of the setting of a newer one that has their defaults."""
    off = {"config__optimizer__layer_decay": None, "config__optimizer__head_lr": 1.0, "config__trainer__ema": None}
    off |= {"config__trainer__head_from": None}
    old, new = tried(1e-3, test=0.90, val=0.70), tried(1e-3, test=0.92, val=0.70, seed=1, **off)
    write(tmp_path, old, new, tried(1e-3, test=0.80, val=0.60, seed=2, config__trainer__ema=0.9) | {"id": "with-ema"})
    begun = tried(1e-3, test=0.80, val=0.60, seed=2, config__trainer__head_from="logreg")
    write(tmp_path, begun | {"id": "from-a-head"})
    line = one(leaderboard(tmp_path), task="digits", method="lora")
    assert float(line["value"]) == pytest.approx(0.91)
    assert line["settings"] == "3"


def test_what_images_are_made_of_parts_boards_and_what_acts_on_training_parts_settings():
    """Older records, and runs with the defaults, say none of it."""
    stamps = {"data": {"transform": {"size": 32, "interpolation": "bicubic"}}}
    of_old = record("lora")["config"]
    task = results_of(of_old)
    defaults = {"jitter": 0.0, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "sampler": "shuffle", "tta": "none"}
    of_new = of_old | {"data": of_old["data"] | defaults}
    assert data_setting_of(of_old) == data_setting_of(of_new)
    mixed = of_new | {"data": of_new["data"] | {"mixup": 0.2, "sampler": "balanced"}}
    assert set(data_setting_of(mixed)) - set(data_setting_of(of_old)) == {
        ("data.mixup", "0.2"),
        ("data.sampler", '"balanced"'),
    }
    plain = of_old | {"task": {"name": "classification", "class_weights": None, "focal_gamma": 0.0}}
    weighed = plain | {"task": plain["task"] | {"class_weights": "balanced"}}
    assert setting_of(plain, task) == setting_of(of_old | {"task": {"name": "classification"}}, task)
    assert set(setting_of(weighed, task)) - set(setting_of(plain, task)) == {("task.class_weights", '"balanced"')}
    inputs = dict(basis_of(of_old, stamps))["input"]
    padded = {"data": {"transform": stamps["data"]["transform"] | {"resize": "pad"}, "tta": "flip"}}
    assert inputs == "32 px, bicubic"
    assert dict(basis_of(of_new, padded))["input"] == "32 px, bicubic, pad, with mirror images"
