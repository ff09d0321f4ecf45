"""Composition: every shipped YAML and recipe, globs, aliases and options, and a method from outside."""

import json
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.common.config_files import names
from peftbench.common.errors import UserError
from peftbench.common.notes import Note
from peftbench.common.vtab_tasks import ALIASES, GROUPS
from peftbench.config import CONFIGS, Config
from peftbench.config.overrides import prepare
from peftbench.results.published import BACKBONE, TABLE
from support.backbones import composed
from support.places import ROOT

NEEDS = {
    "data=folder": ["data.root=photos"],
    "data=coco_folder": ["data.root=boxes"],
    "data=domain_folder": ["data.root=domains", "data.train_domains=[photo]"],
    "data=hf": ["data.root=tables"],
    "data=video_folder": ["data.root=clips"],
    "backbone=timm": ["backbone.name=resnet18"],
    "optimizer=timm": ["optimizer.name=lion"],
    "task=detection": ["data=digits_det"],
    "data=seg_folder": ["data.root=masks"],
    "task=segmentation": ["data=digits_seg"],
    "task=multilabel": ["data=digits"],
    "task=regression": ["data=digits"],
}


@pytest.mark.parametrize("group", ["method", "backbone", "data", "trainer", "optimizer", "task", "logger"])
def test_every_shipped_yaml_composes_and_is_valid(group):
    for name in names(group, [CONFIGS]):
        config = composed(f"{group}={name}", *NEEDS.get(f"{group}={name}", []))
        assert config.choices[group] == name
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "words",
    [["experiment=quickstart"], ["debug=smoke"], ["experiment=baselines_digits"], ["experiment=continual/imagenet_r"]]
    + [["protocol=vtab1k"], ["protocol=continual"], ["protocol=none"]]
    + [[f"hydra/{g}={n}"] for g in ("launcher", "sweeper") for n in names(f"hydra/{g}", [CONFIGS])],
)
def test_recipes_compose(words):
    peftbench.compose(*words)


def test_every_experiment_and_debug_recipe_is_among_the_tested():
    recipes = {*names("experiment", [CONFIGS]), *names("debug", [CONFIGS])}
    assert recipes == {"quickstart", "baselines_digits", "smoke", "vtab1k", "continual/imagenet_r"}


@pytest.mark.parametrize("method", names("method", [CONFIGS]))
def test_the_recipe_of_vtab_takes_any_method_and_its_old_names_work(method):
    config = peftbench.compose("experiment=vtab1k", f"method={method}")
    assert (config.method.name, config.trainer.epochs) == (method, 100)
    assert config.backbone.name == BACKBONE
    assert peftbench.compose(f"experiment=vtab1k/{method}") == config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["experiment=vtab1k/lora"], ["experiment=vtab1k", "method=lora"]),
        (["experiment=vtab1k/lora,vtab1k/losa"], ["experiment=vtab1k", "method=lora,losa"]),
        (["experiment=vtab1k/lora", "method=cst"], ["experiment=vtab1k", "method=cst"]),
        (["experiment=glob(vtab1k/l2*)"], ["experiment=vtab1k", "method=l2sp"]),
    ],
)
def test_a_recipe_of_a_method_is_the_recipe_and_the_method(old, new):
    assert prepare(old) == new


def test_an_old_recipe_of_no_method_is_answered_with_the_methods():
    with pytest.raises(peftbench.UserError, match=r"^method=lorra: there is no such method \(did you mean 'lora'\?\)"):
        prepare(["experiment=vtab1k/lorra"])


def test_the_recipe_of_vtab_runs_all_tasks_and_the_page_says_what_to_expect():
    recipe = yaml.safe_load((CONFIGS / "experiment/vtab1k.yaml").read_text())
    assert recipe["hydra"]["sweeper"]["params"]["data"].split(",") == [
        f"vtab/{t}" for group in GROUPS.values() for t in group
    ]
    page = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \| .* FLOP.* \|$", page, flags=re.MULTILINE))
    for row in TABLE:
        assert f"mean {row.mean:.1f}" in told[row.method]
        assert f"{row.natural:.1f} / {row.specialized:.1f} / {row.structured:.1f}" in told[row.method]
    for method in set(told) - {r.method for r in TABLE}:
        assert not re.search(r"\d\d\.\d", told[method]), "nothing that was not verified"


