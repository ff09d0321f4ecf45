"""What a run is judged by, for each task: shown, sorted and searched by, and never mixed."""

import dataclasses
import json
import math
import re
from types import SimpleNamespace

import pytest

import peftbench
from peftbench.config import Protocol, Sweep
from peftbench.results import Record
from peftbench.sweeps.protocol import carry_out_vtab1k
from peftbench.tasks.classification import results
from peftbench.training.progress_bar import Bar
from support.reports import call, columns, detection, leaderboard, one, record, tell, write


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two methods as detectors and as classifiers, on the same backbone and input; bitfit is the better detector."""
    folder = tmp_path_factory.mktemp("mixed")
    for seed in range(3):
        write(folder, detection("lora", seed, 0.4 + seed / 1000), detection("bitfit", seed, 0.5 + seed / 1000))
        write(folder, record("lora", seed=seed, accuracy=0.9), record("bitfit", seed=seed, accuracy=0.8))
    return folder


def test_a_report_has_a_board_for_each_task(mixed):
    lines = leaderboard(mixed)
    ours = [line for line in lines if line["task"] == "digits_det"]
    assert [line["method"] for line in ours] == ["bitfit", "lora"]
    assert {(line["board"], line["metric"]) for line in lines} == {("0", "test/accuracy"), ("1", "test/AP")}
    assert {line["board"] for line in ours} == {"1"}
    assert float(one(lines, method="lora", task="digits_det")["value"]) == pytest.approx(0.401)
    assert float(one(lines, method="lora", task="digits")["value"]) == pytest.approx(0.9)
    assert "task: detection, not classification" in ours[0]["apart"]

    shown = tell("report", mixed, "--format=markdown")
    first, second = shown.split("\n## ", 2)[2].split("## Apart: ")  # behind the answer
    assert "AP" not in first.replace("peak mem", "")
    assert "test/AP" in second.splitlines()[0]
    assert "| digits_det %<br>10,000 images | AP50 % |" in second
    assert "| bitfit | 3 | **50.1 ± 0.2** | **70.1 ± 0.2** |" in second
    assert "points of AP" in second
    assert "points of accuracy" in first
    (by_ap50,) = {line["metric"] for line in leaderboard(mixed, metric="test/AP50")}
    assert by_ap50 == "test/AP50"


def test_runs_with_masks_stand_apart_and_show_both_kinds_of_ap(tmp_path):
    """A record from before there were masks, and one that says that it has none, are of one setting."""
    masks = {"name": "detection", "detector": "fasterrcnn", "masks": True}
    both = {"test/AP": 0.4, "test/AP50": 0.6, "test/segm_AP": 0.35, "test/segm_AP50": 0.5}
    without = {"name": "detection", "detector": "fcos", "masks": False}
    write(tmp_path, detection("lora", metrics=both, config__task=masks), detection("bitfit", ap=0.9))
    write(tmp_path, detection("bitfit", seed=1, ap=0.9, config__task=without))
    lines = leaderboard(tmp_path)
    assert [(line["method"], line["n"]) for line in lines] == [("bitfit", "2"), ("lora", "1")]
    assert len({line["board"] for line in lines}) == 2
    assert "detection (masks=true)" in lines[1]["apart"]
    shown = tell("report", tmp_path, "--format=markdown")
    assert "AP50 % | segm_AP % | segm_AP50 % |" in shown
    assert "| lora | 1 | 40.0 | 60.0 | 35.0 | 50.0 |" in shown
    (by_masks,) = leaderboard(tmp_path, metric="test/segm_AP")
    assert (by_masks["method"], float(by_masks["value"])) == ("lora", pytest.approx(0.35))


def test_a_table_of_runs_without_masks_has_no_column_of_them(capsys):
    head, _ = columns(capsys, detection("lora"), detection("bitfit"))
    assert "segm" not in head


@pytest.mark.parametrize(("size", "shown"), [(224, "224 px"), ([512, 640], "512x640 px"), (None, "800 to 1333 px")])
def test_the_input_of_a_detector_is_told(size, shown, tmp_path):
    transform = {"size": size, "min_size": [640, 800], "max_size": 1333, "interpolation": "bicubic"}
    write(tmp_path, detection("lora", stamps__data__transform=transform))
    assert f", {shown}, bicubic, " in tell("report", tmp_path)


def test_the_page_names_the_metric(mixed, tmp_path):
    tell("report", mixed, "--format=html", f"output={tmp_path / 'r.html'}")
    content = (tmp_path / "r.html").read_text()
    assert "metrics test/accuracy, test/AP</p>" in content
    panels = json.loads(re.search(r'id="data">(.*?)</script>', content)[1])["panels"]
    assert [panel["metric"] for panel in panels] == ["accuracy", "AP"]
    assert panels[1]["rows"][0]["value"] == pytest.approx(0.501)
    assert panels[1]["rows"][0]["curve"]["val"][0] == pytest.approx(0.401)


def test_records_without_the_metric_are_told_what_there_is(mixed):
    status, _, err = call("report", mixed, "metric=test/AP75")
    assert status
    assert "did you mean 'test/AP'" in err or "did you mean 'test/AP50'" in err
    assert "AP/one" not in err


def test_choose_answers_by_task(mixed):
    told = tell("choose", mixed, "max_params=1M")
    assert re.search(r"^digits: lora: 90.0 ± 0.0 % \(3 seeds\)", told, re.M)
    assert re.search(r"^digits_det: bitfit: 50.1 ± 0.2 % AP \(3 seeds\)", told, re.M)
    assert "all 2 tasks" not in told


def test_choose_means_over_the_tasks_of_one_metric(mixed, tmp_path):
    for name, task in (("a", "coco"), ("b", "aquarium")):
        write(tmp_path / name, *(detection(m, ap=a, task=task) for m, a in (("lora", 0.3), ("bitfit", 0.2))))
    told = tell("choose", mixed, tmp_path, "max_params=1M")
    assert re.search(r"^all 2 tasks: lora", tell("choose", tmp_path, "max_params=1M"), re.M)
    assert "all 4 tasks" not in told
    assert re.search(r"^all 3 tasks: lora: 33.4 % AP", told, re.M)


def test_the_closing_table_has_the_columns_of_its_tasks(capsys):
    head, rows = columns(capsys, detection("lora"), detection("bitfit", ap=math.nan))
    assert "AP %   AP50 %" in head
    assert "top-1" not in head
    assert re.search(r"lora .* 40\.0 +60\.0 ", rows[0])
    head, rows = columns(capsys, detection("lora", metrics={"val/AP": 0.2, "val/AP50": 0.3}), record("lora"))
    assert re.search(r"top-1 % +AP % +AP50 %", head)
    assert re.search(r" – +20\.0 \(val\) +30\.0 \(val\) ", rows[0])
    assert re.search(r" 90\.0 +– +– ", rows[1])
    head, _ = columns(capsys, record("lora"), record("bitfit"))
    assert "AP" not in head


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("detection", {"val_AP": 0.1234, "val_AP50": 0.5}, "epoch 1/3 loss 1.500 val 12.3 % AP"),
        ("classification", {"val_accuracy": 0.9}, "epoch 1/3 loss 1.500 val 90.0 %"),
        ("detection", {}, "epoch 1/3 loss 1.500"),
    ],
)
def test_the_line_of_an_epoch(task, row, expected, capsys):
    config = SimpleNamespace(task=SimpleNamespace(name=task, path=""))
    module = SimpleNamespace(config=config, history=[{"epoch": 1, "train_loss": 1.5} | row])
    Bar(pytest.fail).on_train_epoch_end(SimpleNamespace(max_epochs=3), module)
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_protocol_chooses_by_the_tasks_metric(monkeypatch):
    config = peftbench.compose("method=linear", "backbone=vit_nano", "data=digits")
    monkeypatch.setattr(results, "RESULTS", dataclasses.replace(results.RESULTS, metric="AP"))
    seen = []

    def carry_out(configs):
        seen.extend(configs)
        aps = {0.1: 0.2, 0.01: 0.3}
        metrics = {"val/AP": aps[configs[0].optimizer.lr], "val/accuracy": 1 - aps[configs[0].optimizer.lr]}
        return [Record(str(len(seen)), "complete", configs[0].to_dict(), metrics=metrics)]

    rule = Protocol(name="vtab1k", trials=2, seeds=1)
    carry_out_vtab1k(config, rule, Sweep(grid={"optimizer.lr": [0.1, 0.01]}), carry_out)
    assert seen[-1].optimizer.lr == 0.01
    assert [t["val/AP"] for t in seen[-1].protocol["tried"]] == [0.2, 0.3]
