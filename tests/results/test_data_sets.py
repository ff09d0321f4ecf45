"""Several data sets in one report: each has a column, and what one shows does not depend on the others."""

from __future__ import annotations

import csv
import io
import random
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftbench.results.boards import boards
from peftbench.results.collect import collect
from support.reports import leaderboard, one, record, tell, write

METHODS = {"lora": 0.9, "bitfit": 0.8, "linear": 0.6}


def three_seeds(folder, task="digits", methods=METHODS, images=599, **more):
    """Three seeds of each method that differ by a hundredth."""
    for method, accuracy in methods.items():
        for seed in range(3):
            numbers = {"stamps__data__images": {"test": images}}
            write(folder, record(method, task, seed, accuracy + seed / 100, **numbers | more))
    return folder


def cells(shown, table=0):
    """The rows of a Markdown table by their first cell, and its head."""
    block = shown.split("\n## ")[2 + table]  # the first says which method
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines() if line[:1] == "|"
    ]
    return head, {row[0]: row[1:] for row in rows}


def of_digits(folder):
    """All that CSV says of digits."""
    lines = [line for line in leaderboard(folder) if line["task"] == "digits"]
    pairs = csv.DictReader(io.StringIO(tell("report", folder, "--format=csv", "table=pairs")))
    return lines, [line for line in pairs if line["task"] == "digits"]


def test_a_stray_run_has_a_column_of_its_own_and_takes_no_figure_away(tmp_path):
    three_seeds(tmp_path)
    head, before = cells(tell("report", tmp_path, "--format=markdown"))
    assert head[2] == "digits %<br>599 images"
    write(tmp_path, record("bitfit", "photos", 0, 0.5, stamps__data__images={"test": 250}))
    shown = tell("report", tmp_path, "--format=markdown")
    head, after = cells(shown)
    assert head[2:4] == ["digits %<br>599 images", "photos %<br>250 images"]
    assert [row[1] for row in after.values()] == [row[1] for row in before.values()]
    assert [after[method][2] for method in METHODS] == ["–", "50.0", "–"]
    assert list(after) == list(before), "the stray run does not move its method up"
    assert "lacks" not in shown
    assert "mean" not in "".join(line for line in shown.splitlines() if line.startswith("|"))


def test_a_mean_over_data_sets_is_shown_when_asked_for(tmp_path):
    for task, gain in (("digits", 0.0), ("photos", -0.2)):
        three_seeds(tmp_path, task, {method: value + gain for method, value in METHODS.items()})
    assert not [line for line in leaderboard(tmp_path) if line["task"] == "flat mean"]
    line = one(leaderboard(tmp_path, means="all"), method="lora", task="flat mean")
    assert abs(float(line["value"]) - 0.81) < 1e-9
    head, rows = cells(tell("report", tmp_path, "--format=markdown", "means=all"))
    assert head[2] == "flat mean %"
    assert rows["lora"][1].startswith("**81.0 ±")
    (tmp_path / "lora-x-photos-s0/result.json").unlink()
    for path in tmp_path.glob("lora-x-photos-s*/result.json"):
        path.unlink()
    assert one(leaderboard(tmp_path, means="all"), method="lora", task="flat mean")["value"] == ""
    given = one(leaderboard(tmp_path, incomplete="true"), method="lora", task="flat mean")
    assert abs(float(given["value"]) - 0.91) < 1e-9


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_digits_show_is_the_same_whatever_else_was_run(data, tmp_path_factory):
    """Figures, intervals, differences, the chosen setting and how it was chosen: all as without the stray runs."""
    folder = tmp_path_factory.mktemp("data-sets")
    rng = random.Random(data.draw(st.integers(0, 999)))
    for rate in (1e-3, 1e-2):
        for seed in range(3):
            metrics = {"test/accuracy": 0.8 + rng.random() / 10, "val/accuracy": 0.7 + rng.random() / 10}
            each = record("lora", "digits", seed, metrics=metrics, config__optimizer__lr=rate)
            write(folder, each | {"id": f"lora-{rate}-{seed}"})
            write(folder, record("bitfit", "digits", seed, 0.7 + rng.random() / 10))
    before = of_digits(folder)
    strays = st.tuples(
        st.sampled_from(["lora", "bitfit", "linear"]),
        st.sampled_from(["photos", "flowers", "vtab/dtd"]),
        st.integers(0, 3),
        st.sampled_from([1e-3, 1e-2, 1e-1]),
        st.integers(1, 40),
        st.floats(0, 1),
    )
    for i, (method, task, seed, rate, epochs, value) in enumerate(data.draw(st.lists(strays, min_size=1, max_size=6))):
        changes = {"config__optimizer__lr": rate, "config__trainer__epochs": epochs}
        metrics = {"test/accuracy": value, "val/accuracy": 1 - value}
        write(folder, record(method, task, seed, metrics=metrics, **changes) | {"id": f"stray-{i}"})

    def without_place(found):
        return [[{k: v for k, v in line.items() if k not in ("board", "apart")} for line in part] for part in found]

    assert without_place(of_digits(folder)) == without_place(before)


