"""A sweep goes on after a job that failed."""

from __future__ import annotations

import json

from support.mistakes import pictures, record


def test_a_sweep_goes_on_after_a_job_that_failed_and_says_so(cli, tiny, tmp_path):
    status, out, err = cli("-m", *tiny, "method=linear", "data.batch_size=0,16")
    assert status == 1
    assert "Traceback" not in out + err
    assert "data.batch_size=0: expected at least 1" in out
    assert record(tmp_path)["status"] == "complete"


def test_a_sweep_goes_on_after_a_run_that_failed_while_it_ran(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 20, "dog": 20})
    (root / "cat" / "3.png").write_bytes(b"no image")
    words = [*tiny, "method=linear", "data=folder", f"data.root={root}", "data.batch_size=8"]
    status, out, err = cli("-m", *words, "data.on_error=refuse,skip")
    assert status == 1
    assert "Traceback" not in out + err
    assert f"{root / 'cat' / '3.png'}: cannot be read" in out
    assert sorted(json.loads(p.read_text())["status"] for p in tmp_path.glob("linear*/result.json")) == [
        "complete",
        "failed",
    ]
