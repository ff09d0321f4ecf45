"""`peftbench bundle`: one exported backbone with a small graph for each task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import peftbench
from peftbench.tuned import bundle as bundles
from support.finished_runs import finish, pictures
from support.runs import told_by

pytest.importorskip("onnxruntime", reason="pip install 'peftbench[onnx]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=8, test=6)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    words = {"losa": ["losa"], "again": ["losa", "seed=1"], "lora": ["lora", "method.rank=4"]}
    found = {}
    for name, (method, *more) in words.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = finish(
            folder, data, method, "vit_nano", "optimizer.lr=1e-2", "trainer.max_batches=2", *more
        ).folder
    return found


@pytest.fixture(scope="module")
def first(runs, tmp_path_factory):
    """A bundle of two tasks, which no test changes."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    done = bundles.bundle_runs({"digits": runs["losa"], "more": runs["lora"]}, folder)
    assert {name: (one.version, one.how) for name, one in done.items()} == {"digits": (1, "new"), "more": (1, "new")}
    return folder


@pytest.fixture
def folder(first, tmp_path):
    """A copy: a bundle is its files, wherever they lie."""
    shutil.copytree(first, tmp_path / "copy")
    return tmp_path / "copy"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def logits(run, files):
    tuned = peftbench.load(run, merge=False)
    with torch.no_grad():
        return tuned(torch.stack([tuned.transform(file) for file in files])).numpy()


def test_tasks_answer_as_their_runs_and_share_the_backbone(folder, runs, data, capsys):
    files = sorted((data / "test").rglob("*.png"))[::5]
    opened = bundles.open_bundle(folder)
    for name, run in (("digits", "losa"), ("more", "lora")):
        task = opened.task(name)
        np.testing.assert_allclose(task.predict(files), logits(runs[run], files), rtol=1e-3, atol=1e-4)
        assert task.classes == peftbench.load(runs[run]).classes
    assert set(files_in(folder)) == {"manifest.json", "base-1.bin", "digits-1.onnx", "more-1.onnx"}
    base = sum(t.nbytes for t in peftbench.load(runs["losa"]).model.backbone.state_dict().values())
    sizes = {name: len(content) for name, content in files_in(folder).items()}
    assert base * 0.95 < sizes["base-1.bin"] < base * 1.05
    assert max(sizes["digits-1.onnx"], sizes["more-1.onnx"]) < 0.2 * base
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sizes"]["share"] < 0.62
    status, told, _ = told_by(capsys, "bundle", f"out={folder}")
    assert status == 0
    assert "2 tasks: " in told
    assert f"{manifest['sizes']['share']:.2f} of them" in told
    assert "to another task: " in told


def test_a_new_version_is_used_and_the_one_before_comes_back(folder, runs, data, capsys):
    files = sorted((data / "test").rglob("*.png"))[:2]
    before = files_in(folder)
    status, told, _ = told_by(capsys, "bundle", f"runs=[digits={runs['losa']}]", f"out={folder}")
    assert (status, "digits: version 1, there already" in told) == (0, True)
    assert files_in(folder) == before
    status, told, _ = told_by(capsys, "bundle", f"runs=[digits={runs['again']}]", f"out={folder}")
    assert (status, "digits: version 2, new" in told, "1 other version kept" in told) == (0, True, True)
    after = files_in(folder)
    assert set(after) - set(before) == {"digits-2.onnx"}, "an update is one file, and the manifest"
    assert all(after[name] == content for name, content in before.items() if name != "manifest.json")
    opened = bundles.open_bundle(folder)
    new = opened.task("digits").predict(files)
    np.testing.assert_allclose(new, logits(runs["again"], files), rtol=1e-3, atol=1e-4)
    assert np.abs(opened.task("digits", 1).predict(files) - new).max() > 1e-3
    assert told_by(capsys, "bundle", "rollback=digits", f"out={folder}")[:2] == (
        0,
        "digits: version 1 is in use again, and 2 is kept\n",
    )
    old = bundles.open_bundle(folder).task("digits")
    assert old.version == 1
    np.testing.assert_allclose(old.predict(files), logits(runs["losa"], files), rtol=1e-3, atol=1e-4)
    status, _, told = told_by(capsys, "bundle", "rollback=digits", f"out={folder}")
    assert (status, "there is no earlier one" in told) == (2, True)
    done = bundles.bundle_runs({"digits": runs["again"]}, folder)
    assert (done["digits"].version, done["digits"].how) == (2, "in use again")


