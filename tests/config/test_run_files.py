"""A run's `config.yaml` is data: what it names is looked up by name, and no import path in it is followed."""

import sys
from dataclasses import replace

import pytest
import yaml

import peftbench
from peftbench.common.errors import UserError
from peftbench.config import CONFIGS, restored

TASK = """
from pydantic.dataclasses import dataclass
from peftbench.config.task_schema import STRICT, TaskSchema, TaskSection

@dataclass(config=STRICT, frozen=True, kw_only=True)
class Toy(TaskSection):
    name: str
    scale: float = 1.0

SCHEMA = TaskSchema(section=Toy, augmentations=("none",), check=lambda config: None)
"""


@pytest.fixture
def run_file(tmp_path):
    """`run_file({"task.path": "evil"})` writes a run's config with other values under dotted keys."""

    def write(changes: dict, *words: str):
        values = peftbench.compose("method=linear", "data=digits", *words).to_dict()
        for key, value in changes.items():
            section, _, name = key.partition(".")
            if value is ...:
                del values[section][name]
            else:
                values[section][name] = value
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(name)` makes a package for a task which notes in `<name>.imported` that somebody imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name: str):
        (tmp_path / name).mkdir()
        mark = tmp_path / f"{name}.imported"
        (tmp_path / name / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        (tmp_path / name / "schema.py").write_text(TASK)
        made.append(name)
        return mark

    yield make
    for name in [n for n in sys.modules if n.partition(".")[0] in made]:
        del sys.modules[name]


def test_a_config_comes_back_as_it_was(run_file):
    for words in (["method=lora", "data=vtab/cifar"], ["method=spt", "data=digits_det"]):
        path = run_file({}, *words)
        assert restored(path).to_dict() == yaml.safe_load(path.read_text())


@pytest.mark.parametrize("key", ["task.path", "method.path", "data.path"])
def test_a_foreign_import_path_is_not_followed(run_file, package, key):
    mark = package("foreign")
    config = restored(run_file({key: "foreign.schema.Toy" if key != "task.path" else "foreign"}))
    assert config == restored(run_file({}))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["toy", "", None, ["toy"], {"a": 1}])
def test_a_task_that_no_yaml_names_is_refused_and_nothing_is_imported(run_file, package, name):
    mark = package("foreign")
    path = run_file({"task.path": "foreign", "task.name": name})
    with pytest.raises(UserError) as refusal:
        restored(path)
    assert str(refusal.value) == (
        f"{path}: task.name={name}: there is no YAML of this task; a task of your own needs --config-dir DIR, in "
        f"Python config_dir=DIR."
    )
    assert not mark.exists()


def test_a_task_of_the_user_s_own_comes_from_his_yaml(run_file, package, tmp_path):
    foreign, mine = package("foreign"), package("mine")
    (tmp_path / "own" / "task").mkdir(parents=True)
    (tmp_path / "own" / "task" / "toy.yaml").write_text("# A toy\nname: toy\npath: mine\n")
    of_another = {f"task.{key}": ... for key in ("label_smoothing", "class_weights", "focal_gamma")}
    path = run_file({"task.path": "foreign", "task.name": "toy", "data.tasks": ["toy"], **of_another})
    config = restored(path, [tmp_path / "own"])
    assert (config.task.name, config.task.path, config.task.scale) == ("toy", "mine", 1.0)
    assert mine.exists()
    assert not foreign.exists()


def test_a_data_set_that_no_yaml_names_is_not_asked_for(run_file, package):
    mark = package("foreign")
    config = restored(run_file({"data.name": "mine", "data.path": "foreign.schema.Toy"}))
    assert (config.data.name, config.data.path) == ("mine", "")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["lorra", None, ["lora"]])
def test_a_method_that_no_yaml_names_is_refused(run_file, name):
    with pytest.raises(UserError, match=r"method\.name=.*: there is no YAML of this method"):
        restored(run_file({"method.name": name}))


# -- versions in which a data set had one task


def test_a_run_of_a_version_in_which_a_data_set_had_one_task_is_read(run_file):
    today = restored(run_file({}))
    older = restored(run_file({"data.tasks": ..., "data.task": "classification"}))
    assert older.data.tasks == ("classification",)
    assert replace(older, data=replace(older.data, tasks=today.data.tasks)) == today


def test_a_yaml_that_names_one_task_is_read(tmp_path):
    """Such a YAML takes `tasks` from the base that peftbench ships; what it says itself counts."""
    text = (CONFIGS / "data" / "digits_det.yaml").read_text()
    assert "  tasks: [detection]\n" in text
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(text.replace("  tasks: [detection]\n", "  task: detection\n"))
    config = peftbench.compose("data=digits_det")
    older = compose_with(tmp_path, "data=mine")
    assert older.data == config.data


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data=digits", "task=detection"], "task=detection: data=digits is made for task=classification or "
         "multilabel or regression; leave task= out, the data set chooses it."),
        (["data=digits_det", "data.tasks=[a,b]"], "task=detection: data=digits_det is made for task=a or b; leave "
         "task= out, the data set chooses it."),
        (["data=digits", "+data.task=3"], "data.tasks=[3]: expected a valid string."),
    ],
)  # fmt: skip
def test_a_task_that_a_data_set_does_not_serve_is_told(words, sentence):
    with pytest.raises(UserError) as refusal:
        peftbench.compose(*words)
    assert str(refusal.value) == sentence


def compose_with(folder, *words):
    """As `--config-dir folder` composes."""
    from hydra import compose, initialize_config_dir

    from peftbench.config.compose import checked

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = [*words, f"hydra.searchpath=[file://{folder}]"]
        composed = compose("train", overrides=words, return_hydra_config=True)
        return checked(composed, composed.hydra.runtime.choices)
