"""The tables of many methods, of records that lie there."""

import importlib
import json
import sys

import pytest

from support.places import ROOT


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("compare_methods"), importlib.import_module("fairness")
    for name in ("compare_methods", "fairness", "trials"):
        sys.modules.pop(name, None)


def keep(folder, accuracies, stage="final"):
    for seed, accuracy in enumerate(accuracies):
        (folder / f"{stage}{seed}").mkdir(parents=True)
        costs = {
            "parameters": {"method": 1234},
            "time": {"step": {"median": 0.25}},
            "memory": {"saved_for_backward": 8e6},
        }
        record = {"status": "complete", "config": {"seed": seed, "data": {"stage": stage}}, "costs": costs}
        record["metrics"] = {"test/accuracy": accuracy}
        (folder / f"{stage}{seed}" / "result.json").write_text(json.dumps(record))


def test_a_cell_has_mean_and_interval_and_stays_empty_where_a_run_lacks(tables, tmp_path):
    compare, _ = tables
    keep(compare.folder_of(tmp_path, "vit_nano", "digits", "lora"), [0.5, 0.6, 0.7])
    keep(compare.folder_of(tmp_path, "vit_nano", "digits", "lora"), [0.9, 0.9], stage="tune")
    keep(compare.folder_of(tmp_path, "vit_nano", "photos", "lora"), [0.5, 0.6])
    keep(compare.folder_of(tmp_path, "vit_nano", "digits", "full"), [0.6, 0.7, 0.8])
    keep(compare.folder_of(tmp_path, "vit_nano", compare.TIMED, "full"), [0.6])
    _, _, first, second = compare.table(tmp_path).splitlines()
    assert first.startswith("| `full` | 1,234 | 250 | 8 | 70.0 ± 24.8 |  |")  # 4.303 · 10 / sqrt(3)
    assert second.startswith("| `lora` |  |  |  | 60.0 ± 24.8 |  |")
    assert compare.best(tmp_path, "vit_nano") == [], "none has both data sets"
    assert compare.methods()["lora"] == [0.00033, 0.001, 0.003, 0.01]


def test_fairness_pairs_seeds(tables, tmp_path):
    _, fairness = tables
    keep(fairness.folder_of(tmp_path, "digits", "full"), [0.5, 0.6, 0.7, 0.6, 0.6])
    keep(fairness.folder_of(tmp_path, "digits", "LoRA"), [0.6, 0.7, 0.8, 0.7, 0.7])
    row = next(line for line in fairness.table(tmp_path).splitlines() if line.startswith("| LoRA"))
    assert "| 70.0 ± 8.8 | 10.0 ± 0.0 |" in row  # 2.776 · 7.07 / sqrt(5)
