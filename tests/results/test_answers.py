"""What stands first in a report: which method is the highest, what is inside its noise, what is cheapest."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.results.answer_text import sentences
from peftbench.results.answers import Answer, answers
from peftbench.results.boards import boards
from peftbench.results.collect import Collected
from peftbench.results.record import Record
from peftbench.results.summary import Shared, summarise
from support.reports import detection, record, tell, write


def answers_to(*records: dict) -> list[Answer]:
    shared = Shared()
    runs = [summarise(Record(**{k: v for k, v in r.items() if k != "schema"}), shared) for r in records]
    return answers(boards(Collected(runs).runs), runs)


def names(contenders) -> set[str]:
    return {contender.name for contender in contenders}


def scored(method: str, right: int, images: int, seed: int = 0, **more) -> dict:
    return record(method, seed=seed, accuracy=right / images, stamps__data__images={"test": images}, **more)


@settings(deadline=None)
@given(st.integers(20, 5000), st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_on_one_seed_two_standard_errors_tell_apart_and_nothing_is_called_best(images, shares):
    right = [round(share * images) for share in shares]
    (answer,) = answers_to(*(scored(f"m{i}", n, images) for i, n in enumerate(right)))
    assert answer.highest.value == max(right) / images
    for other in (*answer.level, *answer.behind):
        pair = [(share.value * images + 1) / (images + 2) for share in (answer.highest, other)]
        error = math.sqrt(sum(p * (1 - p) for p in pair) / (images + 2))
        apart = (answer.highest.value - other.value) * images / (images + 2) > 1.96 * error
        assert (other in answer.behind) == apart
    assert not answer.untold
    assert "Best" not in " ".join(sentences(answer))
    one_image = f"One of the {images:,} test images is "
    assert one_image in " ".join(sentences(answer))


@settings(deadline=None)  # the first imports scipy
@given(
    st.integers(100, 10_000),
    st.lists(st.lists(st.floats(0.4, 0.6), min_size=3, max_size=3), min_size=2, max_size=4),
)
def test_what_is_called_best_is_better_in_the_table_of_differences(images, shares):
    records = [
        scored(f"m{i}", round(share * images), images, seed)
        for i, of_seeds in enumerate(shares)
        for seed, share in enumerate(of_seeds)
    ]
    (answer,) = answers_to(*records)
    (board,) = {id(contender.board): contender.board for contender in answer.contenders}.values()
    compared = [(second, difference) for first, second, difference, _ in board.pairs() if first is board.rows[0]]
    verdicts = {second.label: difference.verdict for second, difference in compared}
    said = sentences(answer)[0]
    assert said.startswith("Best: ") == (set(verdicts.values()) == {"better"})
    assert names(answer.level) >= {name for name, verdict in verdicts.items() if verdict == "equal"}
    means = {f"m{i}": fmean(round(share * images) / images for share in of_seeds) for i, of_seeds in enumerate(shares)}
    assert means[answer.highest.name] == pytest.approx(max(means.values()))


def test_the_cheapest_is_among_what_is_inside_the_noise_alone(tmp_path):
    cheap = {"costs__time": {"train": 0.3}, "costs__parameters__method": 0}
    write(tmp_path, scored("lora", 246, 250), scored("linear", 245, 250, **cheap))
    write(tmp_path, scored("nothing", 25, 250, costs__time={"train": 0.0}, costs__parameters__method=0))
    shown = tell("report", tmp_path)
    assert shown.index("Which method?") < shown.index("vit_b on digits")
    assert "Highest: lora, 98.4 %. Inside its noise: linear (98.0); 1 other is lower by more than that." in shown
    assert "Cheapest of these 2: linear by time (0.3 s, not 66.0 s) and trainable parameters (0, not 1,000)" in shown


def test_what_was_not_compared_is_named_with_the_reason(tmp_path):
    write(tmp_path, scored("lora", 246, 250), record("linear", "flowers"), record("spt", metrics={"val/accuracy": 0.9}))
    write(tmp_path, record("full", metrics={}, status="failed", reason="out of memory"))
    write(tmp_path, record("bitfit", stamps__data__hash="another"), record("ftp", metrics={}, status="interrupted"))
    write(tmp_path, detection("lora"), detection("bitfit", ap=0.41))
    shown = tell("report", tmp_path)
    said = next(line for line in shown.splitlines() if "spt (no test" in line)
    for why in (
        "linear (no run on it)",
        "full (failed)",
        "ftp (not complete)",
        "spt (no test/accuracy)",
        "bitfit (on another split",
    ):
        assert why in said
    assert "Not compared: lora (40.0), since AP counts no images, so that it needs 3 seeds to tell" in shown


def test_the_answer_stands_first_in_every_format(tmp_path, suite: Path):
    write(tmp_path, scored("lora", 246, 250), scored("linear", 245, 250))
    markdown = tell("report", tmp_path, "--format=markdown")
    assert markdown.splitlines()[2:6:2] == ["## Which method?", "### digits: accuracy on 250 test images, 1 seed"]
    latex = tell("report", tmp_path, "--format=latex")
    assert latex.index(r"\paragraph{Which method?}") < latex.index(r"\begin{table}")
    assert r"Highest: lora, 98.4 \%. Inside its noise: linear (98.0)." in latex
    many = tell("report", suite, "--format=markdown").split("\n## ")[1]
    assert "### VTAB-1k: accuracy on 19 tasks, 3 seeds\n\nBest: lora, " in many
    assert len(re.findall(r"^\| [\w\\]+ \| 10,000,000 \| lora", many, re.M)) == 19


def test_all_settings_shown_are_chosen_on_test(tmp_path):
    for lr, right in ((1e-3, 240), (1e-2, 180)):
        write(tmp_path, scored("lora", right, 250, config__optimizer__lr=lr) | {"id": f"lr-{lr}"})
    shown = tell("report", tmp_path, "settings=all")
    assert "Highest: lora lr=0.001, 96.0 %, chosen on test: optimistic." in shown


def test_of_a_loss_nothing_is_said_to_be_highest(tmp_path):
    write(tmp_path, scored("lora", 246, 250), scored("linear", 245, 250))
    shown = tell("report", tmp_path, "metric=test/loss")
    assert "Which method?" not in shown
    assert tell("report", tmp_path, "metric=test/loss", "--format=latex").startswith("% peftbench report")


def test_validation_images_are_not_called_test_images(tmp_path):
    for method, accuracy in (("linear", 0.8), ("lora", 0.81)):
        metrics = {"val/accuracy": accuracy, "val/loss": 0.5}
        write(tmp_path, record(method, metrics=metrics, stamps__data__images={"val": 200}))
    told = tell("report", tmp_path, "metric=val/accuracy")
    assert "on 200 validation images" in told
    assert "One of the 200 validation images is 0.5 points" in told
    assert "test image" not in told
