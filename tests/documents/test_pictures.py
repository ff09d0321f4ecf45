"""The pictures of the documents are of the scripts, templates and records that are there."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from support.places import ROOT

HERE = ROOT / "scripts" / "pictures"


@pytest.fixture(scope="module")
def sources():
    """The module that says what each picture is made from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        import sources

        yield sources
    sys.modules.pop("sources", None)


def test_no_picture_is_older_than_what_it_shows(sources):
    told = [said for name in sources.PICTURES if (said := sources.stale(name))]
    assert not told, "python scripts/pictures makes them anew:\n" + "\n".join(told)


def test_each_picture_has_its_entry_and_is_small(sources):
    made = {f.name for f in sources.FOLDER.iterdir() if f.suffix in (".png", ".svg")}
    assert made == set(sources.PICTURES) == set(sources.manifest())
    large = {f: f.stat().st_size for f in map(sources.FOLDER.joinpath, made) if f.suffix == ".png"}
    assert max(large.values()) <= sources.MOST_BYTES


def test_what_a_picture_is_made_from_is_there(sources):
    for source in sources.PICTURES.values():
        files = source.hashes()
        assert len(files) > len(source.shows) + len(source.scripts) - 1
        assert not source.runs or any("records/" in path for path in files), source.runs


def test_a_drawing_fetches_nothing(sources):
    for file in sources.FOLDER.glob("*.svg"):
        text = file.read_text(encoding="utf-8")
        assert "url(http" not in text
        assert "<script" not in text
        assert "@font-face" not in text


def test_a_picture_that_is_older_is_named_with_what_changed(sources, monkeypatch, tmp_path):
    """A record changes, and the picture itself."""
    shutil.copytree(sources.FOLDER, tmp_path / "docs" / "pictures")
    for part in ("scripts/pictures", "src/peftbench/results", "src/peftbench/tasks"):
        shutil.copytree(ROOT / part, tmp_path / part)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "scripts" / "pictures" / "sources.py"))
    monkeypatch.setattr(sources, "FOLDER", tmp_path / "docs" / "pictures")
    monkeypatch.setattr(sources, "RECORDS", tmp_path / "docs" / "pictures" / "records")
    monkeypatch.setattr(sources, "MANIFEST", tmp_path / "docs" / "pictures" / "manifest.json")
    assert not sources.stale("terminal.svg")
    record = min(sources.RECORDS.glob("sweep-*.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "reason": "x"}))
    assert sources.stale("terminal.svg") == (
        f"docs/pictures/terminal.svg is older than docs/pictures/records/{record.name}"
    )
    (sources.FOLDER / "architecture.svg").write_text("<svg/>")
    assert "another picture" in sources.stale("architecture.svg")
    (sources.FOLDER / "masks.png").unlink()
    assert "has not been made" in sources.stale("masks.png")