def test_every_backbone_names_weights_that_exist_and_its_family():
    for name, path in names("backbone", [CONFIGS]).items():
        content = yaml.safe_load(path.read_text())
        if name == "timm":
            continue
        assert content["family"] in ("vit", "cnn", "hybrid", "hierarchical_vit"), name
        if "weights" not in content:
            assert content["name"] in timm.list_pretrained(), f"{name}: {content['name']}"


def test_vtab_has_nineteen_tasks_each_with_its_yaml():
    tasks = [t for group in GROUPS.values() for t in group]
    assert len(tasks) == 19
    assert {f"vtab/{t}" for t in tasks} == {n for n in names("data", [CONFIGS]) if n.startswith("vtab/")}
    assert set(ALIASES.values()) <= set(tasks)


def test_a_glob_reaches_nested_groups():
    (word,) = prepare(["data=glob(vtab/*)"])
    assert len(word.removeprefix("data=").split(",")) == 19
    (word,) = prepare(["data=glob(vtab/*, exclude=vtab/d*)"])
    assert len(word.split(",")) == 14


@pytest.mark.parametrize("alias", ALIASES)
def test_vtab_aliases_compose_to_the_canonical_name(alias):
    assert prepare([f"data=vtab/{alias}"]) == [f"data=vtab/{ALIASES[alias]}"]


def test_options_reach_the_config_and_lists_may_be_given():
    config = peftbench.compose("method=lora", "method.rank=4", "method.layers=['*qkv']", "optimizer.lr=2e-3")
    own = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "layers": ["*qkv"]}
    assert config.method.options == own | {"rslora": False, "dora": False, "init": "zero", "lr_ratio": 1.0}
    assert config.optimizer.lr == 2e-3


def test_each_method_brings_its_own_learning_rate_and_the_command_line_wins():
    assert peftbench.compose("method=full").optimizer.lr == 1e-4
    assert peftbench.compose("method=linear").optimizer.lr == 3e-3
    assert peftbench.compose("method=full", "optimizer=sgd").optimizer.lr == 0.01
    assert peftbench.compose("method=full", "optimizer.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize("known", ["method=lora", "backbone=vit_b", "data=vtab/cifar", "trainer=ddp"])
@settings(max_examples=40, deadline=None)
@given(noise=st.text("abcxyz_/0.", min_size=1, max_size=6))
def test_an_unknown_choice_is_one_sentence(known, noise):
    group, _, value = known.partition("=")
    if value + noise in names(group, [CONFIGS]) or noise.strip("/") == "":
        return
    with pytest.raises(peftbench.UserError) as mistake:
        peftbench.compose(f"{group}={value}{noise}")
    assert group in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_method_from_outside_is_composed_checked_and_run(cli, monkeypatch, tmp_path):
    """No fork: a module on the path, a YAML in a folder, and --config-dir."""
    (tmp_path / "mymethods.py").write_text(
        "from dataclasses import dataclass\n"
        "from peftbench.methods.base import Method, freeze\n\n"
        "@dataclass(frozen=True)\n"
        "class Norms(Method):\n"
        "    '''Only norms train.'''\n"
        "    kind: str = 'all'\n\n"
        "    def adapt(self, backbone, plan):\n"
        "        freeze(backbone)\n"
        "        for name, p in backbone.named_parameters():\n"
        "            p.requires_grad = 'norm' in name or '.bn' in name\n"
    )
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "norms.yaml").write_text(
        "# Norms\nname: norms\npath: mymethods.Norms\nlr: 1.0e-3\nkind: all\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--config-dir", str(tmp_path), "method=norms", "debug=smoke", "data=digits", f"output_dir={tmp_path}/out"]
    try:
        status, _, told = cli(*words)
        assert status == 0, told
        assert list((tmp_path / "out").glob("norms-*/result.json"))
        status, planned, told = cli("plan", *words)
        assert (status, told) == (0, "")
        assert "parameters of the method" in planned
        of_number = (
            "method.kind=3: expected a valid string; it is read as a number; for text write \"method.kind='3'\"."
        )
        assert cli(*words, "method.kind=3")[::2] == (2, f"peftbench: {of_number}\n")
    finally:
        sys.modules.pop("mymethods", None)


