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
