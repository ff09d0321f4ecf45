"""The fault campaign: what it damages, how it judges, and that its tries are few seconds of a warm process."""

from __future__ import annotations

import importlib
import json
import random
import sys
import time

import pytest

from support.places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
campaign = importlib.import_module("faults.__main__")
configs, damage, page, verdicts, world = (
    importlib.import_module(f"faults.{name}") for name in ("configs", "damage", "page", "verdicts", "world")
)
sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def place(tmp_path):
    return world.World(tmp_path / "world")


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (verdicts.Told(0, "a", ""), "survived"),
        (verdicts.Told(0, "b", ""), "silent"),
        (verdicts.Told(2, "", "peftbench: x: is damaged.\n"), "refused"),
        (verdicts.Told(2, "", "note: y\npeftbench: x: is damaged.\n"), "refused"),
        (verdicts.Told(2, "", "peftbench: x\nand more\n"), "traceback"),
        (verdicts.Told(2, "", f"peftbench: {'x' * 3000}\n"), "traceback"),
        (verdicts.Told(1, "", "Traceback (most recent call last):\n"), "traceback"),
        (verdicts.Told(None, "", "", "ValueError"), "traceback"),
        (verdicts.Told(None, "", "", "Hang", hangs=True), "hang"),
        (verdicts.Told(2, "", "peftbench: \x1b[2J\n"), "silent"),
    ],
)
def test_a_try_is_judged_by_how_it_ended(end, verdict):
    assert verdicts.judged("x", end, lambda told: told.out == "a").verdict == verdict


def test_what_waits_for_ever_is_seen():
    assert verdicts.called(lambda: time.sleep(30), seconds=0.1).hangs


def test_damage_changes_the_file_nearly_always(tmp_path):
    file, content, same = tmp_path / "a.json", json.dumps({"a": [1, {"b": 2}], "c": "d"}), 0
    for number in range(40):
        damage.removed(file)
        file.write_text(content)
        assert damage.damage(random.Random(number), file)
        same += file.is_file() and not file.is_symlink() and file.read_bytes() == content.encode()
    assert same <= 2, "a value may be drawn that was there"


def test_a_small_part_of_the_campaign_ends_as_it_should(place):
    for number in range(5):
        for verdict in configs.try_archive(random.Random(f"fast/{number}"), place):
            assert verdict.verdict in ("survived", "refused"), verdict


def test_a_summary_counts_and_becomes_a_table():
    lines = [{"kind": "words", "verdict": v, "number": 0} for v in ("refused", "refused", "hang")]
    summary = campaign.summarised(lines, seed=3, seconds=61)
    assert {key: count for key, count in summary["all"].items() if count} == {"tries": 3, "refused": 2, "hang": 1}
    text = page.written(f"before\n{page.BEGIN}\nold\n{page.END}\nafter", summary)
    assert "| fuzzed overrides | 3 | 0 | 2 | 0 | 0 | 0 | 1 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "old" not in text
    assert page.written(text, summary) == text


def test_a_try_is_of_its_seed_and_number_alone():
    kinds = list(campaign.KINDS)
    assert [campaign.chosen(n, 5, kinds) for n in range(20)] == [campaign.chosen(n, 5, kinds) for n in range(20)]
    assert set(kinds) == {campaign.chosen(n, 5, kinds) for n in range(2000)}
