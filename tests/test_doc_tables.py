"""The tables of the documentation that are made from the code."""

import importlib.util
import re
import shutil

import pytest
import timm

from support.places import ROOT

_spec = importlib.util.spec_from_file_location("doc_tables", ROOT / "scripts" / "doc_tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("name", sorted(tables.TABLES.keys() - {"backbones"}))
def test_a_table_is_current(name):
    page = (tables.DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert tables.with_table(page, name, tables.TABLES[name]()) == page, "make docs-tables writes it"


@pytest.mark.slow
def test_one_model_of_every_module_of_timm_is_as_the_table_says():
    """Each is cut, and asked every method; with another timm than the table's, that nothing breaks is all."""
    page = (tables.DOCS / "backbones.md").read_text(encoding="utf-8")
    now = tables.with_table(page, "backbones", tables.backbones())
    if f"With timm {timm.__version__}:" in page:
        assert now == page, "make docs-tables writes it"


def test_the_table_of_backbones_has_every_module_of_timm():
    page = (tables.DOCS / "backbones.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\w+) \| `", page, flags=re.MULTILINE)
    assert told == sorted(told)
    modules = {m for m in timm.list_modules() if importlib.util.find_spec(f"timm.models.{m}")}  # tests register others
    assert f"With timm {timm.__version__}:" not in page or set(told) == modules


def test_a_table_stands_between_its_markers_and_nothing_else_changes():
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert tables.with_table(page, "a", "new") == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="has no <!-- b -->"):
        tables.with_table(page, "b", "new")


def test_costs_are_read_from_the_page_of_benchmarks(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import choosing

    row = "| training step, ViT-S/16, batch 16: adapter, our LoRA | 1.50 s | 2.00 s | 0.75 | 1.25 | yes |\n"
    (tmp_path / "benchmarks.md").write_text(row + row.replace("training step", "bytes saved for backward"))
    monkeypatch.setattr(choosing, "DOCS", tmp_path)
    assert "takes 1.50 s and keeps 1.50 s for backward" in choosing.step_costs("adapter")
    assert "takes 2.00 s" in choosing.step_costs("lora")
    assert choosing.step_costs("bitfit") == ""
    with pytest.raises(ValueError, match=r"docs/benchmarks\.md: has no row 'training step, ViT-S/16, batch 16: mona"):
        choosing.step_costs("mona")


def test_every_verb_has_a_section_with_all_that_its_help_shows():
    from peftbench.cli.arguments import CommandGroup
    from peftbench.cli.verbs import VERBS, command_of

    page = (tables.DOCS / "verbs.md").read_text(encoding="utf-8")
    for command in map(command_of, VERBS):
        for one in command.commands if isinstance(command, CommandGroup) else (command,):
            section = page.partition(f"\n## {one.name}\n")[2].partition("\n## ")[0]
            assert section, f"docs/verbs.md: no section {one.name}"
            for argument in one.shown_arguments():
                assert argument.help.replace("|", "\\|") in section


def test_every_key_has_a_sentence():
    assert tables.without_sentence() == [], "say behind the key, in its YAML, what it is; make docs-tables writes it"


def test_a_key_without_a_sentence_is_named(monkeypatch, tmp_path):
    shutil.copytree(tables.CONFIGS, tmp_path / "configs")
    for file, key in (("trainer/_base.yaml", "clip"), ("method/lora.yaml", "dropout"), ("data/folder.yaml", "root")):
        page = tmp_path / "configs" / file
        lines = page.read_text(encoding="utf-8").splitlines()
        page.write_text("\n".join(w.partition("  # ")[0] if w.strip().startswith(key) else w for w in lines))
    monkeypatch.setattr(tables, "CONFIGS", tmp_path / "configs")
    assert tables.without_sentence() == ["trainer.clip", "data.root", "method.dropout"]


@pytest.mark.parametrize("words", [["method=losa", "data=video_folder"], ["method=petah", "data=coco_folder"]])
def test_every_key_that_a_run_takes_is_in_the_reference(words):
    from peftbench.cli.config_keys import config_keys

    told = {key.name for rows in tables.reference().values() for key in rows}
    assert set(config_keys(words, [tables.CONFIGS])) <= told
