"""`peftbench choose`: the best that fits."""

from __future__ import annotations

import pytest

from support.reports import call, leaderboard, one, record, tell, write


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


def test_choose_takes_the_cheapest_of_what_is_inside_the_noise(tmp_path):
    for seed, (a, b) in enumerate([(0.90, 0.91), (0.93, 0.90), (0.91, 0.92)]):
        write(
            tmp_path,
            record("lora", seed=seed, accuracy=a),
            record("bitfit", seed=seed, accuracy=b, costs__parameters__method=10),
        )
    out = tell("choose", tmp_path, "max_minutes=90s")
    assert "digits: bitfit: 91.0" in out
    assert "highest: lora: 91.3" in out
    assert "Inside its noise: bitfit (91.0)." in out
    assert "bitfit by trainable parameters (10, not 1,000)" in out


IMAGES = {"stamps__data__images": {"test": 250}}


def one_seed(method, right, seconds, memory=1e9, parameters=1000, **more):
    """A record of one seed that has `right` of 250 test images right."""
    costs = {"costs__time": {"train": seconds}, "costs__parameters__method": parameters}
    return record(method, accuracy=right / 250, **costs, costs__memory__peak={"resident": memory}, **IMAGES | more)


def test_one_image_is_no_reason_to_take_the_slow_one(tmp_path):
    write(tmp_path, one_seed("lora", 246, 45.0), one_seed("linear", 245, 0.3, 1e8, 0), one_seed("bitfit", 200, 20.0))
    out = tell("choose", tmp_path)
    assert out.startswith("without a budget")
    assert "\ndigits: linear: 98.0 % (1 seed), 0.3 s to train, 100 MB at its peak, 0 parameters\n" in out
    assert "highest: lora: 98.4 % (1 seed), 45.0 s" in out
    assert "Inside its noise: linear (98.0); 1 other is lower by more than that." in out
    assert "One of the 250 test images is 0.4 points" in out
    assert "Fewer than 3 seeds do not say what another seed changes." in out
    assert (
        "linear by time (0.3 s, not 45.0 s), peak memory (100 MB, not 1.0 GB) and trainable parameters (0, not" in out
    )


def test_a_difference_beyond_the_images_is_taken_and_not_called_best_on_one_seed(tmp_path):
    write(tmp_path, one_seed("lora", 246, 45.0), one_seed("linear", 220, 0.3))
    out = tell("choose", tmp_path)
    assert "\ndigits: lora: 98.4 %" in out
    assert "It is the highest. The other is lower by more than the noise of its test images: linear, 88.0 %." in out
    assert "best" not in out


def test_times_that_do_not_compare_do_not_choose(tmp_path):
    """Filling taps counts; taps that were there make a time that says nothing beside others; nor do two machines."""
    taps = {"mode": "disk", "computed": 100, "seconds": 90.0}
    lora = one_seed("lora", 246, 45.0, parameters=40_000)
    write(tmp_path / "filled", lora, one_seed("linear", 245, 0.3, costs__taps=taps, parameters=0))
    out = tell("choose", tmp_path / "filled")
    assert "\ndigits: lora" in out
    assert "linear by trainable parameters (0, not 40,000)" in out
    assert "lora by time (45.0 s)" in out
    there = one_seed("linear", 245, 0.3, costs__taps=taps | {"computed": 0, "seconds": 0.0}, parameters=0)
    write(tmp_path / "there", lora, there)
    out = tell("choose", tmp_path / "there")
    assert "\ndigits: linear" in out, "it has fewer parameters"
    assert "Not compared by time: linear (without filling taps)." in out
    assert "by time (" not in out, "of one alone there is no cheapest"
    elsewhere = one_seed("linear", 245, 0.3, parameters=0, stamps__machine={"processor": "another", "threads": 8})
    write(tmp_path / "elsewhere", lora, elsewhere)
    out = tell("choose", tmp_path / "elsewhere")
    assert "Not compared by time and peak memory: linear (of another machine)." in out


def test_backbones_compare_on_one_split_and_splits_do_not(tmp_path):
    other = {"stamps__backbone__name": "small", "config__choices__backbone": "small"}
    write(tmp_path, one_seed("lora", 246, 45.0), one_seed("lora", 245, 1.0, **other) | {"id": "small"})
    write(tmp_path, one_seed("lora", 250, 0.1, stamps__data__hash="another") | {"id": "split"})
    out = tell("choose", tmp_path)
    assert "\ndigits: lora on small: 98.0 %" in out
    assert "highest: lora on vit_b: 98.4 %" in out
    assert "\ndigits, split digits (another): lora on vit_b: 100.0 %" in out


def test_a_cost_far_over_is_written_in_digits(tmp_path):
    write(tmp_path, one_seed("lora", 240, 1.0, parameters=250_000), one_seed("bitfit", 240, 1.0, parameters=1004))
    status, out, _ = call("choose", tmp_path, "max_params=1k")
    assert status == 1
    assert "over max_params=1k (1,004, 1.004 times)" in out
    (tmp_path / "bitfit-x-digits-s0" / "result.json").unlink()
    assert "over max_params=1k (250,000, 250 times)" in call("choose", tmp_path, "max_params=1k")[1]


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
    assert {limit.key: limit.most for limit in limits({key: value})}[key] == pytest.approx(most)


def test_the_line_says_what_its_figures_are_of(tmp_path):
    """Seeds are those of the data set, and a time without filling taps says so."""
    there = {"costs__taps": {"mode": "disk", "computed": 0, "seconds": 0.0}}
    for seed in range(3):
        write(tmp_path, record("linear", seed=seed, **there))
    write(tmp_path, record("linear", "photos", **there))
    out = tell("choose", tmp_path)
    assert "\nphotos: linear: 90.0 % (1 seed), " in out
    assert "(3 seeds), " in out.split("\ndigits: ")[1]
    assert "all 2 tasks: linear: 90.0 % (1–3 seeds), " in out
    assert "from kept taps that were there already, so that filling them is not in the time" in out


@pytest.mark.parametrize("metric", ["ood", "ood/accuracy", "ood/noise/accuracy"])
def test_shifted_images_choose_nothing(suite, metric):
    status, _, err = call("choose", suite, f"metric={metric}")
    assert status != 0
    assert err.startswith(f"peftbench: metric={metric}: is of shifted test images")
    assert len(err.splitlines()) == 1
