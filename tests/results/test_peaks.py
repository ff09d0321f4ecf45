"""The peak of memory in the records of this version and in those of before."""

import math
import re

import pytest

import peftbench
from peftbench.results.run_tables import what_it_cost
from support.reports import record, tell, write

NEW = {"measure": "allocated", "total": 3_000_000, "above": 1_000_000, "reserved": 5_000_000, "exact": True}
OURS = {"measure": "resident", "total": 9_000_000, "above": 2_000_000, "exact": True}


@pytest.mark.parametrize(
    ("peak", "shown"),
    [
        (NEW, "3 MB"),
        (OURS, "2 MB"),
        ({"allocated": 3_000_000, "reserved": 5_000_000}, "3 MB"),
        ({"resident": 2_000_000, "exact": True}, "2 MB"),
    ],
)
def test_a_gpu_tells_all_of_it_and_a_processor_what_is_above_the_set_up_in_old_records_too(peak, shown):
    table = _record(memory={"peak": peak})._repr_html_()
    assert re.search(rf"memory of training</t[hd]><t[hd][^>]*>{shown}<", table)


def test_the_page_of_a_run_tells_both_numbers_and_the_peak_of_computing_taps():
    rows = _costs_on_page(memory={"peak": NEW}, taps={"memory": OURS})
    assert rows == [
        ("peak memory, allocated", "3 MB"),
        ("of it above the set-up", "1 MB"),
        ("peak memory while computing taps, resident", "9 MB"),
        ("of it above the set-up", "2 MB"),
    ]
    assert _costs_on_page(memory={"peak": {"resident": 2_000_000}}) == [("peak memory, resident", "2 MB")]


@pytest.mark.parametrize(
    "peak", [None, [], {"measure": "resident", "above": "1"}, {"resident": math.nan}, {"above": 1}]
)
def test_a_peak_of_another_form_is_left_out(peak):
    assert _costs_on_page(memory={"peak": peak}, taps=[1]) == []


def test_records_of_both_forms_are_compared_as_one_measure(tmp_path):
    old, new = record("losa", seed=0), record("losa", seed=1, costs__memory__peak=OURS | {"above": 5e8})
    told = tell("report", write(tmp_path, old, new))
    assert "memory in 2 ways" not in told
    assert "500 MB" in told
    other = record("losa", seed=2, costs__memory__peak=NEW)
    assert "memory in 2 ways: allocated on the GPU" in tell("report", write(tmp_path, other))


def _record(**costs):
    return peftbench.Record("x", "complete", {}, {}, {}, costs)


def _costs_on_page(**costs):
    table = what_it_cost(_record(**costs))
    rows = [tuple(row[:2]) for row in table.rows]
    return [row for row in rows if "memory" in row[0] or "above" in row[0]]
