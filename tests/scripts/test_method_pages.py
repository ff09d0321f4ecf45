"""The pages of the methods, which are made from the code."""

import importlib
import re
import subprocess
import sys

import pytest
import yaml

from peftbench.common.config_files import names
from peftbench.config import CONFIGS
from support.places import ROOT

FOLDER = ROOT / "scripts" / "method_pages"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("page")
    for name in ("page", "figure"):
        sys.modules.pop(name, None)


def test_every_method_says_where_it_sits_what_it_costs_and_when_to_take_another(page):
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        module, _, kind = content.get("method", content)["path"].rpartition(".")
        told = page.sections(getattr(importlib.import_module(module), kind))
        assert all(len(told[section]) > 8 for section in page.SECTIONS), name
        assert (page.FOLDER / f"{name}.md").is_file(), "make docs-tables writes it"


def test_the_page_of_methods_links_a_page_of_each_published_name_and_no_other(page):
    text = (page.FOLDER.parent / "methods.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[`(\w+)`\]\(methods/(\w+)\.md\)", text, flags=re.MULTILINE)
    published = set(names("method", [CONFIGS]))
    assert {name for name, _ in linked} == published
    assert all(name == file for name, file in linked)
    assert {path.stem for path in page.FOLDER.glob("*.md")} == published


def test_a_class_that_does_not_say_it_is_named(page):
    class Silent:
        """Nothing.

        Source: none.
        """

    with pytest.raises(ValueError, match="Silent: its docstring does not say Equation, Place, Cost, Avoid when"):
        page.sections(Silent)


def test_an_idea_has_three_sentences_and_a_method_without_one_is_named(page):
    for name, path in names("method", [CONFIGS]).items():
        assert page.idea(name, page.sections_of_yaml(path))
    with pytest.raises(ValueError, match=r"configs/method/new\.yaml: a line '# Idea: …'"):
        page.idea("new", {"Idea": "It trains. That is all."})


def test_what_a_paper_leaves_open_stands_apart_from_the_source(page):
    told = page.with_reading({"Source": "Doe, 2024. Our reading: the start is zero."})
    assert told == {"Source": "Doe, 2024.", "Our reading": "the start is zero."}
    told = page.with_reading({"Source": "Doe (arXiv 1), on text; the rank is our reading."})
    assert told == {"Source": "Doe (arXiv 1), on text.", "Our reading": "the rank is our reading."}
    assert page.with_reading({"Source": "the usual baseline."}) == {"Source": "the usual baseline."}
    cst = page.sections(importlib.import_module("peftbench.methods.cst").CST)
    assert cst["Our reading"].count("\n\n- ") == 1
    assert cst["Our reading"].count("\n- ") == 4


def test_a_figure_fills_what_trains_and_names_what_was_added(page):
    figures = importlib.import_module("figure")
    drawn = figures.figure("bitfit")
    assert drawn.count('<rect class="trains"') == 8 + 1, "all boxes but the tokens', and the legend's"
    assert "lora_a 8 × 384" in figures.figure("lora")
    assert "side net over the taps" in figures.figure("linear")


@pytest.mark.slow
def test_the_pages_are_current():
    done = subprocess.run([sys.executable, str(FOLDER), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