def test_costs_are_told_by_data_set(tmp_path):
    three_seeds(tmp_path, costs__time__train=10.0)
    three_seeds(tmp_path, "photos", {"lora": 0.5}, costs__time__train=50.0, costs__parameters__head=7)
    shown = tell("report", tmp_path, "--format=markdown")
    lines = [line for line in shown.split("Costs by data set")[1].splitlines() if line.startswith("| ")]
    assert "| digits | lora | 1,000 | 100 | 10.0 s |" in "\n".join(lines)
    assert "| photos | lora | 1,000 | 7 | 50.0 s |" in "\n".join(lines)
    assert not re.search(r"\| train \|", shown.split("\n## ")[2]), "no mean of times over data sets"


def test_failed_runs_are_marked_in_the_column_of_their_data_set(tmp_path):
    three_seeds(tmp_path)
    three_seeds(tmp_path, "photos", {"bitfit": 0.5})
    write(tmp_path, record("lora", "photos", 0, metrics={}, status="failed", reason="the loss became nan"))
    _, rows = cells(tell("report", tmp_path, "--format=markdown"))
    assert rows["lora"][2] == "†"
    assert "†" not in rows["lora"][1]
    three_seeds(tmp_path, methods={"lora": 0.4}, config__optimizer__lr=0.1)
    write(tmp_path, record("lora", seed=3))
    _, rows = cells(tell("report", tmp_path, "--format=markdown", "settings=all"))
    assert [row[2] for name, row in rows.items() if name.startswith("lora")] == ["†", "–"], "of its own setting alone"


def test_data_sets_may_be_run_in_settings_of_their_own_and_the_report_says_so(tmp_path):
    three_seeds(tmp_path)
    three_seeds(tmp_path, "photos", config__trainer__epochs=5, config__optimizer__lr=0.01)
    shown = tell("report", tmp_path, "--format=markdown")
    _, rows = cells(shown)
    assert set(rows) == set(METHODS)
    assert "lora, bitfit, linear: lr=0.001, epochs=100 on digits; lr=0.01, epochs=5 on photos" in shown


def test_vtab_tasks_stand_alone_until_a_group_is_whole(tmp_path):
    three_seeds(tmp_path, "vtab/dtd")
    write(tmp_path, record("lora", "vtab/svhn", 0, 0.5))
    head, rows = cells(tell("report", tmp_path, "--format=markdown"))
    assert [name.partition(" ")[0] for name in head[2:4]] == ["dtd", "svhn"]
    assert rows["lora"][2] == "50.0"
    assert rows["bitfit"][2] == "–"


def test_boards_of_a_group_are_numbered_alike(tmp_path):
    three_seeds(tmp_path)
    three_seeds(tmp_path, "photos")
    three_seeds(tmp_path, "photos", {"full": 0.5}, stamps__backbone__fingerprint="e" * 64)
    found = boards(collect([tmp_path]).runs)
    assert [(board.group, board.tasks) for board in found] == [(0, ("digits",)), (0, ("photos",)), (1, ("photos",))]
    assert [bool(board.apart) for board in found] == [False, False, True]


def test_folders_of_the_users_own_are_data_sets_by_their_own_names(tmp_path):
    """Two folders are two columns, not two splits of one data set; another split of a folder still stands apart."""
    for name, split in (("cats", "cats-made-0.1-0.2-s0"), ("birds", "birds"), ("birds", "birds-made-0.1-0.2-s1")):
        root = {"root": f"/home/me/{name}"}
        each = record("lora", "folder", 0, 0.5, config__data__options=root, stamps__data__split=split)
        each["stamps"]["data"]["hash"] = split
        write(tmp_path, each | {"id": split})
    found = boards(collect([tmp_path]).runs)
    assert sorted((board.group, board.tasks[0]) for board in found) == [(0, "birds"), (0, "cats"), (1, "birds")]
    assert "another split of the same task (birds: " in found[-1].apart
    other = record("lora", "fashion_mnist", config__data__options={"root": "data"}, stamps__data__split="fashion_mnist")
    write(tmp_path / "b", other)
    assert [line["task"] for line in leaderboard(tmp_path / "b")] == ["fashion_mnist"]


def test_of_a_loss_less_is_better(tmp_path):
    three_seeds(tmp_path)
    told = tell("report", tmp_path, "--format=markdown", "metric=test/loss")
    head, rows = cells(told, table=-1)  # of a loss, nothing says which method
    assert any(name.startswith("digits × 100") for name in head), "a loss is no share"
    assert "%" not in told.replace("95 %", "")
    assert list(rows) == ["lora", "bitfit", "linear"], "the lowest loss stands first"
    assert rows["lora"][1].startswith("**9.0 ±")
    pairs = list(
        csv.DictReader(io.StringIO(tell("report", tmp_path, "--format=csv", "table=pairs", "metric=test/loss")))
    )
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("lora", "bitfit"),
        ("lora", "linear"),
        ("bitfit", "linear"),
    ]
    assert {pair["verdict"] for pair in pairs} == {"no telling"}, "equal gaps have no spread"
    for seed in range(3):
        write(tmp_path, record("full", seed=seed, metrics={"test/loss": 0.8 + seed / 50, "test/accuracy": 0.2}))
    assert "lora is better" in tell("report", tmp_path, "metric=test/loss")
