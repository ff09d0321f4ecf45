"""`peftbench auto`: an answer from images and minutes, which goes on where it was ended, and what it refuses."""

from __future__ import annotations

import html
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import peftbench
from peftbench.answering.folds import folds_of
from peftbench.answering.learning_curve import extrapolated
from peftbench.answering.search import Search
from peftbench.answering.time_left import Clock, OutOfTime, ended_after
from peftbench.cli.main import main
from peftbench.config import Config
from peftbench.data.base import Split, Splits
from peftbench.methods.logreg import LogReg
from peftbench.methods.ridge import Ridge
from peftbench.runs import single_run
from support.datasets import write
from support.disk import disk_full_beyond
from support.forks import python
from support.killed_auto import few_choices, killed

COLOURS = {"blue": (30, 40, 200), "green": (40, 190, 50), "red": (200, 40, 30)}


def coloured(root: Path, each: int = 12) -> Path:
    """Class folders of images of one colour with noise; any head tells them apart."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for number in range(each):
            pixels = np.array(colour) + rng.integers(-30, 30, (16, 16, 3))
            write(root / name / f"{number}.png", pixels.clip(0, 255).astype(np.uint8))
    return root


def words(root: Path, *more: str) -> list[str]:
    return ["auto", "data=folder", f"data.root={root}", "backbones=[resnet_nano]", "data.size=32", *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auto")


@pytest.fixture(scope="module")
def answered(place: Path) -> tuple[Path, str]:
    """(the answer's folder, what was printed), of images of which one is damaged, in less time than a pass takes, with
    a method that breaks."""
    import contextlib
    import io

    root = coloured(place / "photos")
    (root / "red" / "0.png").write_bytes(b"no image at all")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:

        def breaks(self: LogReg, problem: object) -> None:
            raise RuntimeError("it broke")

        patch.setattr(LogReg, "solve", breaks)
        status = main([*words(root, "minutes=0.001"), f"output_dir={place / 'out'}"])
    assert status == 0, out.getvalue()
    (folder,) = (place / "out").glob("auto-*")
    return folder, out.getvalue()


def state_of(folder: Path) -> dict:
    return json.loads((folder / "auto.json").read_text(encoding="utf-8"))


def test_the_answer_is_an_ordinary_run_that_was_tested_once(answered):
    folder, out = answered
    state = state_of(folder)
    record = json.loads((folder / "answer" / "result.json").read_text(encoding="utf-8"))
    assert record["status"] == "complete"
    assert record["config"]["data"]["stage"] == "final"
    assert state["answer"]["run"] == record["id"]
    assert record["metrics"]["test/accuracy"] == state["answer"]["test"] == 1.0
    low, high = state["answer"]["test_interval"]
    assert 0.5 < low < 1
    assert high == 1
    assert len(state["tests"]) == 1
    assert "looked at once" in out
    tested = [run for run in (folder / "runs").glob("*/result.json") if "test/accuracy" in run.read_text()]
    assert len(tested) == 1, "nothing but the answer has seen the test images"
    page = (folder / "page.html").read_text(encoding="utf-8")
    for heading in ("Three commands", "The front", "What more would bring", "The path of decisions"):
        assert f"<h2>{heading}</h2>" in page
    assert record["config"]["method"]["name"] in page
    for cost in ("time of training", "memory of training", "parameters of the method"):
        assert f"<figcaption>validation against {cost}</figcaption>" in page
    judged = [one for one in state["tried"] if one["value"] is not None]
    assert page.count("<circle") >= 3 * len(judged)
    for what in ("use it", "repeat it", "ten more minutes"):
        (command,) = [line.removeprefix(f"{what}: ") for line in out.splitlines() if line.startswith(f"{what}: ")]
        assert f"<p>{what}</p><pre>{html.escape(command)}</pre>" in page


def test_too_little_time_damage_and_a_broken_method_are_said_and_end_nothing(answered):
    folder, out = answered
    assert "smallest pass takes, about" in out
    assert "cannot be read" in out
    assert "logreg on resnet_nano is left out: RuntimeError: it broke" in out
    state = state_of(folder)
    assert {one["method"]: one["status"] for one in state["tried"]}["logreg"] == "failed"
    assert state["answer"]["method"] != "logreg"


def test_the_winner_predicts_and_is_repeated_by_its_command(answered, cli, capsys):
    folder, out = answered
    image = write(folder.parent / "new" / "one.png", np.full((16, 16, 3), (200, 40, 30), dtype=np.uint8))
    assert main(["predict", f"run={folder / 'answer'}", f"images={image}", "device=cpu"]) == 0
    assert "red" in capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("repeat it: peftbench ")]
    status, _, error = cli(*line.split()[3:], "trainer.progress=false", f"output_dir={folder / 'runs'}")
    assert status == 0, error
    assert state_of(folder)["answer"]["run"] in {path.name for path in (folder / "runs").iterdir()}
    assert sum("test/accuracy" in run.read_text() for run in (folder / "runs").glob("*/result.json")) == 1


def test_an_answer_that_is_there_is_read_and_other_images_are_refused(answered, place, cli):
    folder, _ = answered
    root, before = place / "photos", (folder / "auto.json").read_bytes()
    asked = words(root, "minutes=0.001", f"output_dir={folder.parent}")
    status, out, _ = cli(*asked)
    assert status == 0
    assert "answered before" in out
    assert (folder / "auto.json").read_bytes() == before
    kept = (root / "blue" / "3.png").read_bytes()
    write(root / "blue" / "3.png", np.zeros((16, 16, 3), dtype=np.uint8))
    status, _, error = cli(*asked)
    (root / "blue" / "3.png").write_bytes(kept)
    assert status == 2
    assert "its images or labels are others than when" in error
    assert "force=true" in error
    assert (folder / "auto.json").read_bytes() == before


def test_python_gives_the_answer_as_an_object(answered, place):
    folder, out = answered
    asked = ["data=folder", f"data.root={place / 'photos'}", "data.size=32", f"output_dir={folder.parent}"]
    told: list[str] = []
    found = peftbench.auto(*asked, minutes=0.001, backbones=["resnet_nano"], tell=told.append)
    state = state_of(folder)
    assert found.folder == folder
    assert found.was_there
    assert found.run == folder / "runs" / state["answer"]["run"]
    assert (found.metric, found.test, found.validation) == ("accuracy", 1.0, state["answer"]["val"])
    assert found.test_interval == tuple(state["answer"]["test_interval"])
    assert [one.run for one in found.tried] == [one["run"] for one in state["tried"]]
    assert found.decisions == state["decisions"]
    assert "100.0 % accuracy on test images" in repr(found)
    assert peftbench.load(found.run).classes == ("blue", "green", "red")
    assert f"ten more minutes: peftbench auto {asked[0]}" in out
    page = found.page.read_text(encoding="utf-8")
    assert "backbones=[resnet_nano]" in page
    with pytest.raises(peftbench.UserError, match="memory=lots: expected bytes"):
        peftbench.auto(*asked, minutes=1, memory="lots")
    with pytest.raises(peftbench.UserError, match="are lists of names"):
        peftbench.auto(*asked, minutes=1, backbones="resnet_nano")


def test_a_damaged_memory_is_refused(answered, place, cli, tmp_path):
    folder, _ = answered
    shutil.copytree(folder.parent, tmp_path / "out", symlinks=True)
    (tmp_path / "out" / folder.name / "auto.json").write_text('{"schema": 1, "tried": [{}]}')
    status, _, error = cli(*words(place / "photos", "minutes=1", f"output_dir={tmp_path / 'out'}"))
    assert status == 2
    assert "is not what peftbench auto remembers" in error


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["minutes=0"], "minutes=0: expected more than 0"),
        (["minutes=1", "method=lora"], "auto method=lora: is chosen by auto itself; methods=[…] says which to try"),
        (["minutes=1", "data.stage=fit"], "auto data.stage=fit: is chosen by auto itself"),
        (["minutes=1", "trainer.head_from=logreg"], "auto trainer.head_from=logreg: is chosen by auto itself"),
        (["minutes=1", "backbones=[vit_nono]"], "there is no backbone 'vit_nono' (did you mean 'vit_nano'?)"),
        (["minutes=1", "backbones=[vit_l]"], "the weights of vit_l are not on this machine"),
        (["minutes=1", "methods=[lorra]"], "auto does not try 'lorra' (did you mean 'lora'?)"),
        (["minutes=1", "prior=some"], "prior=some: expected records, the default, or none"),
        (["minutes=1", "memory=lots"], "memory=lots: expected bytes"),
        (["minutes=1", "memory=1kB"], "memory: resnet_nano takes"),
        (["minutes=1", "max_latency=0.000001ms"], "max_latency: resnet_nano takes"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(given, said, answered, place, cli):
    asked = [
        word for word in words(place / "photos") if word.partition("=")[0] not in {w.partition("=")[0] for w in given}
    ]
    status, _, error = cli(*asked, *given)
    assert status == 2
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_classes_that_are_too_few_or_too_small_are_refused(tmp_path, cli):
    write(tmp_path / "one" / "a" / "1.png")
    write(tmp_path / "one" / "a" / "2.png")
    status, _, error = cli(*words(tmp_path / "one", "minutes=1"))
    assert (status, "two or more" in error) == (2, True)
    root = coloured(tmp_path / "few")
    write(root / "grey" / "1.png")
    status, _, error = cli(*words(root, "minutes=1"))
    assert status == 2
    assert "class 'grey' has 1 image; expected two or more of each class" in error


@pytest.mark.slow
def test_killed_in_each_step_the_same_command_goes_on(tmp_path, cli):
    root, out = coloured(tmp_path / "photos"), tmp_path / "out"
    asked = [*words(root, "minutes=20", "methods=[ridge,losa,partial]", "data.val_fraction=0.25"), f"output_dir={out}"]
    for step in ("look", "backbones", "ridge", "losa", "partial", "final"):
        assert killed(asked, step) == -signal.SIGKILL, step
        if step == "look":
            assert not list(out.glob("auto-*/auto.json"))
    with few_choices():
        status, told, error = cli(*asked)
    assert status == 0, error
    (folder,) = out.glob("auto-*")
    state = state_of(folder)
    assert state["commands"] == 6
    runs = [one["run"] for one in state["tried"]]
    assert len(set(runs)) == len(runs)
    assert {one["status"] for one in state["tried"]} == {"complete"}
    assert {"ridge", "losa", "partial"} <= {one["method"] for one in state["tried"]}
    assert [entry["name"] for entry in state["tests"]] == [state["answer"]["name"]]
    assert "looked at once" in told
    assert {path.name for path in (folder / "runs").glob("[!.]*")} == {*runs, state["answer"]["run"]}


@pytest.mark.slow
def test_a_disk_that_is_full_while_taps_are_kept_ends_nothing(tmp_path, cli, monkeypatch):
    root = coloured(tmp_path / "photos", each=120)
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "taps"))
    asked = words(root, "minutes=20", "methods=[ridge]", "data.val_fraction=0.25", f"output_dir={tmp_path / 'out'}")
    with few_choices(), disk_full_beyond(60_000):
        status, _, error = cli(*asked)
    assert status == 0, error
    (folder,) = (tmp_path / "out").glob("auto-*")
    assert "taps=auto keeps them in memory" in (folder / "log.txt").read_text(encoding="utf-8")
    ended = {one["method"]: one["status"] for one in state_of(folder)["tried"] if one["step"] == "probes"}
    assert ended["ridge"] == "complete"
    assert state_of(folder)["answer"]["test"] == 1.0


def test_images_none_of_which_can_be_read_are_refused(tmp_path, cli):
    root = coloured(tmp_path / "photos", each=4)
    for file in root.glob("*/*.png"):
        file.write_text(f"no image at all: {file}")
    status, _, error = cli(*words(root, "minutes=1"))
    assert status == 2
    assert "images can be read, such as" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_answer_goes_on_where_it_was_killed(tmp_path, cli):
    root, out = coloured(tmp_path / "photos"), tmp_path / "out"
    asked = [*words(root, "minutes=0.5", "methods=[ridge,losa]"), f"output_dir={out}"]
    begun = subprocess.Popen([python(), "-m", "peftbench", *asked], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    tried: list[dict] = []
    while time.monotonic() < deadline and not tried and begun.poll() is None:
        time.sleep(0.05)
        for file in out.glob("auto-*/auto.json"):
            tried = json.loads(file.read_text(encoding="utf-8"))["tried"]
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert tried, "it was killed before or after the probes"
    (folder,) = out.glob("auto-*")
    (first,) = (folder / "runs").glob(f"{tried[0]['run']}/result.json")
    written = first.stat().st_mtime_ns
    status, _, error = cli(*asked)
    assert status == 0, error
    state = state_of(folder)
    assert state["commands"] == 2
    assert state["tried"][0] == tried[0]
    assert first.stat().st_mtime_ns == written
    assert len(state["tests"]) == 1
    assert any(one["method"] == "losa" and one["status"] == "complete" for one in state["tried"])
    assert state["spent"] < 0.5 * 60 * 1.1 + 20
    more = [word for word in asked if word != "minutes=0.5"]
    status, _, error = cli(*more, "minutes=0.6")
    assert status == 0, error
    assert len(state_of(folder)["tests"]) in (1, 2)
    assert state_of(folder)["commands"] == 3
    status, told, error = cli(*more, "minutes=0.001", "force=true")
    assert status == 0, error
    assert state_of(folder)["commands"] == 1
    (kept,) = out.glob(".auto-*.previous")
    assert f"the answer that was there is kept in {kept}" in told
    assert state_of(kept)["commands"] == 3


@pytest.mark.slow
def test_ctrl_c_answers_with_the_best_so_far_and_the_same_command_goes_on(tmp_path, cli):
    root, out = coloured(tmp_path / "photos"), tmp_path / "out"
    asked = [*words(root, "minutes=0.5", "methods=[ridge,losa]"), f"output_dir={out}"]
    begun = subprocess.Popen([python(), "-m", "peftbench", *asked], stdout=subprocess.PIPE, text=True)
    assert begun.stdout is not None
    for line in begun.stdout:
        if "probes: judged by" in line:
            begun.send_signal(signal.SIGINT)
            break
    told = begun.stdout.read()
    assert begun.wait() == 0
    assert "stopped: by the user; the answer is the best so far" in told
    assert "looked at once" in told
    (folder,) = out.glob("auto-*")
    before = state_of(folder)
    assert before["answer"]["method"] == "ridge"
    status, _, error = cli(*asked)
    assert status == 0, error
    after = state_of(folder)
    assert after["commands"] == 2
    assert len(after["tried"]) > len(before["tried"])
    assert after["tried"][: len(before["tried"])] == before["tried"]
    names = {entry["name"] for entry in after["tests"]}
    assert len(names) == len(after["tests"]) == after["answer"]["looks"]


@pytest.mark.slow
def test_many_images_are_probed_by_a_sample_first(tmp_path, cli, monkeypatch):
    monkeypatch.setattr("peftbench.answering.probes.SAMPLE", 100)
    asked = ["auto", "data=digits", "data.size=32", "backbones=[resnet_nano]", "methods=[ridge]", "minutes=1"]
    status, out, error = cli(*asked)
    assert status == 0, error
    (folder,) = tmp_path.glob("auto-*")
    sampled = [one for one in state_of(folder)["tried"] if one["step"] == "probes of a sample"]
    assert {one["status"] for one in sampled} == {"complete"}
    record = json.loads((folder / "runs" / sampled[0]["run"] / "result.json").read_text())
    assert record["stamps"]["data"]["images"]["train"] == 100
    assert "part" in record["stamps"]["data"]["split"]
    assert "100 of 999 training images" in out
    assert "twice as many would bring about" in out
    answer = state_of(folder)["answer"]
    final = json.loads((folder / "answer" / "result.json").read_text())
    assert final["stamps"]["data"]["images"]["train"] == 999 + 199
    assert answer["val_interval"][0] < answer["test"] < answer["val_interval"][1]


@pytest.mark.slow
def test_a_task_whose_steps_depend_on_the_images_is_answered_by_its_own_metric(tmp_path, cli):
    asked = ["auto", "data=digits_det", "data.images=[6,3,3]", "data.size=64", "backbones=[resnet_nano]"]
    status, out, error = cli(*asked, "minutes=0.1", "methods=[losa]")
    assert status == 0, error
    (folder,) = tmp_path.glob("auto-*")
    answer = state_of(folder)["answer"]
    assert answer["metric"] == "AP"
    assert answer["test"] is not None
    assert answer["test_interval"] is None
    assert "solves a head on pooled features" in out


@pytest.mark.parametrize("power", [0.2, 0.5])
def test_a_power_law_is_led_on_and_its_band_holds_it(power):
    points = [(n, 1 - n**-power) for n in (100, 200, 400)]
    low, middle, high = extrapolated(points, 800, counted=1000, seed=0)
    assert middle == pytest.approx(1 - 800**-power, abs=1e-9)
    assert low < middle < high
    flat = extrapolated([(100, 0.9), (200, 0.85), (400, 0.8)], 800, counted=1000, seed=0)
    assert flat[1] <= 0.9, "a curve that falls is led on as a level one"
    assert extrapolated([(100, 1.0), (200, 1.0), (400, 1.0)], 800, counted=50, seed=0)[2] <= 1


def test_the_bell_ends_what_takes_too_long_and_nothing_after_it():
    begun = time.monotonic()
    with pytest.raises(OutOfTime, match="its time was over"), ended_after(0.05):
        time.sleep(20)
    assert time.monotonic() < begun + 15
    with ended_after(0.05):
        pass
    time.sleep(0.1)  # in which it would have rung
    with pytest.raises(KeyboardInterrupt), ended_after(60):
        raise KeyboardInterrupt
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell begins what runs in the background
    try:
        with pytest.raises(OutOfTime), ended_after(0.05):
            time.sleep(20)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ours)


def never_ends(self: object, problem: object) -> None:
    while True:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_step_and_an_answer_whose_time_is_over_are_ended_and_the_same_command_goes_on(answered, place, cli, tmp_path):
    asked = words(place / "photos", "methods=[ridge]", "minutes=5", f"output_dir={tmp_path / 'out'}")
    solve, answering = Ridge.solve, []

    def last(self: Clock) -> float:
        answering.append(True)
        return 0.1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogReg, "solve", never_ends)
        patch.setattr(Ridge, "solve", lambda self, problem: (never_ends if answering else solve)(self, problem))
        patch.setattr(Search, "most", property(lambda self: 15.0))  # in which ridge ends on a slow machine too
        patch.setattr(Clock, "last", property(last))
        status, out, error = cli(*asked)
    assert status == 0, error
    assert "logreg on resnet_nano is left out: its time was over before it had ended" in out
    assert "no time was left to train method=ridge backbone=resnet_nano on all images" in out
    assert "test: no time was left for it; the same command goes on there" in out
    (folder,) = (tmp_path / "out").glob("auto-*")
    record = json.loads((folder / "answer" / "result.json").read_text(encoding="utf-8"))
    assert (record["status"], record["config"]["data"]["stage"]) == ("complete", "tune")
    status, out, error = cli(*asked)
    assert status == 0, error
    assert "learned from: training and validation images" in out
    tried = state_of(folder)["tried"]
    assert {one["status"] for one in tried if one["method"] == "logreg"} == {"complete"}
    assert state_of(folder)["answer"]["test"] == 1.0


@pytest.mark.slow
def test_time_that_is_over_before_a_run_has_its_folder_costs_no_answer(answered, place, cli, tmp_path):
    asked = words(place / "photos", "methods=[ridge]", "minutes=5", f"output_dir={tmp_path / 'out'}")
    prepared = single_run.prepared_folder

    def never_prepared(folder: Path, config: Config) -> None:
        return never_ends(folder, config) if config.data.stage == "final" else prepared(folder, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_run, "prepared_folder", never_prepared)
        patch.setattr(Clock, "last", property(lambda self: 0.1))
        status, out, error = cli(*asked)
    assert status == 0, error
    assert "no time was left to train method=ridge backbone=resnet_nano on all images" in out


def test_where_no_last_training_ends_well_the_answer_is_a_sentence(place, answered, cli, tmp_path):
    asked = words(place / "photos", "methods=[ridge]", "minutes=0.001", f"output_dir={tmp_path / 'out'}")
    prepared = single_run.prepared_folder

    def breaks(folder: Path, config: Config) -> None:
        if config.data.stage == "final":
            raise RuntimeError("it broke")
        prepared(folder, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_run, "prepared_folder", breaks)
        status, out, error = cli(*asked)
    assert (status, error) == (1, "")
    assert "cannot be the answer: it broke" in out
    assert out.endswith("no model could be trained on all images; the lines above say why.\n")


@pytest.mark.slow
def test_few_images_are_judged_by_folds_in_which_each_judges_once(tmp_path, cli):
    root = coloured(tmp_path / "photos", each=10)
    asked = words(root, "methods=[ridge,losa]", "minutes=20", f"output_dir={tmp_path / 'out'}")
    with few_choices():
        status, out, error = cli(*asked)
    assert status == 0, error
    (folder,) = (tmp_path / "out").glob("auto-*")
    state = state_of(folder)
    assert state["folds"] == 5
    judged = [one for one in state["tried"] if one["step"] in ("probes", "side nets")]
    assert {one["method"] for one in judged} == {"ridge", "logreg", "knn", "losa"}
    for one in judged:
        assert len(one["by_fold"]) == 5
        assert one["images"] == 24
    records = [json.loads(file.read_text()) for file in (folder / "runs").glob("*/result.json")]
    folds = {r["stamps"]["data"]["split"] for r in records if r["config"]["method"]["name"] == "ridge"}
    assert sum("fold" in name for name in folds) >= 5
    (losa,) = [one for one in judged if one["method"] == "losa"]
    own = [r["metrics"]["val/accuracy"] for r in records if r["config"]["method"]["name"] == "losa"]
    assert losa["value"] == pytest.approx(np.average(losa["by_fold"], weights=[5, 5, 5, 5, 4]))
    assert sorted(v for v in own if v is not None)[:1] <= sorted(losa["by_fold"])[:1]
    assert "24 validation images in 5 folds" in out
    final = json.loads((folder / "answer" / "result.json").read_text())
    assert final["stamps"]["data"]["images"]["train"] == 24


@pytest.mark.parametrize("labels", [[0] * 7 + [1] * 5 + [2], [0.5] * 13])
def test_folds_hold_every_image_once_and_classes_evenly(labels):
    pool = Split(np.zeros((13, 2, 2), dtype=np.uint8), np.array(labels), [str(n) for n in range(13)])
    splits = Splits("s", () if labels[0] else ("a", "b", "c"), pool.take(np.arange(9)), pool.take(np.arange(9, 13)))
    folds = folds_of(splits, 5, seed=0)
    assert sorted(name for fold in folds for name in fold.val.names) == sorted(pool.names)
    for fold in folds:
        assert not set(fold.val.names) & set(fold.train.names)
        assert len(fold.train) + len(fold.val) == 13
        assert np.sum(fold.val.labels == labels[0]) in (1, 2, 3)
    assert len({fold.name for fold in folds}) == 5
