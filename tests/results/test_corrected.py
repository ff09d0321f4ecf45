"""What tables say of figures: after correction beside the answer's words, within data sets, and what marks mean."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import scipy.stats

from support.reports import TASKS, record, tell, write

ONLY_ALONE = "not told apart after correction (Holm)"


def pairs(folder, **options):
    words = [f"{key}={value}" for key, value in options.items()]
    return list(csv.DictReader(io.StringIO(tell("report", folder, "--format=csv", "table=pairs", *words))))


def paragraph(text):
    return " ".join(text.split())


def test_what_correction_alone_leaves_untold_is_not_called_noise(tmp_path):
    """The answer compares each alone, the table corrects for all: neither calls noise what the other calls more."""
    rng = np.random.default_rng(3)
    methods = ["full", "linear", "bitfit", "lora", "lst", "tpgm"]
    for i, method in enumerate(methods):
        for seed in range(3):
            write(tmp_path, record(method, seed=seed, accuracy=0.95 - 0.01 * i + rng.normal(0, 0.003)))
    lines = pairs(tmp_path)
    for line in lines:
        alone, corrected = float(line["p"]), float(line["p_holm"])
        expected = "inside the noise" if alone >= 0.05 else ONLY_ALONE if corrected >= 0.05 else "better"
        assert line["verdict"] == expected
    assert {"inside the noise", ONLY_ALONE} <= {line["verdict"] for line in lines}
    with_best = [line for line in lines if line["first"] == "full"]
    lower = sum(float(line["p"]) < 0.05 for line in with_best)
    shown = paragraph(tell("report", tmp_path))
    assert f"{lower} others are lower by more than that" in shown
    assert sum(line["verdict"] == "inside the noise" for line in with_best) == len(with_best) - lower
    assert "differ by more than noise where they are compared alone, as the answer compares them." in shown
    assert "‡ cannot be told from it after correction for all comparisons of methods (Holm), or there are" in shown


def test_too_few_pairs_are_what_the_answer_judges_by_images(tmp_path):
    for method, seeds, accuracy in (("full", range(5), 0.92), ("lora", range(3, 8), 0.81)):
        write(tmp_path, *(record(method, seed=seed, accuracy=accuracy) for seed in seeds))
    shown = paragraph(tell("report", tmp_path))
    words = "Of fewer than 3 pairs the answer judges by the test images alone, which say nothing of other seeds."
    assert words in shown
    write(tmp_path, *(record("lora", seed=seed, accuracy=0.81 + seed / 100) for seed in range(3)))
    assert words not in paragraph(tell("report", tmp_path))
    assert words not in paragraph(tell("report", tmp_path, "metric=test/loss")), "of a loss there is no answer"


GAPS = {"digits": (0.010, 0.011, 0.012, 0.010), "photos": (0.050, 0.052, 0.051, 0.053)}
"""How much higher full is than lora, by data set and seed: what data sets differ in is more than what seeds do."""


def two_data_sets(folder, tasks=("digits", "photos"), seeds=4, **more):
    for task, gaps in zip(tasks, GAPS.values(), strict=True):
        for seed, gap in enumerate(gaps[:seeds]):
            for method, accuracy in (("full", 0.8 + gap), ("lora", 0.8)):
                write(folder, record(method, task, seed, accuracy, stamps__data__images={"test": 10**6}, **more))
    return folder


@pytest.mark.parametrize("tasks", [("digits", "photos"), ("vtab/dtd", "vtab/svhn")])
def test_a_difference_over_data_sets_is_averaged_within_each(tasks, tmp_path):
    (line,) = pairs(two_data_sets(tmp_path, tasks), means="all")
    by_task = np.array(list(GAPS.values()))
    parts = by_task.var(axis=1, ddof=1) / 4 / 4  # of the mean of two means of four
    error, freedom = np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / 3).sum()
    assert float(line["difference"]) == pytest.approx(by_task.mean())
    assert float(line["half"]) == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * error, rel=1e-3)
    assert (line["over"], line["n"], line["verdict"]) == ("4 seeds on each of 2 tasks", "8", "better")
    pooled = scipy.stats.ttest_1samp(by_task.ravel(), 0)
    assert float(line["p"]) < pooled.pvalue / 10


def test_the_report_over_data_sets_and_choose_say_the_same(tmp_path):
    two_data_sets(tmp_path)
    (line,) = pairs(tmp_path, means="all")
    assert line["verdict"] == "better"
    assert "lower by more than the noise: lora" in paragraph(tell("choose", tmp_path))


def test_over_data_sets_each_needs_three_pairs(tmp_path):
    two_data_sets(tmp_path, seeds=2)
    (line,) = pairs(tmp_path, means="all")
    assert (line["verdict"], line["why"]) == ("no telling", "too few pairs to tell: 2, not 3 (digits)")


def columns_of(shown, title):
    """The cells of a Markdown table, by row and head of the column."""
    part = next(part for part in shown.split("\n## ") if part.startswith(title))
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}, paragraph(part)


@pytest.fixture(scope="module")
def equal_on_vtab(tmp_path_factory):
    """On all of VTAB bitfit is as good as lora, linear is not; on two backbones."""
    folder = tmp_path_factory.mktemp("vtab")
    for backbone in ("vit_b", "vit_s"):
        for at, task in enumerate(TASKS):
            for seed in range(2):
                for method, accuracy in (("lora", 0.8), ("bitfit", 0.78 + 0.037 * (at % 2)), ("linear", 0.7)):
                    changes = {
                        "config__choices": {"method": method, "backbone": backbone, "data": task},
                        "stamps__backbone__name": backbone,
                        "stamps__backbone__fingerprint": backbone,
                    }
                    each = record(method, task, seed, accuracy + seed / 100, **changes)
                    write(folder, each | {"id": f"{each['id']}-{backbone}"})
    return folder


def test_what_is_not_told_from_the_best_over_vtab_is_marked_in_its_means(equal_on_vtab):
    shown = tell("report", equal_on_vtab, "--format=markdown").replace("\\_", "_")
    rows, notes = columns_of(shown, "vit_b on VTAB-1k")
    for name in ("mean of groups %", "flat mean %"):
        marks = {method: ("**" in cells[name], "‡" in cells[name]) for method, cells in rows.items()}
        assert sorted(marks[method] for method in ("lora", "bitfit")) == [(False, True), (True, False)], name
        assert marks["linear"] == (False, False)
    assert not any("‡" in cells[group] for cells in rows.values() for group in ("natural %", "structured %"))
    assert "in a mean over all tasks, ‡ cannot be told from it" in notes
    beside, notes = columns_of(shown, "VTAB-1k, mean of groups: methods by backbone")
    for backbone in ("vit_b", "vit_s"):
        assert sum("‡" in cells[backbone] for cells in beside.values()) == 1
        assert "‡" not in beside["linear"][backbone]
    assert "in a mean over all tasks, ‡ cannot be told from it" in notes
    _, notes = columns_of(shown, "Accuracy by task")
    assert "methods are compared over the tasks, and on none alone." in notes


def test_where_tasks_stand_for_means_no_mark_is_promised(tmp_path):
    for task in TASKS[:2]:
        write(tmp_path, record("lora", task), record("bitfit", task, accuracy=0.8))
    shown = tell("report", tmp_path, "--format=markdown").split("Differences between")[0]
    assert "Bold is the best figure of its column." in shown
    assert "‡" not in shown


def test_failed_runs_are_explained_under_the_methods_by_backbone_too(tmp_path):
    for backbone in ("vit_b", "vit_s"):
        for method in ("lora", "bitfit"):
            changes = {
                "config__choices": {"method": method, "backbone": backbone, "data": "digits"},
                "stamps__backbone__name": backbone,
            }
            each = record(method, **changes)
            write(tmp_path, each | {"id": f"{method}-{backbone}"})
    title = "digits: methods by backbone"
    assert "†" not in columns_of(tell("report", tmp_path, "--format=markdown"), title)[1]
    write(tmp_path, record("bitfit", seed=1, metrics={}, status="failed", reason="x", **changes))
    rows, notes = columns_of(tell("report", tmp_path, "--format=markdown").replace("\\_", "_"), title)
    assert "†" in rows["bitfit"]["vit_s<br>10,000 images"]
    assert "† marks cells in which runs failed; the means leave them out." in notes


def test_an_interval_of_nothing_is_explained(tmp_path):
    write(tmp_path, record("lora"), record("lora", seed=1), record("bitfit"))
    words = "± 0.0 is of seeds that agree, as few may by chance"
    assert words in paragraph(tell("report", tmp_path))
    write(tmp_path, record("lora", seed=1, accuracy=0.8))
    assert words not in paragraph(tell("report", tmp_path))
