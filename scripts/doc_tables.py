"""The tables of the documentation that are made from the code (`make docs-tables`); a test checks them.

python scripts/doc_tables.py [--check]     write them between their markers, or say which are not current
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
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
CONFIGS = ROOT / "configs"
CHOICES = ("trainer", "taps", "pruning", "optimizer", "logger", "protocol", "task", "experiment", "debug")
"""Groups whose files are listed on the page of keys; methods, backbones and data sets have pages of their own."""
VARIES = "its own"
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
        given = content.get("method", content)
        kind, known = given["path"], declared(given["path"], "path")
        told = {n: value for n, value in given.items() if not str(value).startswith("${")}  # else it is another key's
        options = [f"`{n}={plain(told.get(n, default))}`" for n, (_, default) in known.items()]
        counts = [_count_or_refused(name, backbone) for backbone in BACKBONES]
        cells = [f"[`{name}`](methods/{name}.md)", describe(path), *counts, " ".join(options), paper(path, kind)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _count_or_refused(method: str, backbone: str) -> str:
    import peftbench

    try:
        return count(method, backbone)
    except peftbench.Refusal:
        return "refused"


def plain(value: Any) -> str:
    """A default as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{v}' for k, v in value.items())}}}"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def count(method: str, backbone: str) -> str:
    """The method's own parameters at its defaults, as `peftbench.count_parameters`, with each backbone built once.

    Raises:
        Refusal: the method refuses it.
    """
    import peftbench
    from peftbench.methods.base import Plan
    from peftbench.runs.build import instantiate

    built, meta = instantiate(peftbench.compose(f"method={method}").method), copy.deepcopy(_on_meta(backbone))
    built.check(meta)
    try:
        side = built.adapt(meta, Plan())
    except peftbench.UserError as problem:
        if "decided by a look at the data" not in str(problem):
            raise
        return "decided by data"
    trained = [*meta.parameters(), *(side.parameters() if side is not None else ())]
    return f"{sum(p.numel() for p in trained if p.requires_grad):,}"


@functools.cache
def _on_meta(backbone: str) -> Any:
    """The backbone of that name, without weights."""
    import peftbench
    from peftbench import backbones

    return backbones.build_on_meta(peftbench.compose(f"backbone={backbone}").backbone, None)


def paper(yaml: Path, kind: str) -> str:
    """The paper that the YAML names in a line `# paper: …`, or else the class's module in parentheses, as a link."""
    mark = "# paper: "
    lines = yaml.read_text(encoding="utf-8").splitlines()
    told = next((f"({line.removeprefix(mark)})" for line in lines if line.startswith(mark)), None)
    told = told or importlib.import_module(kind.rpartition(".")[0]).__doc__ or ""
    found = re.search(r"\(([^()]*?)(?:,\s+)?arXiv\s+(\d{4}\.\d{5})\)", told)
    return f"[{found[1] or f'arXiv {found[2]}'}](https://arxiv.org/abs/{found[2]})" if found else ""


class Key(typing.NamedTuple):
    """A row of the reference: a key, what it may be, its default, and what its YAML says of it."""

    name: str
    kind: Any
    default: Any
    sentence: str

    def row(self) -> str:
        """It as a row of a table."""
        if self.default in ("???", ...):
            shown = "needed"
        elif self.default == VARIES or self.name == "optimizer.lr":
            shown = "the method's own" if self.name == "optimizer.lr" else VARIES
        else:
            shown = f"`{plain(self.default)}`"
        told = self.sentence.replace("|", "\\|").replace("<", "\\<")
        return f"| `{self.name}` | {_kind(self.kind)} | {shown} | {told} |"


def config() -> str:
    """What there is to choose, and then one table a section of the config, a method and a data set."""
    tables = [_choices()]
    for title, rows in reference().items():
        heads = [f"## {title}", "", "| key | is | default | means |", "|---|---|---|---|"]
        tables.append("\n".join([*heads, *(key.row() for key in rows)]))
    return "\n\n".join(tables)


