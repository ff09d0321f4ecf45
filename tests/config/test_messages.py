"""Whatever stands at a key of a section, it is accepted, or refused in one sentence of our own."""

import copy
import math
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.common.errors import UserError
from peftbench.config import SECTIONS, validate, validate_study

BASES = (
    ("data=digits", "method=losa", "pruning=unstructured"),
    ("data=digits_det", "method=cst", "optimizer=sgd"),
    ("data=photos", "method=petah", "optimizer=ftp"),
)
THEIRS = ("Input should", "validation error", "pydantic", "Field required", "Tuple should", "another value", "\n")

text = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**300, 10**400),
    st.floats(),
    st.sampled_from([0, -1, 1, 0.5, 1.5, math.nan, math.inf]),
    text,
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=2), max_leaves=6
)


@cache
def composed(base: tuple[str, ...]) -> dict:
    """The mapping that Hydra composes for these words."""
    values = peftbench.compose(*base).to_dict()
    del values["choices"], values["protocol"]
    for section in ("method", "data"):
        values[section] |= values[section].pop("options")
    return values


def refusal(check: Callable[[], object]) -> str | None:
    """What the user is told, None where nothing is refused."""
    try:
        check()
    except UserError as mistake:
        return str(mistake)
    return None


@pytest.mark.parametrize("base", BASES, ids=" ".join)
@pytest.mark.parametrize("section", SECTIONS)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_at_any_key_is_accepted_or_refused_in_one_sentence_of_ours(base, section, data):
    values = copy.deepcopy(composed(base))
    key = data.draw(st.sampled_from(sorted(values[section])))
    values[section][key] = value = data.draw(anything)
    sentence = refusal(lambda: validate(values))
    if sentence is None:
        return
    assert section in sentence
    if sentence.startswith(f"{section}.{key}=") and isinstance(value, str | bool | None):
        shown = (str(value).lower(), repr(value).strip("'\"").lower())  # rules say a word as it is, bounds its repr
        assert any(form in sentence.lower() for form in shown)
    assert not [words for words in THEIRS if words in sentence]
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("section", "key"),
    [("sweep", k) for k in ("together", "retry", "grid")] + [("protocol", k) for k in ("name", "trials", "seeds")],
)
@settings(deadline=None, max_examples=40)
@given(value=anything)
def test_the_sections_of_a_sweep_too(section, key, value):
    sections = {"sweep": {}, "protocol": {}} | {section: {key: value}}
    sentence = refusal(lambda: validate_study(**sections)) or f"{section}.{key}="
    assert sentence.startswith(f"{section}.{key}=")
    assert not [words for words in THEIRS if words in sentence]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("trainer.epochs", 0, "trainer.epochs=0: expected at least 1."),
        ("trainer.max_batches", -2, "trainer.max_batches=-2: expected at least 1."),
        ("trainer.clip", 0, "trainer.clip=0.0: expected a number above 0, or null."),
        ("trainer.epochs", [1], "trainer.epochs=[1]: expected a whole number."),
        ("optimizer.kappa", -1, "optimizer.kappa=-1.0: expected a number from 0 to 1."),
        ("optimizer.lr", 0, "optimizer.lr=0.0: expected a number above 0."),
        ("optimizer.lr", math.nan, "optimizer.lr=nan: expected a finite number."),
        ("optimizer.betas", [2, 3], "optimizer.betas=[2.0, 3.0]: expected numbers at least 0 and below 1."),
        ("optimizer.betas", [0.9], "optimizer.betas=[0.9]: expected a list of 2."),
        ("optimizer.betas", [0.9, 0.9, 0.9], "optimizer.betas=[0.9, 0.9, 0.9]: expected a shorter list."),
        ("optimizer.momentum", 1, "optimizer.momentum=1.0: expected at least 0 and below 1."),
        ("optimizer.warmup", 1, "optimizer.warmup=1.0: expected a share, at least 0 and below 1."),
        ("optimizer.norm", "l3", "optimizer.norm='l3': expected 'mars' or 'l2'."),
        ("data.workers", -1, "data.workers=-1: expected 0 or more, or 'auto'."),
        ("data.size", "large", "data.size='large': expected a whole number or a list."),
        ("data.size", [64, 0], "data.size=[64, 0]: expected at least 1."),
        ("data.size", [64], "data.size=[64]: expected a whole number or a list of 2."),
        ("data.tasks", [], "data.tasks=[]: expected a longer list."),
        ("data.tasks", [1], "data.tasks=[1]: expected a valid string."),
        ("task.label_smoothing", 2, "task.label_smoothing=2.0: expected a share, at least 0 and below 1."),
        ("task.path", "..", "task.path=..: .. is no module that can be imported; expected the import path of a "
         "package with schema.py and task.py, such as peftbench.tasks.classification."),
        ("logger.wandb", {"project": "\ud800"}, "logger.wandb.project=\\ud800: is no text in UTF-8, which a "
         "config has to be; give the folder or file another name, or a link to it."),
        ("logger.wandb", {"projct": "x"}, "logger.wandb.projct: there is no such key (did you mean 'project'?); known "
         "here: group, project, tags."),
        ("logger.wandb", 5, "logger.wandb=5: expected a mapping of keys; logger=wandb chooses it."),
        ("logger.name", "comet", "logger.name='comet': expected none, csv, wandb, tensorboard, mlflow."),
        ("backbone.args", {"a": {1}}, "backbone.args={'a': {1}}: expected numbers, strings, true, false, null, or "
         "lists and mappings of them."),
    ],
    ids=str,
)  # fmt: skip
def test_the_sentence_of_a_value(key, value, sentence):
    section, _, name = key.partition(".")
    values = copy.deepcopy(composed(BASES[0]))
    values[section][name] = value
    with pytest.raises(UserError) as mistake:
        validate(values)
    assert str(mistake.value) == sentence


def test_a_number_that_nobody_can_print_is_told_by_its_type():
    values = copy.deepcopy(composed(BASES[0]))
    values["trainer"]["epochs"] = 10**5000
    with pytest.raises(UserError, match=r"^trainer\.epochs=<int>: expected "):
        validate(values)


def test_a_key_that_is_missing_is_named():
    values = copy.deepcopy(composed(BASES[0]))
    del values["optimizer"]["lr"]
    with pytest.raises(UserError, match=r"^optimizer\.lr: is missing; expected a value\.$"):
        validate(values)


def test_a_number_that_no_float_holds_is_refused_as_it_was_given():
    values = copy.deepcopy(composed(BASES[0]))
    values["optimizer"]["betas"] = [-1, 10**400]
    assert refusal(lambda: validate(values)) == (
        f"optimizer.betas=[-1.0, 1{'0' * 400}]: expected numbers at least 0 and below 1."
    )
