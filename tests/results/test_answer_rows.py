"""The answers of many data sets are rows of a table, which warn as the sentences of a few do."""

from __future__ import annotations

import pytest

from support.reports import record, tell, write


def of_task(method: str, task: str, right: int, seed: int = 0, **more) -> dict:
    """A record that has `right` of 250 test images right."""
    return record(method, task, seed, right / 250, stamps__data__images={"test": 250}, **more)


def test_many_data_sets_keep_the_warnings_of_a_few(tmp_path):
    for place, task in enumerate("abcde"):
        for lr, right in ((1e-3, 246 - place), (1e-2, 200)):
            each = of_task("lora", task, right, config__optimizer__lr=lr)
            write(tmp_path, each | {"id": f"lora-{task}-{lr}"})
        for seed in range(2):
            each = of_task("full", task, 245 - place, seed)
            write(tmp_path, each | {"id": f"full-{task}-{seed}"})
    failed = record("bitfit", "a", metrics={}, status="failed", reason="out of memory")
    write(tmp_path, failed, record("linear", "f"), record("cst", "a", stamps__machine={"processor": "another"}))
    out = tell("report", tmp_path, "--format=markdown").split("\n## ")[1]
    cells = [[cell.strip() for cell in line.split("|")] for line in out.split("\n") if line.count("|") > 3]
    rows = {of_row[1]: of_row for of_row in cells}
    assert rows["b"][5] == "1–2"
    assert "(optimistic)" in rows["b"][3]
    assert float(rows["b"][7]) == pytest.approx(2.5, abs=0.6)
    assert rows["f"][6:] == ["–", "–", "–", "–", "–", ""], "of one there is no cheapest"
    for said in (
        "Fewer than 3 seeds that a method shares with the highest do not say what another seed changes: ",
        "Chosen on test, so that its figure is too high: lora lr=0.001 (",
        "a: Not compared: bitfit (failed); linear (no run on it).",
        "f: Not compared: ",
    ):
        assert said in out
