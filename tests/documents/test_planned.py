"""The documents' commands that need a hub, a GPU or data that are not there: they compose, and are planned."""

from __future__ import annotations

import pytest

from peftbench.cli.main import main
from support import document_world
from support.documents import commands, jobs, listed, words_of

pytestmark = pytest.mark.slow
LISTED = listed()
LINES = {c.text: c for c in commands()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return document_world.make_sets(tmp_path_factory.mktemp("documents"))


@pytest.mark.parametrize("one", LISTED["planned"])
def test_what_cannot_run_here_composes_and_is_planned(one, sets, tmp_path, monkeypatch, capsys):
    here = document_world.settle(sets, tmp_path, tasks=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(sets / "home"))
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    [[(program, *given)]] = words_of([LINES[one].lines], tmp_path / "bash")
    assert program == "peftbench"
    for job in jobs(given):
        alone = [word for word in job if not word.startswith(("hydra", "protocol=", "sweep."))]  # which a sweep takes
        capsys.readouterr()
        assert main([*alone, "--cfg", "job"]) == 0
        assert "method:" in capsys.readouterr().out
        status = main(["plan", *alone])
        told = capsys.readouterr()
        assert status == 0, told.err
        assert "parameters of the method" in told.out
