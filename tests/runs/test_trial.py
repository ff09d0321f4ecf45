"""`trainer.trial`, as debug=smoke sets it: some batches, and nothing else of the data."""

from __future__ import annotations

import pytest

from peftbench.data import base, images
from support.mistakes import pictures, record, refused

SMOKE = ["debug=smoke", "method=losa", "backbone=resnet_nano", "data=folder", "data.on_error=skip", "taps=disk"]


@pytest.mark.parametrize("words", [[], ["data.memory_gb=0", "data.stage=final"]])
def test_smoke_reads_two_batches_of_each_split_and_no_other_image(cli, tmp_path, monkeypatch, words):
    root = pictures(tmp_path / "own", {"cat": 60, "dog": 60})
    shifted = pictures(tmp_path / "shifted", {"cat": 9, "dog": 9})
    read, hashed = set(), set()
    decode, digest = images.decode_image, base._digest

    def decode_image(image, *more):
        read.add(image)
        return decode(image, *more)

    def stamp(path):
        hashed.add(path)
        return digest(path)

    monkeypatch.setattr(images, "decode_image", decode_image)
    monkeypatch.setattr(base, "_digest", stamp)
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    status, out, err = cli(*SMOKE, f"data.root={root}", f"data.ood=[{shifted}]", *words)
    assert status == 0, out + err
    left = record(tmp_path)
    roles = ("train", "test") if words else ("train", "val", "test")
    assert left["stamps"]["data"]["images"] == dict.fromkeys((*roles, f"ood/{shifted}"), 8)
    assert left["costs"]["taps"]["rows"] == 8 * (len(roles) - 1)
    assert left["config"]["trainer"]["trial"] is True
    assert len(read) == len(hashed) == 8 * (len(roles) + 1)


def test_a_trial_says_how_many_batches(cli):
    refused(cli("method=linear", "trainer.trial=true"), "trainer.trial=true: needs trainer.max_batches=N")


def test_variables_of_lightning_do_not_cut_a_run_short(cli, tiny, tmp_path, monkeypatch):
    for name, value in {"MAX_STEPS": "1", "LIMIT_TRAIN_BATCHES": "1", "LIMIT_TEST_BATCHES": "0"}.items():
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    assert cli(*tiny, "method=linear")[0] == 0
    left = record(tmp_path)
    assert left["history"][-1]["step"] == 2
    assert "test/accuracy" in left["metrics"]