def test_files_that_are_others_are_refused(folder, runs, capsys):
    for name in ("base-1.bin", "digits-1.onnx"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(peftbench.UserError, match=rf"{name}: is not the file that manifest.json names"):
            bundles.open_bundle(folder).task("digits")
        (folder / name).unlink()
        with pytest.raises(peftbench.UserError, match=rf"{name}: is missing, and manifest.json names it"):
            bundles.open_bundle(folder).task("digits")
        (folder / name).write_bytes(whole)
    bundles.open_bundle(folder).task("digits")
    manifest = folder / "manifest.json"
    whole = manifest.read_text()
    for edited, sentence in (
        (whole.replace('"digits-1.onnx"', '"../digits-1.onnx"'), "is damaged: what it holds is not what was written"),
        (whole[:-40], "it is no JSON"),
        ("[]", "is no manifest of a bundle"),
        (whole.replace("peftbench-bundle-1", "peftbench-bundle-7"), "is of format peftbench-bundle-7"),
    ):
        manifest.write_text(edited)
        status, _, told = told_by(capsys, "bundle", f"out={folder}")
        assert (status, sentence in told) == (2, True), told
    manifest.unlink()
    status, _, told = told_by(capsys, "bundle", f"out={folder}")
    assert (status, "holds no manifest.json" in told) == (2, True), told


def damage(path: Path) -> bytes:
    """Turns its last bit over; returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def test_a_bundle_with_a_damaged_file_in_use_gets_nothing_new(folder, runs, capsys):
    for name in ("base-1.bin", "more-1.onnx"):
        whole = damage(folder / name)
        before = files_in(folder)
        status, _, told = told_by(capsys, "bundle", f"runs=[e={runs['again']}]", f"out={folder}")
        assert (status, f"{name}: is not the file that manifest.json names" in told) == (2, True), told
        assert told.endswith("; copy it again.\n"), "there is no earlier version"
        assert files_in(folder) == before
        (folder / name).write_bytes(whole)
    damage(folder / "digits-1.onnx")
    assert bundles.bundle_runs({"digits": runs["again"]}, folder)["digits"].version == 2, "it is not in use from now on"


def test_going_back_is_offered_only_where_it_helps(folder, runs, capsys):
    bundles.bundle_runs({"digits": runs["again"]}, folder)
    offer = f"copy it again, or go back: peftbench bundle rollback=digits out={folder}."
    damage(folder / "digits-2.onnx")
    status, _, told = told_by(capsys, "bundle", f"out={folder}")
    assert (status, told.endswith(f"; {offer}\n")) == (2, True), told
    whole = damage(folder / "digits-1.onnx")
    with pytest.raises(peftbench.UserError, match=r"digits-2\.onnx: .*; copy it again\.$"):
        bundles.open_bundle(folder).task("digits")
    with pytest.raises(peftbench.UserError, match=r"digits-1\.onnx: .*; copy it again\.$"):
        bundles.open_bundle(folder).task("digits", 1)
    (folder / "digits-1.onnx").write_bytes(whole)
    damage(folder / "base-1.bin")
    for words in ("more", "digits"):
        with pytest.raises(peftbench.UserError, match=r"; copy it again\.$"):
            bundles.open_bundle(folder).task(words)
    status, _, told = told_by(capsys, "bundle", "rollback=digits", f"out={folder}")
    assert (status, "base-1.bin: " in told, told.endswith("; copy it again.\n")) == (2, True, True), told


def test_another_backbone_is_refused_and_nothing_is_written(folder, runs, data, tmp_path):
    other = finish(tmp_path, data, "linear", "vit_nano", "backbone.pretrained=false", "trainer.max_batches=1").folder
    before = files_in(folder)
    with pytest.raises(peftbench.Refusal, match=r"is of fingerprint=.*manifest\.json of fingerprint=.*one backbone"):
        bundles.bundle_runs({"other": other}, folder)
    assert files_in(folder) == before
    with pytest.raises(peftbench.Refusal, match="the first run of fingerprint="):
        bundles.bundle_runs({"a": runs["losa"], "b": other}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_end_before_all_is_written_leaves_the_old_version_in_use(folder, runs, monkeypatch):
    before = files_in(folder)

    def stop(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("peftbench.tuned.bundle.writing.write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            bundles.bundle_runs({"digits": runs["again"]}, folder)
    assert files_in(folder) == before
    (folder / "digits-2.onnx").write_bytes(b"of a process that was killed")
    assert bundles.open_bundle(folder).task("digits").version == 1
    assert bundles.bundle_runs({"digits": runs["again"]}, folder)["digits"].version == 2
    assert bundles.open_bundle(folder).task("digits").version == 2


def test_words_that_make_no_sense(folder, runs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for words, sentence in (
        ([f"out={tmp_path / 'none'}"], "there is no such folder; give runs="),
        ([f"out={tmp_path / 'full'}", f"runs=[a={runs['losa']}]"], "is there already, and is no bundle"),
        ([f"out={folder}", f"runs=[a={runs['losa']}]", "rollback=digits"], "takes no runs beside it"),
        ([f"out={folder}", "rollback=digit"], "did you mean 'digits'?"),
        ([f"out={folder}", f"runs=[a={tmp_path}]"], "holds no result.json"),
        ([f"out={folder}", f"runs=[a/b={runs['losa']}]"], "'a/b' is no name of a task"),
        ([f"out={folder}", f"runs=[{tmp_path}/lr=0.1]"], "lr=0.1 is no folder"),
    ):
        status, _, told = told_by(capsys, "bundle", *words)
        assert (status, sentence in told) == (2, True), told
    with pytest.raises(peftbench.UserError, match=r"'\.\./up' is no name of a file"):
        bundles.bundle_runs({"../up": runs["losa"]}, folder)
    with pytest.raises(peftbench.UserError, match="did you mean 'more'"):
        bundles.open_bundle(folder).task("mor")
    with pytest.raises(peftbench.UserError, match="has no version 9; there are 1"):
        bundles.open_bundle(folder).task("more", 9)
