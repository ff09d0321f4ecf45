"""What a sequence comes to, counted by hand."""

from __future__ import annotations

import pytest

from peftbench.results.continual import figures_of, forward_transfer
from support.reports import record, tell, write

MATRIX = [[0.9], [0.6, 0.8], [0.7, 0.5, 1.0]]


def test_figures_of_a_sequence():
    figures = figures_of(MATRIX, [0.9, 0.7, 0.75], "task_")
    assert figures == {
        "task_accuracy": 0.75,
        "task_average_accuracy": pytest.approx((0.9 + 0.7 + 0.75) / 3),
        "task_current_accuracy": pytest.approx((0.9 + 0.8 + 1.0) / 3),
        "task_forgetting": pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2),
    }


def test_what_is_learned_better_later_counts_as_less_than_nothing_forgotten():
    assert figures_of([[0.5], [0.6, 0.9]], [0.5, 0.75])["forgetting"] == pytest.approx(-0.1)


def test_transfer_is_against_learning_alone():
    assert forward_transfer(MATRIX, [0.7, 1.0]) == pytest.approx((0.1 + 0.0) / 2)


@pytest.mark.parametrize("forward", [0.05, None])
def test_transfer_has_a_column_where_a_group_was_learned_by_itself(tmp_path, forward):
    figures = {f"test/{p}{f}": 0.5 for p in ("", "task_") for f in ("accuracy", "average_accuracy", "forgetting")}
    metrics = figures | ({"test/forward_transfer": forward} if forward else {})
    about = {"name": "continual", "trials": 1, "learn": "before", "told_by": None}
    groups = {"class_groups": 5, "class_group": None, "class_seed": 0, "replay": 0, "class_scope": "seen"}
    sequence = record("ncm", metrics=metrics, config__protocol=about, stamps__continual={"groups": [["a", "b"]] * 5})
    sequence["config"]["data"] |= groups
    out = tell("report", write(tmp_path, sequence))
    assert "The same where the group of each image is told" in out
    assert ("forward" in out.lower()) == (forward is not None)
