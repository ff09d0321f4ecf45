"""Runs that begin with what another one learned: `start=outputs/<run>`."""

import json
import shutil

import pytest
import torch

import peftbench
from peftbench import deltas
from peftbench.common.errors import Refusal, UserError
from peftbench.deltas import load_delta
from peftbench.runs.run import run
from support.finished_runs import QUIET, pictures, same
from support.stops import interrupted_and_undisturbed

STILL = ["optimizer.lr=1e-30", "optimizer.weight_decay=0"]  # what a run begins with is what it ends with


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders zero to three, and others of which two are called the same."""
    root = pictures(tmp_path_factory.mktemp("pictures") / "first", train=4, test=2)
    others = root.with_name("second")
    for role in ("train", "test"):
        for old, new in (("three", "three"), ("one", "one"), ("zero", "nil")):
            shutil.copytree(root / role / old, others / role / new)
    foreign = root.with_name("foreign")
    for role in ("train", "test"):
        for old, new in (("three", "c"), ("one", "a")):
            shutil.copytree(root / role / old, foreign / role / new)
    return {"first": root, "second": others, "foreign": foreign}


def config(folder, root, *words):
    return peftbench.compose(
        "method=lora", "backbone=resnet_nano", "data=folder", f"data.root={root}", "data.val_fraction=0",
        "data.size=32", "data.batch_size=16", "trainer.epochs=1", f"output_dir={folder}", *QUIET, *words,
    )  # fmt: skip


def delta(folder, record):
    return load_delta(folder / record.id / "delta.safetensors")[0]


def close(ours, theirs):
    """Whether two sets of tensors are the same but for the smallest of steps."""
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[n], theirs[n], rtol=1e-6, atol=1e-20) for n in ours)


@pytest.fixture(scope="module")
def before(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    record = run(config(folder, data["first"], "optimizer.lr=0.01"))
    return folder / record.id, record


def test_method_and_rows_of_the_same_classes_are_taken_over_and_the_record_says_from_where(
    data, before, tmp_path, capsys, monkeypatch
):
    folder, first = before
    reads = []
    monkeypatch.setattr(deltas, "load_delta", lambda path: reads.append(path) or load_delta(path))
    record = run(config(tmp_path, data["second"], f"start={folder}", *STILL))
    assert reads.count(folder / "delta.safetensors") == 1
    learned, begun = delta(tmp_path, record), delta(folder.parent, first)
    assert "2 of 3 classes are known by name" in capsys.readouterr().err
    assert close(*({n: t for n, t in tensors.items() if not n.startswith("task.")} for tensors in (learned, begun)))
    old = sorted(["zero", "one", "two", "three"])
    assert tuple(peftbench.load(tmp_path / record.id).classes) == ("nil", "one", "three")
    for name in ("task.head.weight", "task.head.bias"):
        for place, label in ((1, "one"), (2, "three")):
            assert torch.allclose(learned[name][place], begun[name][old.index(label)], atol=1e-20)
    assert not torch.allclose(learned["task.head.weight"][0], begun["task.head.weight"][old.index("zero")])
    metadata = load_delta(folder / "delta.safetensors")[1]
    assert record.stamps["start"] == {"run": first.id, "delta": metadata["content"], "chain": []}


def test_the_id_goes_by_what_was_learned_and_not_by_where_it_lies_and_a_chain_is_kept(data, before, tmp_path):
    folder, first = before
    plain = run(config(tmp_path, data["first"], *STILL))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    there, here = (run(config(tmp_path, data["first"], f"start={f}", *STILL)) for f in (folder, moved))
    assert there.id == here.id != plain.id
    again = run(config(tmp_path, data["first"], f"start={tmp_path / there.id}", *STILL))
    stamp = again.stamps["start"]
    assert (stamp["run"], [link["run"] for link in stamp["chain"]]) == (there.id, [first.id])
    assert close(delta(tmp_path, again), delta(tmp_path, there))


def test_other_classes_begin_with_a_fresh_head_which_is_told(data, before, tmp_path, capsys):
    record = run(config(tmp_path, data["foreign"], f"start={before[0]}", *STILL))
    assert "the head starts fresh" in capsys.readouterr().err
    assert record.status == "complete"


def test_the_home_is_known_and_the_config_of_a_run_without_a_start_has_none(data, before, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(before[0].parent))
    record = run(config(tmp_path, data["first"], f"start=~/{before[0].name}", *STILL))
    assert record.stamps["start"]["run"] == before[1].id
    assert before[1].config["start"] is None


def _unfinished(folder):
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"status": "interrupted", "reason": "stopped"}))


@pytest.mark.parametrize(
    ("spoil", "words", "told"),
    [
        (shutil.rmtree, [], "there is no such folder"),
        (lambda f: (f / "result.json").unlink(), [], "holds no result.json"),
        (lambda f: (f / "delta.safetensors").unlink(), [], r"delta.safetensors: is missing"),
        (_unfinished, [], r"is not complete but interrupted \(stopped\)"),
        (None, ["method=losa"], "is of method=lora, and this run has method=losa"),
        (None, ["method.rank=2"], r"the shape .* give the options that it was trained with \(method.rank=8"),
        (None, ["backbone=hybrid_nano"], "a delta fits only the very weights"),
        (None, ["backbone.quantize=int8"], "trained with backbone.quantize=null, and this run has .*=int8"),
    ],
)
def test_what_cannot_be_begun_from_is_refused(data, before, tmp_path, spoil, words, told):
    folder = tmp_path / "start"
    shutil.copytree(before[0], folder)
    if spoil is not None:
        spoil(folder)
    with pytest.raises((UserError, Refusal), match=told) as problem:
        run(config(tmp_path / "out", data["first"], f"start={folder}", *words))
    assert str(problem.value).startswith("start=")


def test_a_run_of_another_task_is_refused(before, tmp_path):
    with pytest.raises(Refusal, match="is of task=classification, and this run has task=detection"):
        run(peftbench.compose("data=digits_det", "backbone=resnet_nano", "method=lora", f"start={before[0]}",
                              f"output_dir={tmp_path}", *QUIET))  # fmt: skip


def test_the_command_line_says_so_in_one_sentence(cli):
    status, _, err = cli("method=linear", "backbone=resnet_nano", "data=digits", "start=nowhere")
    assert status == 2
    assert err.startswith("peftbench: start=nowhere: there is no such folder; give the folder of a finished run")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    tiny = [
        "backbone=resnet_nano",
        "backbone.pretrained=true",
        "method=lora",
        "data=digits",
        "data.size=32",
        "data.batch_size=16",
        "taps=off",
    ]
    first = run(peftbench.compose(*tiny, "trainer.max_batches=2", "trainer.epochs=1", f"output_dir={tmp_path}", *QUIET))
    words = [
        *tiny,
        f"start={tmp_path / first.id}",
        "trainer.max_batches=3",
        "trainer.epochs=2",
        "backbone.pretrained=true",
    ]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, at=4)
    assert resumed.costs["time"]["sessions"] == 2
    assert same(delta(tmp_path / "b", resumed), delta(tmp_path / "a", undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "linear", "losa", "cst", "lst", "petah", "spt_lora", "ftp", "wise_ft"])
def test_every_method_begins_where_another_run_ended(method, data, tmp_path):
    words = [f"method={method}"]
    first = run(config(tmp_path, data["first"], *words))
    more = [] if method == "wise_ft" else STILL
    record = run(config(tmp_path, data["first"], *words, f"start={tmp_path / first.id}", *more))
    assert record.status == "complete"
    if method not in ("wise_ft", "full", "ftp", "spt_lora"):  # where statistics of batch norms may move on
        assert close(delta(tmp_path, record), delta(tmp_path, first))
