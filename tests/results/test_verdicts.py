"""When a difference is called more than noise: never from two seeds, and never with less spread than counting has."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.results.stats import binomial_floor, paired
from support.reports import call, detection, leaderboard, one, record, tell, write


def single(value: float) -> float:
    """As a run stores it: torchmetrics counts in single precision."""
    return float(np.float32(value))


def runs(folder, accuracies, images, first="lora", second="bitfit", **more):
    """A run of two methods for each seed; `accuracies` are pairs, `images` how many test images there are."""
    if images:
        more["stamps__data__images"] = {"test": images}
    for seed, (a, b) in enumerate(accuracies):
        write(folder, record(first, seed=seed, accuracy=single(a), **more))
        write(folder, record(second, seed=seed, accuracy=single(b), **more))
    return folder


def pair(folder, **options):
    words = [f"{key}={value}" for key, value in options.items()]
    (line,) = csv.DictReader(io.StringIO(tell("report", folder, "--format=csv", "table=pairs", *words)))
    return line


SAME_GAP = [(0.80, 0.69), (0.83, 0.72), (0.81, 0.70), (0.82, 0.71)]
"""Every seed differs by eleven of a hundred images."""


@pytest.mark.parametrize("seeds", [1, 2])
def test_there_is_no_verdict_below_three_pairs(seeds, tmp_path):
    runs(tmp_path, SAME_GAP[:seeds], 100)
    line = pair(tmp_path)
    assert (line["half"], line["p"], line["p_holm"], line["verdict"]) == ("", "", "", "no telling")
    assert float(line["difference"]) == pytest.approx(0.11)
    for form in ("terminal", "markdown", "latex"):
        shown = tell("report", tmp_path, f"--format={form}").split("Differences between methods")[1]
        assert f"too few pairs to tell: {seeds}, not 3" in shown
        assert "better" not in shown
        assert "0.0" not in shown
    tell("report", tmp_path, "--format=html")
    assert f"too few pairs to tell: {seeds}, not 3" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("images", "verdict"), [(100, "inside the noise"), (10_000, "better")])
def test_seeds_that_agree_do_not_make_few_images_many(images, verdict, tmp_path):
    line = pair(runs(tmp_path, SAME_GAP[:3], images))
    a, b = np.mean(SAME_GAP[:3], 0)
    error = np.sqrt(np.mean([(p * (1 - p) + q * (1 - q)) / images for p, q in SAME_GAP[:3]]) / 3)
    assert float(line["p"]) == pytest.approx(2 * scipy.stats.t.sf((a - b) / error, 2), rel=1e-4)
    assert float(line["half"]) == pytest.approx(scipy.stats.t.ppf(0.975, 2) * error, rel=1e-4)
    assert line["verdict"] == verdict
    assert one(leaderboard(tmp_path), method="lora", task="digits")["images"] == str(images)


def test_a_pair_of_tasks_is_counted_on_the_images_of_its_task(tmp_path):
    """Seeds of one task are tested on the same images, so that their mean is not counted on more."""
    images = {"vtab/dtd": 50, "vtab/svhn": 200, "vtab/kitti": 1000}
    for task, n in images.items():
        for seed in range(4):
            for method, accuracy in (("lora", 0.8), ("bitfit", 0.75)):
                write(tmp_path, record(method, task, seed, accuracy, stamps__data__images={"test": n}))
    line = pair(tmp_path)
    floor = np.mean([(0.8 * 0.2 + 0.75 * 0.25) / n for n in images.values()])
    assert (line["n"], line["over"]) == ("3", "3 tasks")
    assert float(line["half"]) == pytest.approx(scipy.stats.t.ppf(0.975, 2) * np.sqrt(floor / 3))
    assert line["verdict"] == "inside the noise"


def test_without_a_number_of_images_there_is_no_verdict_and_it_is_said(tmp_path):
    runs(tmp_path / "one", SAME_GAP, None, stamps__data__images=None)
    line = pair(tmp_path / "one")
    assert (line["half"], line["p"], line["verdict"]) == ("", "", "no telling")
    assert line["why"] == "no telling: a record has no number of images"
    assert "no telling: a record has no number of images" in tell("report", tmp_path / "one")
    status, out, _ = call("choose", tmp_path / "one", "max_params=1M")
    assert (status, "inside its noise" in out) == (0, False)
    # Records of before say how long the test took, and how long an image of it.
    times = {"train": 60.0, "test": 100 * 0.013, "test_image": 0.013}
    runs(tmp_path / "two", SAME_GAP[:3], None, stamps__data__images=None, costs__time=times)
    assert pair(tmp_path / "two")["verdict"] == "inside the noise"
    several = {"config__trainer__devices": 2, "stamps__data__images": None, "costs__time": times}
    runs(tmp_path / "three", SAME_GAP[:3], None, **several)
    assert pair(tmp_path / "three")["verdict"] == "no telling", "one process timed a share of the images"


def test_figures_that_count_no_images_go_by_seeds_alone_and_say_so(tmp_path):
    gaps = [(0.41, 0.30), (0.43, 0.31), (0.40, 0.30)]
    for seed, (a, b) in enumerate(gaps):
        write(tmp_path, detection("lora", seed, a), detection("bitfit", seed, b))
        if seed == 1:
            assert pair(tmp_path)["verdict"] == "no telling"
    line = pair(tmp_path)
    assert float(line["p"]) == pytest.approx(scipy.stats.ttest_rel(*zip(*gaps, strict=True)).pvalue)
    assert line["verdict"] == "better"
    assert "How much AP depends on which images are tested is not known" in tell("report", tmp_path)
    for seed in range(3):
        write(tmp_path / "same", detection("lora", seed, 0.4), detection("bitfit", seed, 0.3))
    assert pair(tmp_path / "same")["why"] == "no telling: the pairs have no spread"


def test_shifted_and_validation_images_are_counted_too(tmp_path):
    metrics = lambda gain: {"val/accuracy": 0.7 + gain, "ood/accuracy": 0.6 + gain, "test/accuracy": 0.8}  # noqa: E731
    numbers = {"val": 40, "test": 10**6, "ood/noise:1": 500, "ood/noise:2": 500, "ood/other": 90}
    for seed in range(3):
        for method, gain in (("lora", 0.1), ("bitfit", 0.0)):
            write(tmp_path, record(method, seed=seed, metrics=metrics(gain), stamps__data__images=numbers))
    for metric, n, (a, b) in (("val/accuracy", 40, (0.8, 0.7)), ("ood/accuracy", 90, (0.7, 0.6))):
        floor = (a * (1 - a) + b * (1 - b)) / n
        half = scipy.stats.t.ppf(0.975, 2) * np.sqrt(floor / 3)
        assert float(pair(tmp_path, metric=metric)["half"]) == pytest.approx(half)


def test_the_same_in_every_pair_is_called_so(tmp_path):
    line = pair(runs(tmp_path, [(0.9, 0.9)] * 3, 100))
    assert (line["p"], line["verdict"]) == ("", "equal")
    assert "the same in every pair" in tell("report", tmp_path)


@settings(max_examples=50, deadline=None)  # the first imports scipy
@given(
    differences=st.lists(st.floats(-1, 1), min_size=3, max_size=8),
    floor=st.floats(1e-6, 0.1),
)
def test_an_interval_is_never_narrower_than_counting_allows(differences, floor):
    difference = paired(differences, floor)
    if max(map(abs, differences)) <= 1e-6:
        assert difference.verdict == "equal"
        return
    least = scipy.stats.t.ppf(0.975, len(differences) - 1) * np.sqrt(floor / len(differences))
    assert difference.half >= least * (1 - 1e-9)
    if np.var(differences, ddof=1) > floor:
        expected = scipy.stats.ttest_1samp(differences, 0)
        assert difference.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    else:
        assert difference.half == pytest.approx(least)
        assert difference.verdict == ("inside the noise" if abs(np.mean(differences)) < least else difference.verdict)


def test_equal_methods_are_called_different_in_few_of_many_trials():
    """Each pair is counted on test images of its own, seeds agreeing to the image: p below 0.05 in 5 % at most."""
    rng, images, called = np.random.default_rng(0), 200, 0
    for _ in range(2000):
        shares = rng.binomial(images, 0.8, (3, 2)) / images
        floor = np.mean([binomial_floor(a, images, b, images) for a, b in shares])
        called += paired((shares[:, 0] - shares[:, 1]).tolist(), floor).verdict in ("better", "worse")
    assert called / 2000 < 0.05
