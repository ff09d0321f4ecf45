"""`peftbench evaluate`: a finished run on new labelled images."""

import json
import shutil

import pytest
from PIL import Image
from sklearn import metrics

import peftbench
from peftbench.cli.main import main
from support.finished_runs import logits_of


def told(capsys, *words):
    capsys.readouterr()
    status = main(["evaluate", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def table(file, rows, columns="path,label"):
    file.write_text("\n".join([columns, *rows]) + "\n")
    return file


def records(folder):
    return sorted(folder.glob("evaluation-*.json"))


def test_class_folders_give_the_figures_of_the_run_s_own_test_and_a_record(run, trained, capsys):
    folder, new = run
    before = (folder / "result.json").read_bytes()
    status, out, _ = told(capsys, f"run={folder}", f"images={new}")
    assert status == 0
    (path,) = records(folder)
    assert str(path) in out
    assert path.name.startswith("evaluation-new-")
    content = json.loads(path.read_text())
    figures = content["figures"]
    record = json.loads(before)
    assert figures["accuracy"] == pytest.approx(record["metrics"]["test/accuracy"])
    assert figures["class_accuracy"] == pytest.approx(record["metrics"]["test/class_accuracy"])
    assert content["data"]["images"] == 24
    assert content["data"]["copies_of_training"] == []
    assert content["data"]["transform"] == record["stamps"]["data"]["transform"]
    tuned = peftbench.load(folder, merge=False)
    logits, labels = logits_of(trained[1], tuned)
    said, names = logits.argmax(1), tuned.classes
    matrix = metrics.confusion_matrix(labels, said)
    assert figures["confusion"] == [
        [names[i], names[j], n] for i, row in enumerate(matrix.tolist()) for j, n in enumerate(row) if n
    ]
    area = metrics.roc_auc_score(labels, logits.softmax(1), multi_class="ovr")
    assert figures["auroc"] == pytest.approx(area, abs=1e-3)
    low, high = figures["intervals"]["accuracy"]
    assert low < figures["accuracy"] < high
    assert (folder / "result.json").read_bytes() == before
    assert main(["report", str(folder)]) == 0
    assert "evaluation" not in capsys.readouterr().out


def test_the_same_evaluation_is_there_and_others_have_records_of_their_own(run, capsys):
    folder, new = run
    told(capsys, f"run={folder}", f"images={new}")
    (path,) = records(folder)
    before = path.read_bytes(), path.stat().st_mtime_ns
    status, out, _ = told(capsys, f"run={folder}", f"images={new}")
    assert status == 0
    assert f"is there already: {path}" in out
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert told(capsys, f"run={folder}", f"images={new}", "seed=1")[0] == 0
    next((new / "one").iterdir()).unlink()
    assert peftbench.evaluate(folder, new).content["data"]["images"] == 23
    assert len(records(folder)) == 3
    assert path.read_bytes() == before[0]


def test_a_damaged_record_is_kept_and_named(run, capsys):
    folder, new = run
    path = peftbench.evaluate(folder, new).path
    path.write_text("mine")
    status, _, err = told(capsys, f"run={folder}", f"images={new}")
    assert status == 2
    assert "is not the record of this evaluation" in err
    assert str(path) in err
    assert path.read_text() == "mine"


def test_a_class_without_images_is_told_and_the_means_are_over_the_others(run, capsys):
    folder, new = run
    shutil.rmtree(new / "one")
    status, out, _ = told(capsys, f"run={folder}", f"images={new}")
    assert status == 0
    assert "1 class without an image here: 'one'" in out
    figures = json.loads(records(folder)[0].read_text())["figures"]
    rows = {row["name"]: row for row in figures["classes"]}
    assert rows["one"]["images"] == 0
    assert rows["one"]["recall"] is rows["one"]["auroc"] is None
    others = [row["recall"] for name, row in rows.items() if name != "one"]
    assert figures["class_accuracy"] == pytest.approx(sum(others) / 3)


def test_labels_that_the_run_does_not_know_are_named_and_can_be_left_out(run, capsys):
    folder, new = run
    (new / "three").rename(new / "thre")
    status, _, err = told(capsys, f"run={folder}", f"images={new}")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "6 images have labels" in err
    assert "'thre' (did you mean 'three'?)" in err
    assert "unknown=skip" in err
    assert not records(folder)
    status, out, _ = told(capsys, f"run={folder}", f"images={new}", "unknown=skip")
    assert status == 0
    assert "6 images with labels that the run does not know are left out: 'thre'" in out
    assert json.loads(records(folder)[0].read_text())["data"]["images"] == 18


def test_a_set_of_which_the_run_knows_no_label_is_refused_either_way(run, capsys):
    folder, new = run
    for name in ("zero", "two", "three"):
        shutil.rmtree(new / name)
    (new / "one").rename(new / "cat")
    for word in ("refuse", "skip"):
        status, _, err = told(capsys, f"run={folder}", f"images={new}", f"unknown={word}")
        assert status == 2
        assert "the run knows none of its labels: 'cat'" in err


def test_copies_of_training_images_and_damaged_files_are_told(run, trained, capsys):
    folder, new = run
    shutil.copy(next((trained[1] / "train" / "two").iterdir()), new / "two" / "copy.png")
    (new / "two" / "broken.png").write_bytes(b"no image")
    status, out, _ = told(capsys, f"run={folder}", f"images={new}")
    assert status == 0
    assert "1 of 25 images is a copy of training images, such as two/copy.png" in out
    data = json.loads(records(folder)[0].read_text())["data"]
    assert data["copies_of_training"] == ["two/copy.png"]
    assert data["unreadable"] == ["two/broken.png"]
    assert "1 image cannot be read and is left out, such as two/broken.png" in out


def test_a_csv_gives_the_figures_of_the_folders_and_of_splits_the_test(run, capsys):
    folder, new = run
    rows = [f"{path.relative_to(new)},{path.parent.name}" for path in sorted(new.glob("*/*.png"))]
    in_folders = peftbench.evaluate(folder, new)
    file = table(new / "labels.csv", rows)
    in_table = peftbench.evaluate(folder, new, "labels.csv")
    assert in_table.figures == in_folders.figures
    assert in_table.path != in_folders.path
    table(file, [*(f"{row},train" for row in rows[:4]), *(f"{row},test" for row in rows[4:])], "path,label,split")
    status, out, _ = told(capsys, f"run={folder}", f"images={new}", f"labels={file}")
    assert status == 0
    assert "20 images" in out
    assert "the rows of split test are read" in out


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ([], "path,label", "has no rows"),
        (["one/nothing.png,one"], "path,label", "labels.csv:2: there is no image"),
        (["x.png"], "file", "expected the columns path and label, found file"),
        (["a.png,one", "a.png,two"], "path,label", "labels.csv"),
        (["a.png,one,train"], "path,label,split", "names no test image"),
    ],
)
def test_a_csv_that_is_wrong_is_refused_in_one_sentence(run, capsys, rows, columns, expected):
    folder, new = run
    Image.new("L", (8, 8)).save(new / "a.png")
    file = table(new / "labels.csv", rows, columns)
    status, _, err = told(capsys, f"run={folder}", f"images={new}", f"labels={file}")
    assert status == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not records(folder)


def test_empty_sets_splits_and_missing_places_are_refused(run, trained, tmp_path, capsys):
    folder, new = run
    empty = tmp_path / "empty"
    (empty / "one").mkdir(parents=True)
    for words, expected in (
        ((f"images={empty}",), "holds no class folder with an image"),
        ((f"images={tmp_path / 'gone'}",), "there is no such folder"),
        ((f"images={trained[1]}",), f"images={trained[1] / 'test'}"),
        ((f"images={new}", "labels=gone.csv"), "labels=gone.csv: there is no such file"),
        ((f"images={new}", "seed=-1"), "seed=-1"),
    ):
        status, _, err = told(capsys, f"run={folder}", *words)
        assert status == 2, err
        assert expected in err
        assert len(err.splitlines()) == 1
    assert not records(folder)


def test_where_the_training_images_are_gone_the_record_says_that_copies_are_unknown(run, trained):
    folder, new = run
    away = trained[1].with_name("away")
    trained[1].rename(away)
    try:
        evaluation = peftbench.evaluate(folder, new)
    finally:
        away.rename(trained[1])
    assert evaluation.content["data"]["copies_of_training"] is None
    assert any("copies of training images is not known" in note for note in evaluation.content["notes"])
