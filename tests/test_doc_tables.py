"""The tables of the documentation that are made from the code."""

import importlib.util

import pytest

from support.places import ROOT

_spec = importlib.util.spec_from_file_location("doc_tables", ROOT / "scripts" / "doc_tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_current(name):
    page = (tables.DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert tables.with_table(page, name, tables.TABLES[name]()) == page, "make docs-tables writes it"


def test_a_table_stands_between_its_markers_and_nothing_else_changes():
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert tables.with_table(page, "a", "new") == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="has no <!-- b -->"):
        tables.with_table(page, "b", "new")
