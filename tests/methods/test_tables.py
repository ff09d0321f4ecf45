"""The tables of the documentation that are made from the methods' classes."""

import importlib.util

import pytest

from support.places import ROOT

_spec = importlib.util.spec_from_file_location("method_tables", ROOT / "scripts" / "method_tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


def test_the_table_of_methods_is_current():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.with_table(page, "methods", tables.methods()) == page, "make docs-tables writes it"


def test_a_table_stands_between_its_markers_and_nothing_else_changes():
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert tables.with_table(page, "a", "new") == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="has no <!-- b -->"):
        tables.with_table(page, "b", "new")
