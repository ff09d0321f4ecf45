"""The command that measures a GPU works where there is none."""

import importlib
from contextlib import nullcontext

import pytest
import torch

from support.places import ROOT


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("bench.gpu")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["forwards", "--pretend"], "forwards: no such section; expected losses, forward, losa, "),
        pytest.param(
            *([], "sees no GPU; --pretend tries the command without one."),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_get_one_sentence(gpu, words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_section_that_fails_is_a_row_and_the_others_go_on(gpu, monkeypatch, capsys, tmp_path):
    def broken(setting, end):
        yield gpu.Row("one row", "1")
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(gpu, "SECTIONS", {"broken": broken, "fine": lambda setting, end: iter([gpu.Row("fine", "2")])})
    monkeypatch.setattr(gpu, "_place", lambda pretend: nullcontext("a chip"))
    assert gpu.main(["--pretend", "--out", str(tmp_path / "gpu.md")]) == 1
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert text.startswith("a chip, torch ")
    for line in ("| one row | 1 |", "| broken: failed: RuntimeError: no memory |", "| fine | 2 |"):
        assert line in text
    assert gpu.main(["--pretend", "--minutes", "-1"]) == 0
    assert "broken: left out, since the time is over" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_command_runs_without_a_gpu(gpu, capsys):
    assert gpu.main(["--pretend"]) == 0
    told = capsys.readouterr().out
    for what in (
        "loss of losa, a CPU's",
        "weights cast once",
        "LoSA step, taps=disk",
        "ftp",
        "rrc on the device",
        "plan",
    ):
        assert what in told
    assert "Faster R-CNN step" in told
    assert "measures nothing" in told
