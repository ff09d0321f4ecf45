"""data=hf where its library is not installed."""

from __future__ import annotations

import sys


def test_a_missing_library_is_one_sentence_that_says_how_to_install_it(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    status, _, told = cli("plan", "data=hf", f"data.root={tmp_path}", "backbone=vit_nano")
    assert (status, told.count("\n")) == (2, 1)
    assert "data=hf: needs the library datasets" in told
    assert "pip install 'peftbench[hf]'" in told
