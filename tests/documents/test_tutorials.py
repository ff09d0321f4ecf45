"""The tutorials: their notebooks and pages are of their sources, and what they show is what carrying them out gives."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from support.places import ROOT

_spec = importlib.util.spec_from_file_location("tutorials", ROOT / "scripts" / "tutorials.py")
tutorials = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tutorials)


def test_there_are_three():
    assert tutorials.names() == ["detection", "engineer", "researcher"]


@pytest.mark.parametrize("name", tutorials.names())
def test_notebook_and_page_are_of_the_source(name):
    assert not tutorials.stale(name), f"{tutorials.stale(name)}: python scripts/tutorials.py writes it"


@pytest.mark.parametrize("name", tutorials.names())
def test_a_page_says_nothing_of_the_machine_that_made_it(name):
    text = (tutorials.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert not re.findall(r"(?:/root|/home|/work|/tmp|site-packages|Warning)\b", text)


def test_a_stale_page_is_told(tmp_path, monkeypatch):
    for file in tutorials.FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(tutorials, "FOLDER", tmp_path)
    assert not tutorials.stale("engineer")
    page = tmp_path / "engineer.md"
    page.write_text(page.read_text(encoding="utf-8").replace("An engineer", "Some engineer"), encoding="utf-8")
    assert tutorials.stale("engineer") == "docs/tutorials/engineer.md is not the page of engineer.ipynb"
    with (tmp_path / "engineer.py").open("a", encoding="utf-8") as source:
        source.write("# %%\nprint(1)\n")
    assert tutorials.stale("engineer") == "docs/tutorials/engineer.ipynb is not of this engineer.py"


def test_a_cell_of_commands_and_python_becomes_blocks():
    cell = {"cell_type": "code", "source": "x = 1\n\n!peftbench list data\nprint(x)", "outputs": []}
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    page = tutorials.page("some", {"metadata": {"peftbench": {"sha256": "ab"}}, "cells": [cell]})
    blocks = (
        "```python\nx = 1\n```\n\n```bash\npeftbench list data\n```\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n"
    )
    assert page.endswith(blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", tutorials.names())
def test_carried_out_it_shows_what_the_page_shows(name):
    """Figures and times differ from machine to machine: what is compared is what was printed, and where."""
    pytest.importorskip("jupytext", reason="pip install 'peftbench[docs]'")
    pytest.importorskip("nbclient", reason="pip install 'peftbench[docs]'")
    pytest.importorskip("ipykernel", reason="pip install 'peftbench[docs]'")
    now, shown = tutorials.executed(name), tutorials.notebook(name)
    assert [form(cell) for cell in now["cells"]] == [form(cell) for cell in shown["cells"]]


def form(cell: dict) -> tuple[str, list[str]]:
    """What a cell is, and of each of its outputs the kind and the words of the first line that has some."""
    outputs = [
        " ".join([output["output_type"], *output.get("data", {}), *words(output.get("text", ""))])
        for output in cell.get("outputs", ())
    ]
    return cell["cell_type"], outputs


def words(text: str) -> list[str]:
    """Those of the first line that has some, without figures."""
    lines = (re.findall(r"[a-z]{3,}", re.sub(r"\S*\d\S*", "", line)) for line in text.splitlines())
    return next(filter(None, lines), [])


def test_words_are_compared_without_figures():
    assert words("12.3 s\n linear-0f3a takes 7 MB\nmore") == ["takes"]
    assert form(json.loads('{"cell_type": "markdown", "source": "x"}')) == ("markdown", [])
