"""Tables in terminals of 40 to 200 columns: no figure is cut, and what is left out is said."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from peftbench.common.fitted_table import fold
from peftbench.results import Record, print_layers, print_table
from peftbench.results.formats import print_tables
from peftbench.results.text_table import TextTable
from support.reports import record, tell, write

WIDTHS = st.integers(40, 200)
NAMES = st.text("abcdefghij_-.", min_size=1, max_size=45).filter(lambda name: name.strip("-._"))
SHORT = st.text("abcdefgh", min_size=1, max_size=8)
FIGURES = st.one_of(
    st.integers(0, 10**13).map(lambda n: f"{n:,}"),
    st.floats(0, 100).map(lambda x: f"{x:.1f} ± {x / 7:.1f}"),
    st.floats(0, 1e6).map(lambda x: f"{x:.1f} ms"),
)


def terminal(width: int) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(width=width, file=out, force_terminal=True, color_system=None), out


def closing_table(width: int, records: list[dict]) -> str:
    console, out = terminal(width)
    print_table([Record(**{k: v for k, v in r.items() if k != "schema"}) for r in records], console)
    return out.getvalue()


@st.composite
def runs(draw):
    records = []
    for i in range(draw(st.integers(1, 4))):
        backbone, data, lr = draw(NAMES), draw(NAMES), draw(st.sampled_from([1e-3, 2.5e-5]))
        parameters, seconds = draw(st.integers(0, 10**13)), draw(st.floats(0, 1e6))
        more = {
            "config__choices": {
                "method": draw(st.text("abcdefgh", min_size=1, max_size=8)),
                "backbone": backbone,
                "data": data,
            },
            "config__optimizer__lr": lr,
            "costs__parameters": {"method": parameters, "head": draw(st.integers(0, 10**9))},
            "costs__time": {"train": seconds, "step": {"median": seconds / 1e3}, "images_per_second": seconds},
            "costs__memory": {"peak": {"allocated": parameters}, "saved_for_backward": parameters},
        }
        records.append(record("lora", seed=i, accuracy=draw(st.floats(0, 1)), **more))
    return records


@settings(deadline=None)
@given(WIDTHS, runs())
def test_the_closing_table_never_loses_a_figure(width, records):
    shown = closing_table(width, records)
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    flat = " ".join(shown.split())
    for each in records:
        figures = {"top-1": f"{100 * each['metrics']['test/accuracy']:.1f}"}
        parameters = each["costs"]["parameters"]["method"]
        figures["params"] = f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters:,}"
        lost = [heading for heading, figure in figures.items() if figure not in shown and not left_out(heading, flat)]
        assert not lost
        assert not left_out("top-1", flat)
        assert each["config"]["choices"]["method"] in shown


def left_out(heading: str, flat: str) -> bool:
    said = re.search(r"\d+ columns: (.*?) (?:is|are) left out; a wider terminal or result.json shows", flat)
    return said is not None and heading in said[1]


def test_what_is_left_out_is_the_least_telling_and_is_said():
    costs = {"costs__time": {"train": 3.0, "step": {"median": 0.1}, "images_per_second": 0.41}}
    records = [record("lora", **costs), record("bitfit", accuracy=0.8, **costs)]
    shown = closing_table(60, records)
    assert "90.0" in shown
    assert "1,000" in shown
    said = (
        "60 columns: head, step, images/s, peak mem, saved/step and delta are left out; a wider terminal or result.json"
    )
    assert said in " ".join(shown.split())
    wide = closing_table(200, records)
    assert "left out" not in wide
    assert " 0.41 " in wide, "not 0 images a second"


@settings(deadline=None)
@given(
    WIDTHS,
    st.lists(st.tuples(NAMES, NAMES, st.lists(FIGURES, min_size=9, max_size=9)), min_size=1, max_size=5),
    st.integers(1, 9),
    st.booleans(),
)
def test_a_report_never_loses_a_figure(width, rows, figures, words):
    columns = [("method", False), *((f"a data set {i} %", True) for i in range(figures))]
    columns += [("so", False)] if words else []
    table = TextTable("A table", columns)
    table.rows = [[name, *cells[:figures], *([other] if words else [])] for name, other, cells in rows]
    console, out = terminal(width)
    print_tables([table], console)
    shown = out.getvalue()
    assert "…" not in shown
    assert all(len(line.rstrip("\n")) <= width for line in shown.splitlines())
    for _, _, cells in rows:
        for cell in cells[:figures]:
            assert cell in shown


@settings(deadline=None)
@given(WIDTHS, st.lists(st.one_of(NAMES, FIGURES), min_size=1, max_size=30), st.sampled_from(["", "  "]))
def test_paragraphs_are_broken_between_words(width, words, indent):
    folded = fold(" ".join(words), width, indent)
    assert re.sub(r"\s", "", folded) == re.sub(r"\s", "", " ".join(words))
    assert all(len(line) <= width for line in folded.splitlines())
    assert all(figure in folded for figure in words if re.fullmatch(r"[\d.]+ (±.*|ms)", figure))


@pytest.mark.parametrize("width", [40, 80])
def test_bars_of_layers_give_way_to_names_and_figures(width):
    rows = [
        {"name": f"stages.0.blocks.{i}.attention.qkv.weight", "kind": "lowrank", "parameters": n}
        for i, n in enumerate((1_234_567, 617_284))
    ]
    plan = {"layers": rows, "trainable": 1_851_851, "budget": 2_000_000, "selected": 10}
    console, out = terminal(width)
    print_layers(Record(**{k: v for k, v in record("spt", plan=plan).items() if k != "schema"}), console)
    assert "…" not in out.getvalue()
    bars = [len(bar) for bar in re.findall("█+", out.getvalue())]
    assert bars[0] == pytest.approx(2 * bars[1], abs=1)
    assert "1,234,567" in out.getvalue()


@pytest.mark.parametrize("value", [1e308, 1e299, -1e200, 1e40])
def test_a_figure_that_no_run_has_breaks_no_table(value, tmp_path):
    records = [record("lora"), record("lora", seed=1, accuracy=value), record("bitfit", accuracy=value)]
    shown = closing_table(100, records) + tell("report", write(tmp_path, *records))
    assert "inf" not in shown.split()
    assert all(len(line) < 250 for line in shown.splitlines())
    assert "lora: 90.0" in tell("choose", tmp_path)


def test_an_error_of_targets_as_large_as_float32_goes_is_a_figure(tmp_path):
    metrics = {"test/r2": 0.5, "test/mae": 3e38, "test/spearman": 0.4}
    made = record("linear", metrics=metrics, config__task={"name": "regression"})
    shown = tell("report", write(tmp_path, made), "metric=test/mae")
    assert re.search(r"\b[23]\d{38,}\b", shown.replace(",", "")), "the error itself, not a dash"
    assert all(len(line) < 250 for line in shown.splitlines())
