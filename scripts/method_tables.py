"""The tables of the documentation that are made from the code (`make docs-tables`); a test checks them.

python scripts/method_tables.py [--check]     write them between their markers, or say which are not current
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
BACKBONES = {"vit_b": "ViT-B/16", "resnet50": "ResNet-50"}


def methods() -> str:
    """A row a shipped method: what its YAML says it is, its parameters, its options with their defaults, its paper."""
    from peftbench.config import CONFIGS
    from peftbench.config.declared_fields import declared
    from peftbench.config.groups import describe, names

    heads = ["`method=`", "what it is", *(f"parameters, {b}" for b in BACKBONES.values()), "options", "paper"]
    rows = [f"| {' | '.join(heads)} |", "|---" * 2 + "|--:" * len(BACKBONES) + "|---" * 2 + "|"]
    for name, path in names("method", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = content.get("method", content)["path"]
        options = [f"`{n}={_plain(default)}`" for n, (_, default) in declared(kind, "path").fields.items()]
        counts = [_count(name, kind, backbone) for backbone in BACKBONES]
        rows.append(f"| {' | '.join([f'`{name}`', describe(path), *counts, ' '.join(options), _paper(kind)])} |")
    return "\n".join(rows)


def _plain(value: Any) -> str:
    """A default as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


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
    before = PAGE.read_text(encoding="utf-8")
    now = with_table(before, "methods", methods())
    if before == now:
        return 0
    if check:
        print(f"{PAGE.relative_to(ROOT)}: its table of methods is not current; make docs-tables writes it.")
        return 1
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