def test_threads_compose_at_once():
    ranks, wrong = range(1, 9), ("method=lroa", "backbone=vit_nan", "method.rnk=3")
    with ThreadPoolExecutor(4) as pool:
        mistakes = pool.map(_mistake, wrong)
        configs = pool.map(lambda r: peftbench.compose("method=lora", f"method.rank={r}", "backbone=vit_nano"), ranks)
        assert [c.method.options["rank"] for c in configs] == list(ranks)
        for word, mistake in zip(wrong, mistakes, strict=True):
            assert word.rpartition("=")[0].removeprefix("method.") in mistake


def _mistake(words):
    with pytest.raises(peftbench.UserError) as mistake:
        peftbench.compose(*words.split())
    return str(mistake.value)


def test_a_hydra_application_may_compose_while_it_runs(tmp_path):
    """Its Hydra, its config and the version that it asked for are there after as before."""
    (tmp_path / "app.yaml").write_text("mine: 3\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        theirs, base = GlobalHydra.instance().hydra, version.getbase()
        assert peftbench.compose("method=lora", "backbone=vit_nano").method.name == "lora"
        assert "lroa" in _mistake("method=lroa")
        assert GlobalHydra.instance().hydra is theirs
        assert version.getbase() == base
        assert hydra_compose("app").mine == 3
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("words", [["data=photos"], []])
def test_own_images_under_the_name_of_the_shipped_ones_are_noted(words):
    with pytest.warns(Note, match=r"for your own images: data=folder data.root=/mine$") as told:
        peftbench.compose(*words, "data.root=/mine")
    assert "nothing is held out to validate on" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peftbench.compose(*words)
        peftbench.compose("data=folder", "data.root=/mine")
        peftbench.compose("data=vtab/cifar", "data.root=/mine")


@pytest.mark.parametrize(
    ("words", "trackers"),
    [
        ([], {"csv"}),
        (["logger=none"], set()),
        (["logger=[]"], set()),
        (["logger=[wandb,tensorboard]", "logger.project=x"], {"wandb", "tensorboard"}),
        (["logger=mlflow", "logger.mlflow.experiment=x"], {"mlflow"}),
        (["logger.name=wandb", "logger.wandb.project=x"], {"wandb"}),
    ],
    ids=lambda part: " ".join(sorted(part)) or "none",  # in one order in every process
)
def test_one_logger_several_or_none(words, trackers):
    chosen = {name: keys for name, keys in peftbench.compose(*words).to_dict()["logger"].items() if keys is not None}
    assert set(chosen) == trackers
    if len(words) > 1:
        assert "x" in [value for keys in chosen.values() for value in keys.values()]


def test_a_config_of_one_logger_is_read_as_it_was_meant():
    values = peftbench.compose("data=digits").to_dict()
    once = {"name": "wandb", "project": "x", "group": None, "tags": ["a"]}
    wandb = Config.from_dict({**values, "logger": once}).logger.wandb
    assert (wandb.project, wandb.tags) == ("x", ("a",))
    assert (
        Config.from_dict({**values, "logger": {**once, "name": "none"}}).logger
        == peftbench.compose("logger=none").logger
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["logger.project=x"], "logger.project (or logger.wandb.project): there is no such key; the logger wandb is"),
        (["logger.tags=[a]"], "give logger=[csv,wandb]"),
        (["logger.mlflow.experiment=x"], "logger.mlflow.experiment: there is no such key; the logger mlflow is not"),
        (["logger=[csv,wandbb]"], "did you mean 'wandb'"),
        (["logger=[csv,wandb]", "logger.wandb.projct=x"], "did you mean 'logger.wandb.project'"),
    ],
    ids=str,
)
def test_a_mistake_among_several_loggers_is_named(words, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        peftbench.compose(*words)
