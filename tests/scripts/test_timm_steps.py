"""Real steps over timm's modules: the committed table, ten modules of it anew, and the script that goes on."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import timm_steps
from timm_table import MODELS

TEN = (
    "convit",
    "deit",
    "efficientformer_v2",
    "levit",
    "mlp_mixer",
    "mobilenetv3",
    "resnet",
    "swin_transformer_v2",
    "vision_transformer",
    "vision_transformer_relpos",
)
"""A module of each kind: taps without class token, two class tokens, a hybrid, norms in front, no attention, …"""


def test_the_committed_table_has_every_module_and_no_error():
    rows = timm_steps.read(timm_steps.TABLE)
    assert {module: row["model"] for module, row in rows.items()} == {m: MODELS[m] for m in sorted(MODELS)}
    cells = [row[method] for row in rows.values() for method in timm_steps.METHODS]
    assert all(cell in ("", timm_steps.STEPS) or cell.startswith("refused: ") for cell in cells)


def test_the_script_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(timm_steps, "smallest_size", lambda model: 32)
    monkeypatch.setattr(timm_steps, "step", lambda *words: asked.append(words) or timm_steps.STEPS)
    table = tmp_path / "steps.csv"
    timm_steps.fill(table, ["resnet", "levit"], seconds=-1)
    assert (asked, table.exists()) == ([], False)
    monkeypatch.setattr(timm_steps, "METHODS", ("full",))
    timm_steps.fill(table, ["resnet"], 60)
    monkeypatch.setattr(timm_steps, "METHODS", ("full", "losa"))
    timm_steps.fill(table, ["resnet", "levit"], 60)
    assert asked == [("resnet18", 32, m) for m in ("full", "losa")] + [("levit_128s", 32, m) for m in ("full", "losa")]
    with table.open(newline="") as lines:
        rows = {row["module"]: row for row in csv.DictReader(lines)}
    assert (len(rows), rows["levit"]["losa"], rows["deit"]["losa"]) == (len(MODELS), timm_steps.STEPS, "")


@pytest.mark.slow
@pytest.mark.parametrize("module", TEN)
def test_ten_modules_take_real_steps_or_refuse_as_the_table_says(module, tmp_path):
    table = tmp_path / "steps.csv"
    timm_steps.fill(table, [module], 600)
    found, committed = timm_steps.read(table)[module], timm_steps.read(timm_steps.TABLE)[module]
    for method in timm_steps.METHODS:
        assert found[method] == timm_steps.STEPS or found[method].startswith("refused: "), found[method]
        assert committed[method] in ("", found[method])
