"""The rules of the tree: one direction of imports, one place for each dependency, cheap answers without torch."""

import ast
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.config import CONFIGS
from peftbench.config.declared_fields import declared
from peftbench.config.groups import describe, names

SOURCE = Path(__file__).parents[1] / "src" / "peftbench"
# A module imports from floors below its own, and from its own package.
FLOORS = [
    {"common"},
    {"config", "taps", "results"},
    {"optim", "backbones", "data"},
    {"pruning", "methods", "tasks"},
    {"models"},
    {"deltas", "costs"},
    {"training"},
    {"runs"},
    {"sweeps", "tuned"},
    {"api"},
    {"cli"},
]
# Only these packages, or files, may import a library.
OWNERS = {
    "hydra": {"config", "cli"},
    "lightning": {"training"},
    "timm": {"backbones"},
    "wandb": {"runs/loggers.py"},
    "av": {"data"},
    "omegaconf": {"config", "cli"},
    "optuna": {"cli"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "peftbench" else {node.module}
    return found


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = [p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_go_one_way_and_each_dependency_has_its_place(path):
    floor = {name: i for i, names_ in enumerate(FLOORS) for name in names_}
    mine = package(path)
    for module in imports(path):
        root, _, rest = module.partition(".")
        if root in OWNERS:
            assert {mine, path.relative_to(SOURCE).as_posix()} & OWNERS[root], f"{mine} imports {module}"
        if root == "peftbench" and rest and (theirs := rest.partition(".")[0]) in floor and theirs != mine:
            assert floor[theirs] < floor[mine], f"{mine} imports {module}"


def test_no_source_file_is_longer_than_400_lines():
    long = {p.relative_to(SOURCE).as_posix(): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


CHEAP = [
    ["--help"],
    ["list", "backbones"],
    ["--cfg", "job"],
    ["method=lorra"],
    ["method.rank=abc"],
    ["method.rnk=3"],
    ["task=detection"],
    ["trainer.precision=16", "trainer.accelerator=cpu"],
]
ASK = """
import json, sys
from peftbench.cli.main import main
imported = []
for words in json.loads(sys.argv[1]):
    main(words)
    imported.append('torch' in sys.modules)
    sys.modules.pop('torch', None)
print(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def torch_imported():
    """By the words of each cheap answer: whether torch was imported; one fresh process gives them all."""
    command = [sys.executable, "-c", ASK, json.dumps(CHEAP)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout.splitlines()[-1])
    return {tuple(words): answer for words, answer in zip(CHEAP, imported, strict=True)}


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_cheap_answers_do_not_import_torch(words, torch_imported):
    assert torch_imported[tuple(words)] is False


def classes() -> list[str]:
    """The import paths of every shipped method and data set."""
    import yaml

    found = set()
    for group in ("method", "data"):
        for path in names(group, [CONFIGS]).values():
            content = yaml.safe_load(path.read_text())
            found.add(content.get(group, content)["path"])
    return sorted(found)


@pytest.mark.parametrize("path", classes())
def test_fields_read_from_source_are_those_of_the_imported_class(path):
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    ours = declared(path, "path")
    theirs = {f.name: ... if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(kind)}
    assert {n: d for n, (_, d) in ours.items()} == theirs


@pytest.mark.parametrize(
    "group",
    [
        *("method", "backbone", "data", "trainer", "optimizer", "task", "logger", "experiment", "protocol"),
        *("hydra/launcher", "hydra/sweeper"),
    ],
)
def test_every_yaml_says_what_it_is(group):
    for name, path in names(group, [CONFIGS]).items():
        assert len(describe(path)) > 10, f"{group}/{name} has no describing first line"


def test_a_method_is_one_file_and_one_yaml():
    """What a method shares with its variants may be a package of its own; `shared` is what several methods share."""
    files = {p.stem for p in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    files |= {p.parent.name for p in (SOURCE / "methods").glob("*/__init__.py")} - {"shared"}
    assert set(names("method", [CONFIGS])) == files


# Outside methods/ nothing asks for a method by name or class. `lora` is also the kind of a layer of SPT's plan, and the
# published numbers are a table of methods.
METHODS, OPTIMIZERS = (set(names(group, [CONFIGS])) for group in ("method", "optimizer"))
NAMES_A_METHOD = {"results/layers.py": {"lora"}, "results/published.py": METHODS}


@pytest.mark.parametrize(
    "path", [p for p in FILES if package(p) != "methods"], ids=lambda p: p.relative_to(SOURCE).as_posix()
)
def test_outside_methods_nothing_names_a_method(path):
    modules = {m for m in imports(path) if m.startswith("peftbench.methods.")}
    others = {m for m in modules if m.split(".")[2] not in ("base", "shared")}
    assert not others, f"{path} imports {others}; ask an attribute of Method"
    allowed = NAMES_A_METHOD.get(path.relative_to(SOURCE).as_posix(), set()) | OPTIMIZERS
    constants = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
    named = {v for v in constants if isinstance(v, str) and v in METHODS} - allowed
    assert not named, f"{path} names {named}; ask an attribute of Method"
