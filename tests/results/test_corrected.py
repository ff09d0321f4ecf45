"""What the tables say of a difference beside what the answer says: after correction, and averaged within data sets."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import scipy.stats

from support.reports import record, tell, write

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