def reference() -> dict[str, list[Key]]:
    """Every key of the config by the heading of its table. Sections of the same rows have one."""
    import peftbench
    from peftbench.common.task_lookup import shipped_tasks
    from peftbench.config import SECTIONS, TOP, Protocol, Sweep
    from peftbench.config.task_schema import task_schema

    plain = peftbench.compose("data=digits")
    told = _comments(CONFIGS / "train.yaml")
    tables = {"The run": [Key(name, kind, getattr(plain, name), told.get(name, "")) for name, kind in TOP.items()]}
    for section, schema in SECTIONS.items():
        if section == "logger":
            tables[section] = _trackers()
        elif section not in ("method", "task"):
            tables[section] = _section(section, schema, getattr(plain, section))
    for task in shipped_tasks():
        schema = task_schema({"name": task}).section
        tables[f"task, with `task={task}`"] = _section("task", schema, schema(name=task))
    tables |= {"sweep": _section("sweep", Sweep, Sweep()), "protocol": _section("protocol", Protocol, Protocol())}
    return tables | _options("data") | _options("method") | {"hydra.sweeper, with `hydra/sweeper=optuna`": _searching()}


def slug(title: str) -> str:
    """The anchor of a heading: in lower case, its words joined by hyphens, without other signs."""
    return re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")


def without_sentence() -> list[str]:
    """The keys of which no YAML says what they are; a single word does not."""
    return [key.name for rows in reference().values() for key in rows if len(key.sentence.split()) < 2]


def _section(section: str, schema: type, values: Any) -> list[Key]:
    """The keys of a section, which all of its choices have."""
    told, kinds = _comments_of_group(section), typing.get_type_hints(schema)
    rows = []
    for field in dataclasses.fields(schema):
        name, default = field.name, getattr(values, field.name)
        if name in ("path", "options") or (name == "name" and section not in ("backbone", "optimizer")):
            continue
        if section == "backbone":  # what is composed is one choice of many
            default = field.default_factory() if callable(field.default_factory) else field.default
            default = ... if default is dataclasses.MISSING else default
        rows.append(Key(f"{section}.{name}", kinds[name], default, told.get(name, "")))
    return rows


def _trackers() -> list[Key]:
    """The keys of the section `logger`, a tracker after the other."""
    from peftbench.config.logger_schema import SCHEMAS

    rows = []
    for tracker, schema in SCHEMAS.items():
        told, kinds = _comments(CONFIGS / "logger" / f"{tracker}.yaml"), typing.get_type_hints(schema)
        for field in dataclasses.fields(schema):
            default = getattr(schema(), field.name)
            rows.append(Key(f"logger.{tracker}.{field.name}", kinds[field.name], default, told.get(field.name, "")))
    return rows


def _options(group: str) -> dict[str, list[Key]]:
    """The keys that choices of a group add to their section, those with the same ones in one table."""
    from peftbench.common.config_files import names
    from peftbench.config.declared_fields import declared

    tables: dict[str, list[tuple[str, list[Key]]]] = {}
    files = names(group, [CONFIGS])
    of_others: dict[str, str] = {}
    for path in files.values():
        of_others = _comments(path) | of_others
    for name, path in files.items():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        content, told = content.get(group, content), _comments(path)
        kinds = {key: kind for key, (kind, _) in declared(content["path"], "path").items()}
        defaults = {key: default for key, (_, default) in declared(content["path"], "path").items()}
        if group == "method":
            kinds |= {"lr": float, "grid": dict}
        rows = []
        for key, kind in kinds.items():
            default = content.get(key, defaults.get(key))
            said = told if key in content else of_others  # what is not in the file is as in the others
            rows.append(Key(f"{group}.{key}", kind, default, said.get(key, "")))
        family = name.partition("/")[0]
        same = repr([(row.name, row.kind, row.sentence, family == name and row.default) for row in rows])
        tables.setdefault(same, []).append((f"`{group}={name if family == name else f'{family}/…'}`", rows))
    alike = [[key for key in some if key[1]] for some in tables.values()]
    return {f"{group}, with {', '.join(dict.fromkeys(n for n, _ in some))}": _joined(some) for some in alike if some}


