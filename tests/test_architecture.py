"""The rules of the tree: one direction of imports, one place for each dependency, cheap answers without torch."""

import ast
import dataclasses
import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from peftbench.cli.arguments import Command
from peftbench.cli.verbs import VERBS, command_of
from peftbench.common.config_files import describe, names
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config import CONFIGS
from peftbench.config.declared_fields import declared

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
    {"answering", "serving"},
    {"api", "errors"},
    {"cli"},
    {"__main__"},
]
# Only these packages, or files, may import a library.
OWNERS = {
    "hydra": {"config", "cli"},
    "lightning": {"training", "runs/loggers.py"},
    "timm": {"backbones", "optim/timm_optimizers.py"},
    "wandb": {"runs/loggers.py"},
    "tensorboard": {"runs/loggers.py"},
    "mlflow": {"runs/loggers.py"},
    "av": {"data"},
    "pillow_heif": {"data"},
    "omegaconf": {"config", "cli"},
    "optuna": {"cli"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
}


@cache
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


DECLARED = [command_of(verb) for verb in VERBS]
COMMANDS = [c for entry in DECLARED for c in ([entry] if isinstance(entry, Command) else entry.commands)]
CHEAP = [
    ["--help"],
    ["list", "backbones"],
    ["--cfg", "job"],
    ["method=lorra"],
    ["method.rank=abc"],
    ["method.rnk=3"],
    ["epochs=3"],
    ["optimizer.learning_rate=1"],
    ["backbone.weights=random"],
    ["data=folder", "data.root=~/photos", "seed=-1"],
    ["-m"],
    ["task=detection"],
    ["trainer.precision=16", "trainer.accelerator=cpu"],
    *([*command.name.split(), "--help"] for command in COMMANDS),
    ["completion", "bash"],
    ["completion", "words", "--", ""],
    ["completion", "words", "--", "method=losa", "method.tap"],
    ["completion", "words", "--", "predict", "run="],
]
ASK = """
import json, sys
from peftbench.cli.main import main
imported = []
for words in json.loads(sys.argv[1]):
    main(words)
    imported.append('torch' in sys.modules)
print(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def torch_imported():
    """By the words of each cheap answer: whether torch was imported by then, in one process that gives them all."""
    command = [sys.executable, "-c", ASK, json.dumps(CHEAP)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout.splitlines()[-1])
    return {tuple(words): answer for words, answer in zip(CHEAP, imported, strict=True)}


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_cheap_answers_do_not_import_torch(words, torch_imported):
    assert torch_imported[tuple(words)] is False


def classes() -> list[str]:
    """The import paths of every shipped method and data set."""
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


def test_a_method_is_one_file_and_each_of_its_published_names_one_yaml():
    """What a method shares with its variants may be a package of its own; `shared` is what several methods share."""
    files = {p.stem for p in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    packages = {p.parent.name for p in (SOURCE / "methods").glob("*/__init__.py")} - {"shared"}
    yamls = names("method", [CONFIGS])
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in yamls.values()]
    used = {content.get("method", content)["path"].split(".")[2] for content in contents}
    assert files <= used <= files | packages, "each file is the class of some YAML"
    assert files | packages <= set(yamls), "and has one of its own name"


# Outside methods/ nothing asks for a method by name or class. `lora` is also the kind of a layer of SPT's plan, `mlp`
# that of a backbone's layer, `adapter` a format of export, `rslora` an option of PETAH, and the published numbers are a
# table of methods.
METHODS, OPTIMIZERS = (set(names(group, [CONFIGS])) for group in ("method", "optimizer"))
NAMES_A_METHOD = {
    "results/layers.py": {"lora"},
    "backbones/layers.py": {"mlp"},
    "backbones/facts.py": {"mlp"},
    "results/published.py": METHODS,
}
NAMES_A_METHOD |= {"config/first_keys.py": {"rslora"}}
NAMES_A_METHOD |= {path: {"adapter"} for path in ("cli/predict.py", "tuned/run_folder.py")}
# A decoder of that name.
NAMES_A_METHOD |= {f"tasks/segmentation/{name}.py": {"linear"} for name in ("schema", "decoders", "results")}


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


# Outside tasks/ nothing asks for a task by name: `config` and `results` look it up at run time. Records of the first
# version named no task, and an id's first keys are a table of what that version knew.
NAMES_A_TASK = {"results/task_results.py": {"classification"}, "config/first_keys.py": set(shipped_tasks())}
NAMES_A_TASK |= {
    f"data/{name}.py": {"segmentation"} for name in ("annotations", "digits_det", "segments")
}  # a key of COCO's files


@pytest.mark.parametrize(
    "path", [p for p in FILES if package(p) != "tasks"], ids=lambda p: p.relative_to(SOURCE).as_posix()
)
def test_outside_tasks_nothing_names_a_task(path):
    modules = {m for m in imports(path) if m.startswith("peftbench.tasks.") and m.split(".")[2] in shipped_tasks()}
    assert not modules, f"{path} imports {modules}; ask an attribute of Task"
    constants = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
    named = constants & set(shipped_tasks()) - NAMES_A_TASK.get(path.relative_to(SOURCE).as_posix(), set())
    assert not named, f"{path} names {named}; ask an attribute of Task"


def test_what_config_and_results_ask_of_a_task_is_free_of_torch():
    code = """
import sys
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config import task_schema
from peftbench.results import results_of
for name in shipped_tasks():
    assert task_schema({"name": name}).section and results_of({"task": {"name": name}}).metric
print(sorted({"torch", "timm", "lightning"} & set(sys.modules)), shipped_tasks())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] {'classification': 'peftbench.tasks.classification', 'detection'"), done.stdout


# A name that says as little as these says of what: `run` is what `peftbench.run` is, which carries `runs.run.run` out
# and writes the page.
SAYS_LITTLE = {"together", "run", "check", "read", "write"}


def test_names_of_modules_and_public_functions_say_of_what():
    functions, modules = [], []
    for path in FILES:
        name = path.relative_to(SOURCE).as_posix()
        modules += [name] if path.stem in SAYS_LITTLE else []
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name in SAYS_LITTLE:
                functions.append(f"{name}: {node.name}")
    assert modules == ["runs/run.py"]
    assert sorted(functions) == ["api.py: run", "runs/run.py: run"]
