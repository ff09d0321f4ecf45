"""`peftbench taps`: listing and clearing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftbench.taps import entries
from support.taps import RUN, cached, tensors


def test_taps_are_listed_and_cleared(cli, tmp_path, cache):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    status, out, _ = cli("taps", "list", "output_dir=x")
    assert status == 2 or "digits" in out
    from peftbench.cli.main import main

    assert main(["taps", "list"]) == 0
    found = entries.entries(cache)
    assert main(["taps", "clear", found[0].key[:8]]) == 0
    assert len(entries.entries(cache)) == 1
    assert main(["taps", "clear"]) == 0
    assert entries.entries(cache) == []
    assert (tmp_path / "a").exists()


def test_damaged_entries_are_cleared_and_what_is_none_is_left_alone(tmp_path):
    from peftbench.cli.main import main

    (tmp_path / cached(tmp_path).key / "about.json").write_text("{")
    for name in ("0" * 20, "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    assert main(["taps", "clear", f"taps.dir={tmp_path}"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {".locks", ".parts", "0" * 20, "mine"}


def test_what_is_being_read_is_not_cleared(cache, capsys):
    from peftbench.cli.main import main

    taps = cached(cache)
    assert main(["taps", "clear"]) == 0
    assert "is being read by a run" in capsys.readouterr().out
    assert len(entries.entries(cache)) == 1
    np.testing.assert_array_equal(taps(torch.arange(6))[0].numpy(), tensors()[0].numpy())


@pytest.mark.parametrize("words", [["taps", "lst"], ["taps", "clear", "zzzz"], ["taps", "list", "x"]])
def test_mistakes_at_the_command_are_one_sentence(words, capsys):
    from peftbench.cli.main import main

    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
