"""What a record says of its task: older and newer records are equal, and nothing that a record holds is imported."""

import copy
import sys
import textwrap

import pytest

from peftbench.common.task_lookup import shipped_tasks, task_module
from peftbench.results import Record, results_of
from peftbench.results.collect import collect
from peftbench.results.labels import differences
from support.reports import columns, detection, leaderboard, one, record, tell, write


def newer(old):
    """The same record as a later version writes it: `task.path`, and `data.tasks` for `data.task`."""
    new = copy.deepcopy(old)
    new["config"]["task"]["path"] = ""
    new["config"]["data"]["tasks"] = [new["config"]["data"].pop("task")]
    return new


@pytest.mark.parametrize(("make", "task"), [(record, "classification"), (detection, "detection")])
def test_an_old_record_and_a_new_one_of_one_run_are_equal(make, task, tmp_path):
    old = make("lora", config__data__task=task)
    new = newer(old)
    write(tmp_path / "old", old)
    write(tmp_path / "new", new)
    (from_old,), (from_new,) = collect([tmp_path / "old"]).runs, collect([tmp_path / "new"]).runs
    for part in ("basis", "setting", "batch", "primary", "beside", "metrics", "curve"):
        assert getattr(from_old, part) == getattr(from_new, part), part
    both = [Record(**{k: v for k, v in each.items() if k != "schema"}) for each in (old, new)]
    assert set(differences(both).values()) == {""}

    write(tmp_path / "new", new | {"id": "later", "config": new["config"] | {"seed": 1}})
    (line,) = {line["method"]: line for line in leaderboard(tmp_path)}.values()
    assert line["method"] == "lora"
    assert one(leaderboard(tmp_path), task=old["config"]["data"]["name"])["n"] == "2"


def test_records_that_name_no_task_are_of_classification(tmp_path, capsys):
    nameless = record("lora")
    del nameless["config"]["task"]
    write(tmp_path, nameless, record("bitfit"))
    lines = leaderboard(tmp_path)
    assert {line["board"] for line in lines} == {"0"}
    assert "top-1 %" in columns(capsys, nameless, nameless)[0]


@pytest.mark.parametrize("path", ["os", "evil", "evil.schema", "peftbench.config", ["os"], "peftbench.tasks.toy"])
@pytest.mark.parametrize("name", ["classification", "toy"])
def test_nothing_that_a_record_names_is_imported(path, name, tmp_path, monkeypatch, capsys):
    package = tmp_path / "modules" / "evil"
    package.mkdir(parents=True)
    for module in ("__init__.py", "schema.py"):
        (package / module).write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    foreign = record("lora", config__task={"name": name, "path": path})
    foreign["metrics"] = {"test/loss": 0.1, "test/r2": 0.7, "val/r2": 0.6}
    before = set(sys.modules)
    write(tmp_path / "runs", foreign, record("bitfit"))
    for form in ("terminal", "csv", "html"):
        assert tell("report", tmp_path / "runs", f"--format={form}")
    assert tell("choose", tmp_path / "runs", "max_params=1M")
    assert "r2 %" in columns(capsys, foreign, foreign)[0]
    assert not (tmp_path / "imported").exists()
    assert not {m for m in set(sys.modules) - before if m.startswith(("evil", "os.", "peftbench.tasks.toy"))}


def test_a_task_from_outside_is_judged_by_what_its_records_name_first(tmp_path):
    own = {"name": "regression", "path": "somewhere.else"}
    metrics = {"test/loss": 0.2, "test/r2": 0.7}
    failed = record("lora", seed=1, status="failed", metrics={}, config__task=own)
    write(tmp_path, failed | {"id": "a-failed"}, record("lora", metrics=metrics, config__task=own))
    line = one(leaderboard(tmp_path), task="digits")
    assert (line["metric"], line["value"], line["failed"]) == ("test/r2", "0.7", "1")


def test_a_task_from_outside_is_asked_where_this_process_has_imported_it(tmp_path, monkeypatch):
    (tmp_path / "toy_task").mkdir()
    (tmp_path / "toy_task" / "__init__.py").touch()
    (tmp_path / "toy_task" / "schema.py").write_text(
        textwrap.dedent("""
            from peftbench.results.task_results import TaskResults

            RESULTS = TaskResults("spearman", {"rho %": "spearman"}, beside="r2", setting={"bins": 10})
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"task": {"name": "toy", "path": "toy_task"}}
    metrics = {"test/r2": 0.1, "test/spearman": 0.2}
    assert results_of(config, metrics).metric == "r2"
    __import__("toy_task.schema")
    assert results_of(config, metrics).columns == {"rho %": "spearman"}
    both = [record("lora", metrics=metrics, config__task=config["task"] | more) for more in ({}, {"bins": 10})]
    write(tmp_path / "runs", both[0], both[1] | {"id": "b", "config": both[1]["config"] | {"seed": 1}})
    line = one(leaderboard(tmp_path / "runs"), task="digits")
    assert (line["metric"], line["n"]) == ("test/spearman", "2")
    monkeypatch.delitem(sys.modules, "toy_task.schema")


@pytest.mark.parametrize("path", shipped_tasks().values())
def test_the_schema_of_a_shipped_task_says_the_same(path):
    assert task_module(path, "schema").RESULTS is results_of({"task": {"path": path}})


def test_a_report_imports_no_schema(imported_by_report):
    assert "peftbench" in imported_by_report
    assert not [m for m in imported_by_report if m.startswith("peftbench.tasks.") and m.endswith("schema")]
