"""`auto download=true`: what comes from the hub, which a stub plays here, and what is said where none does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from peftbench.answering import fetching
from support.datasets import write

BACKBONE, TIMM_NAME = "mobilevit_s", "mobilevit_s.cvnets_in1k"


@pytest.fixture
def ask(tmp_path: Path, cli: Callable) -> Callable:
    """Asks `auto` for one backbone, whose weights are the hub's, on a few images."""
    rng = np.random.default_rng(0)
    for name, level in {"dark": 40, "light": 200}.items():
        for number in range(8):
            pixels = level + rng.integers(-30, 30, (16, 16, 3))
            write(tmp_path / "photos" / name / f"{number}.png", pixels.astype(np.uint8))
    words = ["auto", "data=folder", f"data.root={tmp_path / 'photos'}", "data.size=32", "methods=[ridge]"]
    words += [f"backbones=[{BACKBONE}]", f"output_dir={tmp_path / 'out'}"]
    return lambda *more: cli(*words, *more)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A hub that answers, and what it was asked."""
    heard: list[str] = []
    path = tmp_path / "model.safetensors"

    def download(repo: str, filename: str, revision: str | None = None) -> str:
        heard.append(f"file {repo}")
        if not path.exists():
            save_file(timm.create_model(TIMM_NAME, pretrained=False).state_dict(), path)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, repo, **_: heard.append(f"info {repo}"))
    return heard


@pytest.mark.slow
def test_what_the_hub_gives_is_a_candidate_and_the_answer_says_whence_it_came(ask, asked, tmp_path):
    status, out, error = ask("minutes=2", "download=true")
    assert status == 0, error
    assert [what for what in asked if what.startswith("info")] == ["info timm/mobilevit_s.cvnets_in1k"]
    assert f"download: {BACKBONE} came from the hub in" in out
    (line,) = [line for line in out.splitlines() if line.startswith("ten more minutes: ")]
    assert "download=true" in line
    (folder,) = (tmp_path / "out").glob("auto-*")
    assert json.loads((folder / "auto.json").read_text())["answer"]["backbone"] == BACKBONE


def test_nothing_is_asked_unless_it_is_wanted(ask, asked):
    status, _, error = ask("minutes=0.1")
    assert status == 2
    assert asked == []
    assert "nothing is downloaded without download=true" in error
    assert len(error.strip().splitlines()) == 1


def test_a_hub_that_does_not_answer_is_waited_for_once_and_named(ask, asked, monkeypatch):
    monkeypatch.setattr(fetching, "ASKING", 0.3)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: time.sleep(30))
    begun = time.monotonic()
    status, _, error = ask("minutes=0.1", "download=true")
    assert time.monotonic() - begun < 20
    assert status == 2
    assert "it was asked, and did not answer within" in error
    assert asked == []


def test_a_hub_that_is_not_reached_is_said_in_one_sentence(ask, asked, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route to the host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fails)
    status, _, error = ask("minutes=0.1", "download=true")
    assert status == 2
    assert "nothing comes from the hub: no route to the host" in error
    assert len(error.strip().splitlines()) == 1


def test_a_download_that_takes_too_long_is_ended(ask, asked, monkeypatch):
    monkeypatch.setattr(fetching, "SHARE", 0.05)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: time.sleep(60))
    begun = time.monotonic()
    status, _, error = ask("minutes=0.1", "download=true")
    assert time.monotonic() - begun < 0.1 * 60 * 1.1 + 20
    assert status == 2
    assert "its download has not ended" in error
