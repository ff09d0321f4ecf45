"""What `peftbench choose` suggests to try next, by runs on other data sets, and that it changes no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.reports import call, record, tell, write


def on(task: str, method: str, val: float, test: float = 0.5, *, train: int = 1000, root: str = "", **more) -> dict:
    """The record of a method on a data set, with what it reached on validation images and on test images."""
    images = {"train": train, "val": 200, "test": 10_000}
    changes = {"stamps__judged_by": "accuracy", "stamps__data__images": images}
    changes["config__data__path"] = f"peftbench.data.{task}.X"
    if root:
        changes["config__data__options"] = {"root": root}
    metrics = {"val/accuracy": val, "test/accuracy": test}
    return record(method, task, metrics=metrics, **changes | more)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Of digits one run; of others more, of which the test images say the opposite of the validation images."""
    write(tmp_path, on("digits", "linear", 0.7))
    for method, val, test in (("lora", 0.9, 0.1), ("losa", 0.8, 0.2), ("bitfit", 0.4, 0.9), ("linear", 0.3, 0.95)):
        write(tmp_path, on("birds", method, val, test))
    return tmp_path


def of(out: str, name: str) -> str:
    """What is said of a data set, its first line and those below it."""
    return next(part for part in out.split("\n\n") if part.partition("\n")[0].startswith(f"{name}: "))


def test_what_did_better_elsewhere_and_was_not_tried_is_suggested_with_its_origin(outputs):
    out = tell("choose", outputs)
    assert "\n  To try next: method=lora or losa, which were above most others on validation images of birds." in of(
        out, "digits"
    )
    assert "To try next" not in of(out, "birds"), "all that is known was tried there"
    assert out.count("changes no answer; prior=none leaves it out") == 1


def test_it_changes_no_answer_and_is_left_out_when_asked(outputs):
    out = tell("choose", outputs)
    plain = tell("choose", outputs, "prior=none")
    without = [line for line in out.splitlines() if "To try next" not in line and "What to try next" not in line]
    assert [line for line in without if line] == [line for line in plain.splitlines() if line]
    assert "try next" not in plain
    status, _, error = call("choose", outputs, "prior=yes")
    assert status == 2
    assert "prior=yes: expected records, the default, or none." in error


def test_where_less_is_better_the_lower_error_is_suggested(tmp_path):
    write(tmp_path, on("digits", "linear", 0.7))
    for method, error in (("lora", 9.0), ("losa", 2.0), ("bitfit", 5.0)):
        one = on("birds", method, 0.5)
        one["stamps"]["judged_by"], one["metrics"]["val/loss"] = "loss", error
        write(tmp_path, one)
    assert "To try next: method=losa or bitfit, which were above" in of(tell("choose", tmp_path), "digits")


@pytest.mark.parametrize("place", ["/photos", "/photos/all", "/photos/all/part"])
def test_images_that_may_be_the_same_suggest_nothing(tmp_path, place):
    write(tmp_path, on("mine", "linear", 0.7, root="/photos/all"))
    for method, val in (("lora", 0.9), ("linear", 0.3)):
        write(tmp_path, on("theirs", method, val, root=place))
    assert "To try next" not in of(tell("choose", tmp_path), "mine")


def test_the_nearest_data_sets_are_heard_and_named(outputs):
    for far, method in ((f"far{number}", name) for number in range(3) for name in ("vpt", "linear")):
        write(outputs, on(far, method, 0.9 if method == "vpt" else 0.1, train=1_000_000))
    near = ("near", "close")
    for place in near:
        for method, val in (("ssf", 0.9), ("linear", 0.2)):
            write(outputs, on(place, method, val))
    said = of(tell("choose", outputs), "digits")
    (line,) = [line for line in said.splitlines() if "To try next" in line]
    assert "ssf" in line
    assert "vpt" not in line
    assert all(place in line for place in ("birds", *near))
    assert "far" not in line


def test_of_what_is_level_it_says_which_was_higher_elsewhere(outputs):
    write(outputs, on("digits", "lora", 0.7, 0.5001))
    said = of(tell("choose", outputs), "digits")
    assert "\n  Of those inside the noise lora was above linear on validation images of birds." in said


def test_backbones_are_suggested_too_and_another_task_is_not_heard(outputs):
    names = {"config__backbone__name": "other", "stamps__backbone__fingerprint": "e" * 64}
    changes = {"config__choices": {"method": "linear", "backbone": "vit_s", "data": "birds"}, "id": "vit-s-birds"}
    write(outputs, on("birds", "linear", 0.99, **names, **changes))
    for method, val in (("gps", 0.9), ("linear", 0.1)):
        write(outputs, on("scenes", method, val, config__task={"name": "multilabel"}))
    (line,) = [line for line in of(tell("choose", outputs), "digits").splitlines() if "To try next" in line]
    assert "backbone=vit_s" in line
    assert "gps" not in line


def test_of_data_without_a_record_it_says_what_to_try_first(outputs):
    status, _, error = call("choose", outputs, "data=flowers")
    assert status == 2
    assert "data=flowers: no record is of it" in error
    assert "to try first, runs on birds suggest method=lora or method=losa (prior=none leaves that out)" in error
    assert "try first" not in call("choose", outputs, "data=flowers", "prior=none")[2]
