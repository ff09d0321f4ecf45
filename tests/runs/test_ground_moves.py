"""Folders that go away, or are not ours to read, while something is done with them."""

from __future__ import annotations

import os
import shutil

import pytest

from peftbench import deltas
from peftbench.results import read_record
from peftbench.tuned.finished_run import open_run
from support.mistakes import refused, run_folder
from support.runs import told_by


def removing(monkeypatch, output, step, after=False):
    """Has all of `output` removed before, or after, a step of concluding a run."""
    call = getattr(deltas, step)

    def moved(*arguments):
        answer = call(*arguments) if after else None
        shutil.rmtree(output)
        return answer if after else call(*arguments)

    monkeypatch.setattr(deltas, step, moved)


def test_a_run_whose_folder_was_removed_is_whole_all_the_same(cli, tiny, tmp_path, monkeypatch):
    output = tmp_path / "out"
    removing(monkeypatch, output, "changed_tensors")
    status, out, err = cli(*tiny, "method=spt_lora", f"output_dir={output}")
    assert status == 0, err
    folder = run_folder(output)
    monkeypatch.undo()
    assert open_run(folder).plan.facts, out
    assert read_record(folder).status == "complete"


def test_a_run_whose_files_went_away_at_its_end_is_not_complete(cli, tiny, tmp_path, monkeypatch):
    output = tmp_path / "out"
    removing(monkeypatch, output, "save_delta", after=True)
    status, _, _ = cli(*tiny, "method=linear", f"output_dir={output}")
    assert status == 1
    record = read_record(run_folder(output))
    assert record.status == "failed"
    assert record.reason.endswith("config.yaml: was removed while the run went on")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("words", [["predict", "run={run}", "images={run}"], ["layers", "{run}"], ["report", "{run}"]])
def test_a_folder_that_may_not_be_read_is_told_in_a_sentence(capsys, finished, tmp_path, words):
    shutil.copytree(finished, tmp_path / "out")
    folder = run_folder(tmp_path / "out")
    for place in (tmp_path, *tmp_path.parents):
        if place.owner() == "root" and place != place.parent and "pytest" in str(place):
            place.chmod(0o755)
    folder.chmod(0o000)
    os.seteuid(65534)
    try:
        told = told_by(capsys, *[word.format(run=folder) for word in words])
    finally:
        os.seteuid(0)
        folder.chmod(0o755)
    refused(told, "Permission denied")


@pytest.mark.slow
def test_a_cache_that_is_no_folder_is_told(cli, tiny, tmp_path):
    (tmp_path / "cache").write_text("mine")
    status, _, err = cli(
        *tiny, "method=linear", "taps=disk", f"taps.dir={tmp_path / 'cache'}", f"output_dir={tmp_path}"
    )
    assert status in (0, 1, 2)
    assert "Traceback" not in err
    assert (tmp_path / "cache").read_text() == "mine"
