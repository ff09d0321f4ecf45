"""Which is the cheapest: a stray run leaves out itself alone, and nothing is cheapest where all cost the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.results.answers import Answer, answers
from peftbench.results.boards import boards
from peftbench.results.collect import Collected
from peftbench.results.record import Record
from peftbench.results.summary import Shared, summarise
from support.reports import record, tell, write

ELSEWHERE = {"stamps__machine": {"processor": "another", "threads": 8}}


def costing(method, right, seconds, memory=5e8, parameters=1000, seed=0, **more):
    """A record that has `right` of 250 test images right; its costs are seconds to train, bytes and a count."""
    time = {"train": seconds, "validate": 0.0}
    costs = {"costs__time": time, "costs__memory__peak": {"resident": memory}, "costs__parameters__method": parameters}
    return record(method, seed=seed, accuracy=right / 250, stamps__data__images={"test": 250}, **costs | more)


@pytest.mark.parametrize(
    ("stray", "why"),
    [
        (ELSEWHERE, "Not compared by time and peak memory: bitfit (of another machine)."),
        ({"costs__taps": {"mode": "disk", "seconds": 0.0}}, "Not compared by time: bitfit (without filling taps)."),
        ({"costs__time": {}}, "Not compared by time: bitfit (not recorded)."),
        ({"costs__together": 3}, "Not compared by time and peak memory: bitfit (of runs that were trained together)."),
    ],
)
def test_a_run_that_does_not_compare_leaves_only_itself_out(tmp_path, stray, why):
    fast = costing("full", 245, 6.3, 6e8, 5000)
    write(tmp_path, costing("lora", 246, 51.0), fast, costing("bitfit", 245, 10.0, 5e8, 2000, **stray))
    out = tell("choose", tmp_path)
    assert "\ndigits: full: 98.0 %" in out
    assert "Cheapest of these 3: full by time (6.3 s, not 51.0 s)" in out
    assert why in out


def test_a_seed_of_another_machine_leaves_only_itself_out(tmp_path):
    for seed in range(3):
        away = ELSEWHERE | {"costs__time": {"train": 300.0}} if seed == 2 else {}
        write(tmp_path, costing("lora", 246, 51.0, seed=seed), costing("full", 245, 6.3, 6e8, 5000, seed, **away))
    out = tell("choose", tmp_path)
    assert "\ndigits: full: 98.0" in out
    assert "104.2 s to train (mean over 2 machines)" in out
    assert "Cheapest of these 2: full by time (6.3 s, not 51.0 s)" in out
    assert "Runs left out by time and peak memory, of another machine: 1 of full." in out


def test_the_machine_that_most_share_decides(tmp_path):
    write(tmp_path, costing("lora", 246, 1.0, **ELSEWHERE))
    write(tmp_path, costing("full", 245, 6.3), costing("bitfit", 245, 51.0), costing("linear", 245, 60.0))
    out = tell("choose", tmp_path)
    assert "Cheapest of these 4: full by time (6.3 s)." in out
    assert "Not compared by time and peak memory: lora (of another machine)." in out
    assert "\ndigits: full" in out


def test_nothing_is_the_cheapest_where_all_cost_the_same(tmp_path):
    write(tmp_path, costing("lora", 246, 45.0), costing("full", 245, 41.5))
    out = tell("report", tmp_path)
    assert "Cheapest" not in out
    assert "These 2 cost the same within a tenth: time (41.5 s), peak memory (500 MB) and trainable parameters" in out
    write(tmp_path, costing("bitfit", 245, 80.0))
    assert "Cheapest of these 3: full and lora by time (41.5 s)." in tell("report", tmp_path).replace(
        "lora and full", "full and lora"
    )


def test_costs_that_no_record_has_are_named(tmp_path):
    write(tmp_path, *(record(m, stamps__data__images={"test": 250}) | {"costs": {}} for m in ("lora", "full")))
    out = tell("report", tmp_path)
    assert "Not compared by time, peak memory and trainable parameters: full, lora (not recorded)." in out


def answer_to(records) -> Answer:
    shared = Shared()
    runs = [summarise(Record(**{k: v for k, v in each.items() if k != "schema"}), shared) for each in records]
    (answer,) = answers(boards(Collected(runs).runs), runs)
    return answer


ONE_COST = st.tuples(st.floats(0.1, 1e3), st.floats(1e6, 1e9), st.integers(0, 10**6))


@settings(deadline=None, max_examples=50)
@given(st.lists(ONE_COST, min_size=2, max_size=5), st.lists(ONE_COST, max_size=4))
def test_rows_of_other_machines_change_neither_what_is_taken_nor_what_is_cheapest(together, strays):
    records = [costing(f"m{i}", 245, *costs) for i, costs in enumerate(together)]
    away = [
        costing(f"s{i}", 245, *costs, stamps__machine={"processor": f"CPU {i}", "threads": 8})
        for i, costs in enumerate(strays)
    ]
    alone, beside = answer_to(records), answer_to([*away, *records])
    assert beside.taken.name == alone.taken.name
    for cost in ("time", "memory"):
        assert beside.cheapest[cost].value == alone.cheapest[cost].value
        assert {row.method for row, _ in beside.cheapest[cost].uncompared} == {each["id"][:2] for each in away}
    time = min(time for time, _, _ in together)
    assert alone.cheapest["time"].value == pytest.approx(time)
    taken = together[int(alone.taken.name[1:])]
    assert 0.9 * taken[0] <= time, "by under a tenth"
