"""Methods by backbone, headings in the user's words, LaTeX's labels, and what a report says of how it was made."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.results.row_names import Trait, names_of
from support.reports import record, tell, write

WORDS = {"vit_b": "vit_base_patch16_224.orig_in21k", "resnet50": "resnet50.a1_in1k"}


def on(backbone, method, seed, accuracy, task="digits", name=None, **more):
    """A run on a backbone that the user calls `backbone`; timm calls it `name`."""
    name = name or WORDS[backbone]
    changes = {"config__choices": {"method": method, "backbone": backbone, "data": task},
               "stamps__backbone__name": name, "stamps__backbone__fingerprint": name.encode().hex().ljust(64, "0"),
               "stamps__data__images": {"test": 599}}  # fmt: skip
    each = record(method, task, seed, accuracy, **changes | more)
    return each | {"id": f"{method}-{backbone}-{task}-s{seed}-{len(more)}"}


@pytest.fixture
def two_backbones(tmp_path):
    """Two methods on two backbones: lora is far better than linear on one, and not told from it on the other."""
    figures = {"vit_b": {"lora": (0.9, 0.91, 0.92), "linear": (0.6, 0.61, 0.62)},
               "resnet50": {"lora": (0.7, 0.72, 0.74), "linear": (0.74, 0.71, 0.74)}}  # fmt: skip
    for backbone, by_method in figures.items():
        for method, values in by_method.items():
            write(tmp_path, *(on(backbone, method, seed, value) for seed, value in enumerate(values)))
    return tmp_path


def table(shown, title):
    return next(part for part in shown.split("\n## ") if part.startswith(title))


def test_methods_stand_by_backbone_with_the_best_of_each_in_bold(two_backbones):
    shown = table(tell("report", two_backbones, "--format=markdown"), "digits: methods by backbone, accuracy %")
    assert "| method | resnet50<br>599 images | vit\\_b<br>599 images |" in shown.replace("vit_b", "vit\\_b")
    assert "| linear | **73.0 ± 4.3** | 61.0 ± 2.5 |" in shown
    assert "| lora | 72.0 ± 5.0‡ | **91.0 ± 2.5** |" in shown
    assert "Not compared" not in shown
    latex = tell("report", two_backbones, "--format=latex")
    assert r"linear & \textbf{73.0 $\pm$ 4.3} & 61.0 $\pm$ 2.5 \\" in latex


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stamps__data__hash": "other"}, "resnet50, another split"),
        ({"stamps__data__stage": "fit"}, "resnet50, trained on train"),
        ({"stamps__data__split": "digits@ours"}, "resnet50, split ours"),
    ],
)
def test_other_images_are_not_put_beside_and_named(change, named, tmp_path):
    write(tmp_path, on("vit_b", "lora", 0, 0.9), on("resnet50", "lora", 0, 0.8, **change))
    assert "by backbone" not in tell("report", tmp_path, "--format=markdown")
    write(tmp_path, on("hybrid", "lora", 0, 0.7, name="hybrid"))
    shown = table(tell("report", tmp_path, "--format=markdown"), "digits: methods by backbone")
    assert f"Not compared: {named}." in shown
    assert "| lora |" in shown
    assert "80.0" not in shown


def test_a_setting_that_test_images_chose_is_named_beside_its_figure(tmp_path):
    for backbone in ("vit_b", "resnet50"):
        for rate in (1e-3, 1e-2):
            each = on(backbone, "lora", 0, 0.5 + rate, config__optimizer__lr=rate)
            write(tmp_path, each | {"id": f"{backbone}-{rate}"})
    shown = table(tell("report", tmp_path, "--format=markdown"), "digits: methods by backbone")
    assert "The settings of lora lr=0.01 on " in shown
    assert "chosen on test: optimistic" in shown


def test_headings_are_the_users_words_and_more_where_these_are_the_same(two_backbones):
    titles = re.findall(r"^## (.*)", tell("report", two_backbones, "--format=markdown"), re.M)
    assert {"resnet50 on digits", "Apart: vit\\_b on digits"} <= {re.sub("vit_b", r"vit\\_b", t) for t in titles}
    write(two_backbones, on("vit_b", "lora", 0, 0.5, stamps__backbone__weights="my.safetensors"))
    write(two_backbones, on("vit_b", "full", 0, 0.5, stamps__data__stage="fit"))
    shown = tell("report", two_backbones, "--format=markdown").replace("\\_", "_")
    titles = [title.removeprefix("Apart: ") for title in re.findall(r"^## (.*)", shown, re.M)]
    ours = {title for title in titles if title.startswith("vit_b")}
    assert len(ours) == 3
    assert "vit_b (weights my.safetensors) on digits" in ours
    assert "vit_b (weights hub, trained on train) on digits" in ours
    assert "resnet50 on digits" in titles
    assert f"All runs: {WORDS['resnet50']}, 224 px, bicubic, trained on train and val." in shown


def test_every_table_of_latex_has_a_label_that_does_not_depend_on_what_is_beside(two_backbones):
    def labels():
        text = tell("report", two_backbones, "--format=latex")
        found = re.findall(r"\\label\{tab:([a-z0-9-]+)\}", text)
        assert len(found) == text.count(r"\begin{table}") == len(set(found))
        for line in text.splitlines():
            assert line.count("{") == line.count("}")
        return set(found)

    before = labels()
    assert {"vit-b-accuracy", "resnet50-accuracy", "vit-b-accuracy-differences", "digits-accuracy-backbones"} <= before
    write(two_backbones, on("vit_b", "lora", 0, 0.5, task="photos"), on("resnet50", "full", 0, 0.5))
    assert before <= labels()


def test_a_report_says_from_when_and_which_code_it_is(tmp_path):
    commits = {"a" * 40: "2026-11-01T10:00:00Z", "b" * 40 + "+": "2026-11-29T23:59:59Z", "c" * 40: None}
    for seed, (commit, ended) in enumerate(commits.items()):
        stamps = {"stamps__commit": commit, "stamps__ended": ended}
        write(tmp_path, record("lora", seed=seed, **stamps))
    shown = tell("report", tmp_path)
    assert "3 complete records of 2026-11-01 to 2026-11-29 (1 without a date) made with" in shown
    assert f"commit {'a' * 12} (1), commit {'b' * 12}+ (1), commit {'c' * 12} (1). This report: 20" in shown


def test_long_names_are_shortened_and_told_in_full_below(tmp_path):
    modules = ["attention.query", "attention.key", "attention.value", "mlp.first", "mlp.second", "head.projection"]
    for i in range(2, 6):
        options = {"targets": modules[:i], "rank": 4, "dropout": 0.1 * (i % 2), "scale": 2.0}
        each = record("lora", accuracy=0.5 + i / 100, config__method__options=options, config__optimizer__lr=1e-3 / i)
        write(tmp_path, each | {"id": f"lora-{i}"})
    write(tmp_path, record("bitfit", accuracy=0.7, config__choices={"method": "b" * 150, "backbone": "x", "data": "d"}))
    shown = tell("report", tmp_path, "settings=all", "--format=markdown")
    rows = re.findall(r"^\| (lora[^|]*|b+…b+) \|", shown.split("\n## ")[2], re.M)
    assert len(set(rows)) == 5
    assert max(map(len, rows)) <= 32
    legend = table(shown, "Names in full").replace("\\_", "_")
    for name in rows:
        assert f"| {name.strip()} |" in legend
    assert "b" * 150 in legend
    assert "attention.query" in legend


def test_few_settings_tell_rows_apart_before_letters_do(tmp_path):
    for rank in (4, 8):
        changes = {"config__method__options": {"rank": rank, "alpha": 2.0 * rank}, "config__trainer__epochs": 10 * rank}
        changes |= {"config__optimizer__weight_decay": 0.1 / rank, "config__task__label_smoothing": rank / 100}
        write(tmp_path, record("lora", **changes) | {"id": f"lora-{rank}"})
    shown = tell("report", tmp_path, "settings=all", "--format=markdown")
    assert "| lora rank=4, … |" in shown
    legend = table(shown, "Names in full").replace("\\_", "_")
    for setting in ("rank=8", "alpha=16", "epochs=80", "weight_decay=0.0125", "label_smoothing=0.08"):
        assert setting in legend


@settings(max_examples=40)
@given(
    methods=st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=3),
    rows=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.dictionaries(st.sampled_from(["lr", "a.rank", "b.rank", "targets"]), st.text(max_size=60), max_size=4),
            st.sampled_from(["", "vtab1k: 2 trials (lr)", "vtab1k: 2 trials (rank)"]),
            st.sampled_from(["", "from kept taps"]),
        ),
        min_size=1,
        max_size=30,
        unique_by=repr,
    ),
)
def test_names_of_rows_differ_and_are_short(methods, rows):
    traits = [
        Trait(methods[at % len(methods)], tuple(sorted((k, json.dumps(v)) for k, v in setting.items())), tuned, times)
        for at, setting, tuned, times in rows
    ]
    traits = list(dict.fromkeys(traits))
    names = [name.short for name in names_of(traits)]
    assert len(set(names)) == len(traits)
    assert max(map(len, names)) <= 36  # the longest, and a letter or two
    again = names_of(traits[::-1])[::-1]
    assert [name.short for name in again] == names, "whatever the order in which rows come"
