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