def _joined(choices: list[tuple[str, list[Key]]]) -> list[Key]:
    """The rows of choices that have the same ones, but for defaults."""
    columns = zip(*(rows for _, rows in choices), strict=True)
    return [c[0] if len({repr(k.default) for k in c}) == 1 else c[0]._replace(default=VARIES) for c in columns]


def _searching() -> list[Key]:
    """The keys of our own sweeper."""
    path = CONFIGS / "hydra" / "sweeper" / "optuna.yaml"
    content, told = yaml.safe_load(path.read_text(encoding="utf-8")), _comments(path)
    kinds = {"study": str | None, "storage": str | None}
    return [
        Key(f"hydra.sweeper.{key}", kinds.get(key, type(default)), default, told.get(key, ""))
        for key, default in content.items()
        if key != "_target_"
    ]


def _choices() -> str:
    """A row a group with few files: what each of them is."""
    from peftbench.common.config_files import describe, names

    rows = ["## Choices", "", "| | is |", "|---|---|"]
    for group in CHOICES:
        for name, path in names(group, [CONFIGS]).items():
            rows.append(f"| `{group}={name}` | {describe(path)} |")
    return "\n".join(rows)


def _kind(kind: Any) -> str:
    """A type in words: `a` or `b`, a number, a list."""
    words = {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null", Any: "any"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(_kind(one) for one in inner)
    if origin is tuple:
        return f"list of {_kind(inner[0])}" if inner[-1] is ... else f"[{'; '.join(map(_kind, inner))}]"
    return "mapping" if dict in (kind, origin) else words[kind]


def _comments(path: Path) -> dict[str, str]:
    """What a YAML file says behind each key."""
    text = path.read_text(encoding="utf-8")
    return dict(re.findall(r"^ *(\w+): *[^#\n]*?# (.+)$", text, flags=re.MULTILINE))


def _comments_of_group(group: str) -> dict[str, str]:
    """What the files of a group say behind each key; what all of its choices share comes first.

    Where the choices of a group say different things of one key, each is told with the choice's name.
    """
    files = [path for path in sorted((CONFIGS / group).glob("*.yaml")) if not path.name.startswith("_")]
    said: dict[str, dict[str, list[str]]] = {}
    for path in files or [CONFIGS / "train.yaml"]:
        for key, comment in _comments(path).items():
            said.setdefault(key, {}).setdefault(comment, []).append(path.stem)
    told = {
        key: next(iter(by)) if len(by) == 1 else "; ".join(f"{', '.join(names)}: {c}" for c, names in by.items())
        for key, by in said.items()
    }
    base = CONFIGS / group / "_base.yaml"
    return told | (_comments(base) if base.is_file() else {})


def backbones() -> str:
    """One model of every module of timm."""
    sys.path[:0] = [str(ROOT / "scripts")]
    from timm_table import table

    return table()


def verbs() -> str:
    """Every verb, from the tables of the command line."""
    sys.path[:0] = [str(ROOT / "scripts")]
    from verbs_table import table

    return table()


def choosing() -> str:
    """Where to begin, with costs from the tables of other pages."""
    sys.path[:0] = [str(ROOT / "scripts")]
    from choosing import table

    return table()


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "config": config,
    "backbones": backbones,
    "verbs": verbs,
    "choosing": choosing,
}
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
    """Writes the tables, or checks them; the exit status is 1 where one is not current or lacks a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is not current")
    check = parser.parse_args().check
    stale = 0
    for key in without_sentence():
        stale = 1
        print(f"{key}: no YAML of configs/ says what it is; a comment behind the key does.")
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
