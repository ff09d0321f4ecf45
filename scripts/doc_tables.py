"""The tables of the documentation that are made from the code (`make docs-tables`); a test checks them.

python scripts/doc_tables.py [--check]     write them between their markers, or say which are not current
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BACKBONES = {"vit_b": "ViT-B/16", "resnet50": "ResNet-50"}


def methods() -> str:
    """A row a shipped method: what its YAML says it is, its parameters, its options with their defaults, its paper."""
    from peftbench.common.config_files import describe, names
    from peftbench.config import CONFIGS
    from peftbench.config.declared_fields import declared

    heads = ["`method=`", "what it is", *(f"parameters, {b}" for b in BACKBONES.values()), "options", "paper"]
    rows = [f"| {' | '.join(heads)} |", "|---" * 2 + "|--:" * len(BACKBONES) + "|---" * 2 + "|"]
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = content.get("method", content)["path"]
        options = [f"`{n}={_plain(default)}`" for n, (_, default) in declared(kind, "path").items()]
        counts = [_count(name, kind, backbone) for backbone in BACKBONES]
        rows.append(f"| {' | '.join([f'`{name}`', describe(path), *counts, ' '.join(options), _paper(kind)])} |")
    return "\n".join(rows)


def _plain(value: Any) -> str:
    """A default as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{v}' for k, v in value.items())}}}"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _count(method: str, path: str, backbone: str) -> str:
    """The method's own parameters at its defaults."""
    import peftbench

    module, _, name = path.rpartition(".")
    if getattr(importlib.import_module(module), name).plans:
        return "decided by data"
    try:
        return f"{peftbench.count_parameters(method, backbone):,}"
    except peftbench.Refusal:
        return "refused"


def _paper(path: str) -> str:
    """The paper that the method's module names in parentheses, as a link."""
    told = importlib.import_module(path.rpartition(".")[0]).__doc__ or ""
    paper = re.search(r"\(([^()]*?)(?:,\s+)?arXiv\s+(\d{4}\.\d{5})\)", told)
    return f"[{paper[1] or f'arXiv {paper[2]}'}](https://arxiv.org/abs/{paper[2]})" if paper else ""


def keys() -> str:
    """One table a section of the config: each key, what it may be, its default and what its YAML says of it."""
    import peftbench
    from peftbench.common.task_lookup import shipped_tasks
    from peftbench.config import SECTIONS, Protocol, Sweep
    from peftbench.config.task_schema import task_schema

    plain, boxes = peftbench.compose("data=digits"), peftbench.compose("data=digits_det")
    tables = []
    for section, schema in SECTIONS.items():
        if section not in ("method", "task"):
            tables.append(_section(section, section, schema, getattr(plain, section)))
    for task in shipped_tasks():
        config = next(c for c in (plain, boxes) if c.task.name == task)
        tables.append(_section(f"task, with `task={task}`", "task", task_schema({"name": task}).section, config.task))
    tables += [_section("sweep", "sweep", Sweep, Sweep()), _section("protocol", "protocol", Protocol, Protocol())]
    return "\n\n".join(tables)


def _section(title: str, section: str, schema: type, values: Any) -> str:
    """A heading, and a row a key."""
    told, kinds = _comments(section), typing.get_type_hints(schema)
    rows = [f"## {title}", "", "| key | is | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(schema):
        key, default = field.name, getattr(values, field.name)
        if key in ("name", "path", "options"):
            continue
        if section in ("backbone", "task"):  # what is composed is one choice of many
            default = field.default_factory() if callable(field.default_factory) else field.default
        shown = "the method's own" if key == "lr" else f"`{_plain(default)}`"
        rows.append(f"| `{section}.{key}` | {_kind(kinds[key])} | {shown} | {told.get(key, '')} |")
    return "\n".join(rows)


def _kind(kind: Any) -> str:
    """A type in words: `a` or `b`, a number, a list."""
    words = {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null", Any: "any"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(_kind(one) for one in inner)
    if origin is tuple:
        return f"list of {_kind(inner[0])}" if inner[-1] is ... else f"[{'; '.join(map(_kind, inner))}]"
    return "mapping" if origin is dict else words[kind]


def _comments(section: str) -> dict[str, str]:
    """What the YAML files of a section say behind each key; what all of its choices share comes first."""
    from peftbench.config import CONFIGS

    said: dict[str, str] = {}
    for path in [*sorted((CONFIGS / section).glob("*.yaml")), CONFIGS / "train.yaml"]:
        text = path.read_text(encoding="utf-8")
        if path.name == "train.yaml":  # its own sections are indented
            text = text.partition(f"\n{section}:\n")[2].partition("\n\n")[0]
        for key, comment in re.findall(r"^ *(\w+): *[^#\n]*?# (.+)$", text, flags=re.MULTILINE):
            said.setdefault(key, comment.replace("|", "\\|").replace("<", "\\<"))
    return said


TABLES: dict[str, Callable[[], str]] = {"methods": methods, "config": keys}
"""The page, which is also its table's marker, and what makes the table."""


def with_table(text: str, marker: str, table: str) -> str:
    """The page with the table between `<!-- marker -->` and `<!-- /marker -->`. Raises ValueError without these."""
    begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin.strip()} … {end}.")
    return f"{before}{begin}{table}\n{end}{after}"


def main() -> int:
    """Writes the tables, or checks them; the exit status is 1 where one is not current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is not current")
    check = parser.parse_args().check
    stale = 0
    for name, make in TABLES.items():
        page = DOCS / f"{name}.md"
        before = page.read_text(encoding="utf-8")
        now = with_table(before, name, make())
        if now != before and check:
            stale = 1
            print(f"docs/{page.name}: its table is not current; make docs-tables writes it.")
        elif now != before:
            page.write_text(now, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
