"""A sweep says how far it is and what came of each job, and a mistake that jobs share is told once."""

from __future__ import annotations

import re

import pytest

from peftbench.backbones import weights
from peftbench.cli import sweep_progress
from peftbench.results import Record
from support.mistakes import pictures
from support.sweeps import plugin, start


def lines_of_jobs(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("job ")]


def test_each_job_has_its_number_its_result_and_the_time_that_is_left(cli, tiny):
    words = ["-m", *tiny, "method=linear"]
    status, out, _ = cli(*words, "seed=0,1")
    assert status == 0
    first, done, second, done_too = lines_of_jobs(out)
    assert first == "job 1 of 2: seed=0", "what differs between jobs"
    assert re.fullmatch(r"job 1 of 2: done, test \d+\.\d %", done)
    assert second == "job 2 of 2, about 5 s left: seed=1"
    assert done_too.startswith("job 2 of 2: done, test ")
    status, out, _ = cli(*words, "seed=0,1", "trainer.clip=null,0")
    lines = lines_of_jobs(out)
    assert lines[1] == done.replace("of 2: done", "of 4: was complete already")
    assert lines[2] == "job 2 of 4: seed=0 trainer.clip=0", "nothing ran from which to tell"
    assert lines[3].startswith("job 2 of 4: refused: trainer.clip=0.0: expected")
    assert sum("trainer.clip=0.0: expected" in line for line in lines) == 1


def test_the_time_left_is_that_of_jobs_that_ran(tmp_path):
    sweep_progress.begin(tmp_path, ["seed=range(12)", "method=lora"])
    assert sweep_progress.place_of(tmp_path, 5) == "job 6 of 12"
    assert sweep_progress.time_left(tmp_path) == ""
    for number, seconds in enumerate((60.0, 180.0)):
        sweep_progress.note_end(tmp_path, number, seconds, [Record("x", "complete", {})])
    sweep_progress.note_end(tmp_path, 2, 0.1, [Record("x", "complete", {}, was_there=True)])
    sweep_progress.note_end(tmp_path, 3, 0.1, [Record("", "failed", {})])
    assert sweep_progress.time_left(tmp_path) == "about 16 min left"
    sweep_progress.begin(tmp_path, ["optimizer.lr=interval(0, 1)"])
    assert (sweep_progress.place_of(tmp_path, 5), sweep_progress.time_left(tmp_path)) == ("job 6", "")


def test_data_that_no_job_has_end_a_sweep_at_once(cli):
    words = ["-m", "method=linear,bitfit", "seed=range(3)", "data=folder", "data.root=/nowhere"]
    status, out, err = cli(*words)
    assert status == 1
    assert err == (
        "peftbench: 6 of 6 jobs: data.root=/nowhere: there is no folder /nowhere; give the folder of your images.\n"
    )
    assert lines_of_jobs(out) == [], "before the first"


@pytest.mark.parametrize("word", ["trainer.epochs=0", "optimizer.lr=-1", "data=folder"])
def test_a_mistake_that_all_jobs_make_is_told_once_and_refused(cli, tiny, tmp_path, word):
    status, out, err = cli("-m", *tiny, "method=linear,bitfit", word)
    assert status == 2, "as of one job alone"
    assert out.startswith(f"2 of 2 jobs: {'data.root' if word == 'data=folder' else word.partition('=')[0]}")
    assert (out.count("\n"), err) == (1, ""), "with no advice to go on: nothing had begun"


def test_jobs_whose_words_are_refused_are_named_as_they_were_given(cli, tiny):
    status, out, _ = cli("-m", *tiny, "method=linear", "seed=-1,x")
    assert status == 2
    first, second = out.splitlines()
    assert first.startswith("refused method=linear backbone=resnet_nano data=digits seed=-1: seed=-1: expected")
    assert second.startswith("refused method=linear backbone=resnet_nano data=digits seed=x: seed='x': expected")


