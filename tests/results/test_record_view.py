"""A record as Python shows it: one line at the prompt, a short escaped table in a notebook."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench

CONFIG = {"choices": {"method": "lora", "backbone": "vit_nano", "data": "digits"}, "seed": 3}
COSTS = {"parameters": {"method": 12_345}, "time": {"train": 90.0}, "memory": {"peak": {"resident": 5e6}}}
METRICS = {"test/loss": 0.5, "test/accuracy": 0.9375, "val/accuracy": 1.0, "train/loss": 0.1}


def test_a_record_is_one_line_at_the_prompt_and_a_table_in_a_notebook():
    record = peftbench.Record("lora-x", "complete", CONFIG, {"judged_by": "accuracy"}, METRICS, COSTS, folder="out/x")
    assert repr(record) == "Record(lora-x, complete, test/accuracy 0.9375)"
    table = record._repr_html_()
    cells = re.findall("<t[hd][^>]*>([^<]*)</t[hd]>", table)
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == {
        "run": "lora-x",
        "what": "method=lora backbone=vit_nano data=digits seed=3",
        "status": "complete",
        "test/accuracy": "0.9375",
        "test/loss": "0.5",
        "parameters of the method": "12,345",
        "time of training": "90.0 s",
        "memory of training": "5 MB",
        "folder": "out/x",
    }
    assert cells.index("test/accuracy") < cells.index("test/loss")


def test_a_failed_record_says_why_and_shows_nothing_that_it_has_not():
    record = peftbench.Record("x", "failed", {}, reason="no memory")
    assert repr(record) == "Record(x, failed)"
    assert "failed: no memory" in record._repr_html_()


_TEXT = st.text("<>&'\"a /\n")
_CONFIGS = st.dictionaries(st.sampled_from(["choices", "method", "data"]), _TEXT, max_size=2)
_ANY = st.recursive(st.none() | st.integers() | st.floats() | _TEXT, lambda v: st.dictionaries(_TEXT, v, max_size=2))


@settings(max_examples=30)
@given(_CONFIGS, _TEXT, st.dictionaries(_TEXT, _ANY, max_size=3), st.dictionaries(_TEXT, _ANY, max_size=3))
def test_whatever_a_record_holds_is_escaped_and_shown(config, text, metrics, costs):
    metrics = {f"test/{k}": v for k, v in metrics.items()}
    record = peftbench.Record(text, text, config, {"judged_by": text}, metrics, costs, reason=text, folder=text)
    assert "\n" not in repr(record)
    tags = set(re.findall("<[^>]*>", record._repr_html_()))
    assert tags <= {"<table>", "</table>", "<tr>", "</tr>", "<th style='text-align:left'>", "</th>", "</td>"} | {
        "<td style='text-align:left'>"
    }
