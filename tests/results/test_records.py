"""What cannot be compared stands apart; bad records are named."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from peftbench.results.collect import collect
from support.reports import call, leaderboard, one, record, tell, write

# -- what is not comparable


APART = {
    "weights": ({"stamps__backbone__weights": "augreg.safetensors"}, "weights: augreg.safetensors, not hub"),
    "fingerprint": ({"stamps__backbone__fingerprint": "e" * 64}, "other weights under the same name"),
    "backbone": ({"stamps__backbone__name": "resnet50.a1_in1k"}, "another backbone (resnet50.a1_in1k"),
    "normalisation": ({"stamps__data__transform__mean": [0.485, 0.456, 0.406]}, "normalisation: mean 0.485/0.456"),
    "size": ({"stamps__data__transform__size": 384}, "input: 384 px, bicubic, not 224 px"),
    "hash": ({"stamps__data__hash": "another"}, "another split of the same task (digits: digits (another)"),
    "made": ({"stamps__data__split": "digits@peftbench-v1"}, "split: peftbench-v1, not as listed"),
    "smaller": ({"stamps__data__split": "digits@tfds-order-16-4-12"}, "split: tfds-order-16-4-12, not as listed"),
    "stage": ({"stamps__data__stage": "fit"}, "trained on: train, not train and val"),
}  # fmt: skip


@pytest.mark.parametrize("what", APART)
def test_what_cannot_be_compared_stands_apart_with_the_reason(tmp_path, what):
    changes, reason = APART[what]
    write(tmp_path, *(record(m, seed=s, accuracy=0.9) for m in ("lora", "bitfit") for s in (0, 1)))
    write(tmp_path, *(record("lora", seed=s, accuracy=0.1, **changes) | {"id": f"other-{s}"} for s in (0, 1)))
    lines = leaderboard(tmp_path)
    first = one(lines, board="0", method="lora", task="digits")
    assert (float(first["value"]), first["n"]) == (pytest.approx(0.9), "2")
    second = one(lines, board="1", method="lora", task="digits")
    assert (float(second["value"]), second["n"]) == (pytest.approx(0.1), "2")
    assert reason in second["apart"]
    for form in ("terminal", "markdown"):
        assert "stands apart from the boards before" in tell("report", tmp_path, f"--format={form}")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"costs__taps": {"mode": "disk", "computed": 10, "seconds": 5.0}}, "from kept taps"),
        ({"costs__together": 8}, "trained together"),
    ],
)
def test_runs_whose_times_cannot_be_compared_are_rows_of_their_own(tmp_path, changes, name):
    write(tmp_path, *(record("losa", seed=s, accuracy=0.9, costs__time__train=60.0) for s in (0, 1)))
    for seed in (0, 1):
        each = copy.deepcopy(record("losa", seed=seed, accuracy=0.9, costs__time__train=6.0))
        for path, value in changes.items():
            each["costs"][path.removeprefix("costs__")] = value
        write(tmp_path, each | {"id": f"other-{seed}"})
    lines = leaderboard(tmp_path)
    assert float(one(lines, method="losa", task="digits")["train"]) == 60.0
    other = one(lines, method=f"losa {name}", task="digits")
    assert (float(other["train"]), other["n"], other["times"]) == (6.0, "2", name)


# -- files that are no records


def test_what_is_no_record_is_skipped_and_named(tmp_path):
    write(tmp_path, record("lora"))
    good = json.dumps(record("bitfit"))
    bad = {
        "half": good[: len(good) // 2],
        "old": json.dumps(record("bitfit", schema=0)),
        "newer": json.dumps(record("bitfit", schema=99)),
        "foreign": json.dumps({"train_config": {}, "results": [1, 2]}),
        "list": "[1, 2]",
        "number": "3",
        "empty": "",
        "no-config": json.dumps(record("bitfit", config={})),
        "typed": json.dumps(record("bitfit", config__method="lora")),
        "deep": "[" * 100_000,
    }
    for name, content in bad.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "result.json").write_bytes(b"\xff\xfe\x00\x80" * 50)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "result.json").write_text("{")
    collected = collect([tmp_path])
    assert {Path(p).parent.name for p, _ in collected.skipped} == {*bad, "binary"}
    assert len(collected.runs) == 1
    out = tell("report", tmp_path, "--format=markdown")
    assert "Skipped: no records of this version (11)" in out
    assert "has record schema 99, this version reads 1" in out
    assert "/half/result.json" in out


def test_two_records_of_one_run_count_once_and_are_named(tmp_path):
    write(tmp_path / "a", record("lora", accuracy=0.9))
    write(tmp_path / "b", record("lora", accuracy=0.8))
    out = tell("report", tmp_path, "--format=markdown")
    assert "Repeated: counted once (1)" in out
    assert "with other figures" in out
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["value"], line["n"]) == ("0.9", "1")
    again = leaderboard(tmp_path / "a", tmp_path / "a" / ".." / "a")
    assert one(again, task="digits")["n"] == "1"
    assert not collect([tmp_path / "a", tmp_path / "a"]).repeated


def test_the_same_setting_and_seed_twice_counts_once(tmp_path):
    write(tmp_path, record("lora", accuracy=0.9))
    more = {"test/accuracy": 0.9, "ood/accuracy": 0.5}
    write(tmp_path, record("lora", metrics=more) | {"id": "with-ood"})
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["n"], line["ood"]) == ("1", "0.5")
    assert "leave out 1 further run (lora-x-digits-s0)" in tell("report", tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "nowhere"], "nowhere: there is no such folder"),
        (
            ["report", "{}", "--format=htm"],
            "format=htm: expected terminal or markdown or csv or latex or html (did you",
        ),
        (["report", "{}", "--formt=html"], "there is no such option (did you mean 'format'?)"),
        (["report", "{}", "metric=test/acuracy"], "the one record has it not (did you mean 'test/accuracy'?)"),
        (["report", "{}", "table=pairs"], "only format=csv has one table"),
        (["report", "{}", "--output=x.html"], "format=terminal is shown, not written"),
        (["report", "{}", "--format=html", "--output={}/mine.txt"], "is there and is no html report"),
        (["report", "{}", "--format=html", "--output={}/no/x.html"], "cannot be written"),
        (["report", "{}/empty"], "holds no record of a run"),
        (["choose", "{}", "metric=test/loss"], "metric=test/loss: less of it is better"),
        (["choose", "{}", "max_memory=2XB"], "max_memory=2XB: expected bytes, such as 2GB"),
        (["choose", "{}", "max_memory=-1"], "max_memory=-1: expected bytes"),
        (["choose", "{}", "max_minutes=ten"], "max_minutes=ten: expected minutes"),
        (["choose", "{}", "max_params="], "needs a value"),
        (["choose", "{}", "max_param=3"], "there is no such option (did you mean 'max_params'?)"),
        (["choose", "{}", "max_params=3", "data=digit"], "data=digit: no record is of it (did you mean 'digits'?)"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, words, told):
    write(tmp_path, record("lora"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    status, out, err = call(*(w.replace("{}", str(tmp_path)) for w in words))
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert (tmp_path / "mine.txt").read_text() == "mine"


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    if isinstance(value, dict):
        return [path, *(p for k, v in value.items() for p in leaves(v, (*path, k)))]
    if isinstance(value, list):
        return [path, *(p for k, v in enumerate(value) for p in leaves(v, (*path, k)))]
    return [path]


WHOLE = record("spt", plan={"layers": [{"name": "blocks.0.attn.qkv.weight", "kind": "lora", "parameters": 5}]})
JUNK = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.just([])
    | st.just({})
    | st.just([None])
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.sampled_from(leaves(WHOLE)[1:]), junk=JUNK)
@example(where=("metrics", "test/accuracy"), junk=2)  # a share above 1
def test_a_record_with_anything_anywhere_is_read_or_named(tmp_path, where, junk):
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    changed = copy.deepcopy(WHOLE)
    place = changed
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = junk
    name = "changed"
    (tmp_path / "one" / name).mkdir(parents=True)
    (tmp_path / "one" / name / "result.json").write_text(json.dumps(changed))
    write(tmp_path / "one", record("lora"))
    for form in ("terminal", "html"):
        status, _, err = call("report", tmp_path / "one", f"--format={form}")
        assert status == 0, err
    collected = collect([tmp_path / "one"])
    assert len(collected.runs) + len(collected.skipped) + len(collected.repeated) == 2


def test_records_of_a_few_batches_are_left_out_and_counted(tmp_path):
    trial, cut = (
        {"config__trainer__trial": True, "config__trainer__max_batches": 2},
        {"config__trainer__max_batches": 2},
    )
    for seed in range(3):
        write(tmp_path, record("smoked", seed=seed, accuracy=1.0, **trial))
    write(tmp_path, record("cut", accuracy=1.0, **cut))
    out = tell("report", tmp_path)
    assert "1 complete run" not in out
    assert "cut" in out, "there is no whole run to stand beside it"
    assert "3 records of debug=smoke are left out." in out
    write(tmp_path, record("lora"))
    told = tell("report", tmp_path), tell("choose", tmp_path, "max_params=10k")
    for out in told:
        assert "lora" in out
        assert "smoked" not in out
        assert "3 records of debug=smoke are left out." in out
        assert "1 record of trainer.max_batches is left out: the figures are of a part of the images." in out
    only = write(tmp_path / "only", record("smoked", **trial))
    assert call("report", only)[::2] == (
        2,
        f"peftbench: {only}: holds no record but 1 of debug=smoke, which no report shows.\n",
    )