def test_a_damaged_image_ends_a_sweep_over_it_at_once(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 20, "dog": 20})
    (root / "cat" / "3.png").write_bytes(b"no image")
    words = [*tiny, "data=folder", f"data.root={root}"]
    status, out, err = cli("-m", *words, "method=linear,bitfit")
    assert status == 1
    assert lines_of_jobs(out) == ["job 1 of 2: method=linear"]
    assert err.startswith(f"peftbench: 2 of 2 jobs: {root / 'cat' / '3.png'}: cannot be read")
    assert "cannot be read" not in out
    status, _, err = cli(*words, "method=linear")
    assert status == 1, "a run that began and failed, as its record says"
    assert "cannot be read" in err


def test_data_that_some_jobs_lack_are_looked_for_once(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 20, "dog": 20})
    words = ["-m", *tiny, "method=linear", "data=folder", f"data.root=/nowhere,{root}", "seed=0,1"]
    status, out, err = cli(*words)
    assert status == 1
    sentence = "data.root=/nowhere: there is no folder /nowhere; give the folder of your images."
    assert f"\n2 of 4 jobs: {sentence}\n" in out
    assert [line for line in lines_of_jobs(out) if sentence in line] == [f"job 1 of 4: failed: {sentence}"]
    assert out.count(": done, test ") == 2
    assert err == ""


@pytest.mark.parametrize("names", ["resnet18", "resnet18,resnet34"])
def test_weights_that_cannot_be_fetched_are_asked_for_once(cli, tiny, monkeypatch, names):
    asked = []

    def download(hub_id, filename):
        asked.append(hub_id)
        raise OSError("no network")

    monkeypatch.setattr(weights, "_download", download)
    words = ["-m", *(w for w in tiny if not w.startswith("backbone")), "method=linear,bitfit", "seed=0,1"]
    status, out, err = cli(*words, "backbone=timm", f"backbone.name={names}")
    assert status == 1
    assert len(asked) == len(set(asked)) == len(names.split(","))
    if len(asked) == 1:
        assert err.startswith("peftbench: 4 of 4 jobs: backbone.name=resnet18: its weights could not be fetched")
        assert err.count("could not be fetched") == 1
        assert "could not be fetched" not in out
    else:
        assert len(re.findall(r"^4 of 8 jobs: backbone.name=resnet\d+: its weights", out, re.MULTILINE)) == 2


def test_tasks_that_lack_the_same_folder_tell_it_in_one_sentence(cli, tmp_path):
    tasks = "data=vtab/cifar,vtab/dtd,vtab/svhn"
    status, out, err = cli("-m", "method=linear", tasks, "seed=0,1", f"data_dir={tmp_path / 'none'}")
    assert (status, err) == (1, "")
    sentence = f"data=vtab/…: there is no folder {tmp_path / 'none' / 'vtab'}"
    assert out.count(sentence) == 2, "at once, and in the end"
    assert f"\n6 of 6 jobs: {sentence}" in out


@pytest.mark.slow
def test_what_all_jobs_lack_is_told_once_before_a_launcher_starts_any(tmp_path):
    plugin("joblib")
    words = ["-m", "method=linear,bitfit", "seed=range(5)", "data=folder", "data.root=/nowhere"]
    done = start(*words, "hydra/launcher=joblib", f"output_dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("peftbench: 10 of 10 jobs: data.root=/nowhere: there is no folder /nowhere")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


@pytest.mark.slow
def test_a_launcher_s_processes_say_how_far_a_sweep_is(tiny, tmp_path):
    plugin("joblib")
    words = ["-m", *tiny, "method=linear", "seed=range(5)", "hydra/launcher=joblib", f"output_dir={tmp_path}"]
    done = start(*words)
    assert done.returncode == 0, done.stderr
    numbers = re.findall(r"^job (\d) of 5: done, test", done.stdout, re.MULTILINE)
    assert sorted(numbers) == list("12345")
    assert re.search(r"^job 5 of 5, about \d+ s left: ", done.stdout, re.MULTILINE)
