"""The keys and choices that documents give, such as `trainer.clip=1` and `data=folder`, are there."""

from __future__ import annotations

import importlib.util
import re

import pytest

from peftbench.common.config_files import CONFIGS, groups, names
from support.documents import DOCUMENTS
from support.places import ROOT

_spec = importlib.util.spec_from_file_location("doc_tables", ROOT / "scripts" / "doc_tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

CODE = re.compile(r"(?<!`)(`{1,2})(?!`)([^`]+)\1|^(?: {4}|peftbench )(.+)$|^```\n(.+?)^```$", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)*)=([\w/-]*)(?![\w/(-])")
NAMED = re.compile(r"(?<!`)`([a-z_]+(?:\.[a-z_]+)+)`(?!`)")
"""A key alone in code, such as `trainer.epochs`."""
OF_RECORDS = {"backbone", "costs", "data", "task", "taps"}
"""Sections whose names a record uses too, for other keys."""
OF_OTHERS = {"hydra.searchpath": "Hydra's own", "data.task": "read in records of before"}
OF_OTHERS["optimizer.args.betas"] = "an option of timm's lion"
OF_OTHERS |= {"method.last": "of docs/contribute", "method.lst": "a mistake there", "task.sharpnes": "another"}
OUTSIDE = {
    ("data", "named_images"): "the example of CONTRIBUTING.md",
    ("experiment", "vtab1k/lora"): "the name of before, still read",
    ("method", "block_gain"): "of docs/contribute",
    ("data", "graded_folder"): "of docs/contribute",
    ("data", "arrays"): "of docs/contribute",
    ("backbone", "mobilenet_v4"): "of docs/contribute",
    ("backbone", "small_vit"): "of docs/contribute",
}


def words_in(text: str) -> set[tuple[str, str]]:
    """(key, value) of what stands as key=value in code; the value as far as it is plain."""
    codes = [next(filter(None, match.groups()[1:])) for match in CODE.finditer(text)]
    return {
        pair for code in codes for pair in re.findall(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)*)=([\w/-]*)(?![\w/(-])", code)
    }


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {key.name for rows in tables.reference().values() for key in rows} | OF_OTHERS.keys()


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_keys_and_choices_are_there(page, known):
    sections = {key.partition(".")[0] for key in known if "." in key and not key.startswith("hydra")}
    offered = {group: names(group, [CONFIGS]) for group in groups([CONFIGS]) if group != "hydra"}
    text = page.read_text(encoding="utf-8")
    named = {name for name in NAMED.findall(text) if name.partition(".")[0] in sections - OF_RECORDS}
    assert not named - known, f"{page.name} names what is no key"
    words = words_in(text) - OUTSIDE.keys()
    assert not {key for key, _ in words if key.partition(".")[0] in sections and "." in key and key not in known}
    chosen = {(group, value) for group, value in words if group in offered and value and value.islower()}
    assert not {(group, value) for group, value in chosen if value not in offered[group] and not value.endswith("/")}


def test_words_are_found():
    assert words_in("`method=lora data.size=[1,2]` and\n\n```\npeftbench backbone.nam=x seed=1\n```\n") == {
        ("method", "lora"),
        ("data.size", ""),
        ("backbone.nam", "x"),
        ("seed", "1"),
    }
