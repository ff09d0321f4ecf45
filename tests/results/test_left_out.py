"""What an answer does not compare is named: a method that lacks tasks, failed on a backbone, or is on another split."""

from __future__ import annotations

from support.reports import TASKS, call, record, tell, write


def on(backbone: str, method: str, task: str = "digits", seed: int = 0, accuracy: float = 0.9, **more) -> dict:
    """A record of a method on a backbone."""
    changes = {
        "config__choices": {"method": method, "backbone": backbone, "data": task},
        "stamps__backbone": {"name": backbone, "weights": "hub", "fingerprint": backbone, "input_size": 224},
    }
    each = record(method, task, seed, accuracy, **changes | more)
    return each | {"id": f"{each['id']}-{backbone}"}


def test_a_method_that_lacks_tasks_is_named_beside_the_best(tmp_path):
    for place, task in enumerate(TASKS):
        spread = 0.0005 * (place % 3)  # a pair is a task
        write(tmp_path, record("lora", task, accuracy=0.8 + spread), record("bitfit", task, accuracy=0.7))
        if place < 10:
            write(tmp_path, record("full", task, accuracy=0.95))
    report = tell("report", tmp_path).split("\n data set")[0]
    assert "VTAB-1k: accuracy on 19 tasks" in report
    assert "Not compared: full (lacks 9 tasks)." in report
    overall = tell("choose", tmp_path).split("\nall 19 tasks: ")[1]
    assert overall.startswith("lora: ")
    assert "Not compared: full (lacks 9 tasks)." in overall


def test_a_failed_run_is_named_though_its_method_ran_on_another_backbone(tmp_path):
    failed = {"status": "failed", "metrics": {}, "reason": "out of memory"}
    write(tmp_path, *(on(backbone, method) for backbone in ("small", "large") for method in ("lora", "linear")))
    write(tmp_path, on("small", "bitfit"), on("large", "bitfit", **failed))
    write(tmp_path, on("small", "lora", "photos"), on("small", "bitfit", "photos"), on("large", "linear", "photos"))
    for verb in ("report", "choose"):
        out = tell(verb, tmp_path)
        assert "Not compared: bitfit on large (failed)." in out
        assert "linear on small, lora on large (no run on it)" in out


def test_choose_names_what_was_not_compared_but_not_what_is_over_the_budget(tmp_path):
    for seed in range(3):
        write(tmp_path, record("lora", seed=seed), record("full", seed=seed, accuracy=0.6, costs__time={"train": 9e3}))
    write(tmp_path, record("lora", "photos"), record("linear", "photos", stamps__data__hash="another"))
    out = tell("choose", tmp_path, "max_minutes=5")
    on_digits, rest = out.split("\ndigits: ")[1].split("\nphotos: ")
    assert "Not compared: linear (no run on it)." in on_digits
    assert "full" not in on_digits
    assert "Not compared: full (no run on it); linear (on another split, or trained on other images)." in rest


def test_of_all_that_fit_the_highest_is_the_best_within_the_budget_alone(tmp_path):
    for seed in range(3):
        write(tmp_path, record("bitfit", seed=seed, accuracy=0.8 + 0.001 * seed, costs__time={"train": 3.0}))
        write(tmp_path, record("linear", seed=seed, accuracy=0.6 + 0.001 * seed, costs__time={"train": 3.0}))
        write(tmp_path, record("lora", seed=seed, accuracy=0.9))
    out = tell("choose", tmp_path, "max_minutes=5s")
    assert "It is the best within the budget. The other is lower" in out
    assert "better, but over max_minutes=5s" in out
    assert "It is the best. The 2 others" in tell("choose", tmp_path)
    write(tmp_path, record("cst", accuracy=0.5, costs__time={"train": 1.0}))
    assert "It is the only one within the budget." in tell("choose", tmp_path, "max_minutes=2s")


def test_a_backbone_is_named_only_where_there_are_several(tmp_path):
    stage = {"stamps__data__stage": "fit", "config__data__stage": "fit"}
    write(tmp_path, record("lora"), record("full"), record("bitfit", **stage))
    status, out, _ = call("report", tmp_path)
    assert status == 0
    answer = out.split("\nvit_b")[0]
    assert "trained on" in answer
    assert " on vit_b" not in answer
    write(tmp_path, on("small", "lora"))
    answer = tell("report", tmp_path).split("methods by backbone")[0]
    assert "lora on vit_b (90.0)" in answer or "lora on vit_b, 90.0 %" in answer
