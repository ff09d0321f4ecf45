"""Heads that are solved instead of trained: k-NN, ridge regression and logistic regression on pooled features."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn import functional as F

import peftbench
from peftbench.config.identity import identity
from peftbench.costs import PeakMemory
from peftbench.methods.knn import KNN, nearest
from peftbench.methods.logreg import LogReg
from peftbench.methods.ncm import NCM
from peftbench.methods.ridge import LeastSquares, Ridge
from peftbench.methods.shared import softmax_regression
from peftbench.methods.shared.softmax_regression import SoftmaxRegression
from peftbench.methods.shared.solving import Features, Problem, best
from peftbench.runs.build import instantiate
from peftbench.runs.dry_run import plan_run
from peftbench.runs.run import run, run_jointly
from peftbench.runs.solved_heads import settled_for_solving
from peftbench.sweeps.grouping import joint_signature
from peftbench.training import solving
from peftbench.tuned.export import export
from support.finished_runs import same
from support.runs import QUICK, learned
from support.runs import compose as compose_quick

CPU = torch.device("cpu")
SOLVED = ("knn", "ridge", "logreg", "ncm")
FEW = {
    "knn": "method.k=[1,3]",
    "ridge": "method.penalty=[0.1,10]",
    "logreg": "method.C=[0.01,1]",
    "ncm": "method.shrink=[0,0.5]",
}
"""Several values to choose among, few enough to be quick."""


def compose(folder, *words):
    """With trained weights: images whose features are nearly equal have neighbours by chance."""
    return compose_quick(folder, "backbone.pretrained=true", *words)


def features(values, targets) -> Features:
    table = torch.as_tensor(values, dtype=torch.float32)
    return Features(lambda first, last: table[first:last], table.shape[1], torch.as_tensor(targets))


def problem(train: Features, outputs: int, **more) -> Problem:
    def wanted(targets):
        return F.one_hot(targets, outputs).double()

    return Problem(train, None, train, outputs, lambda: None, wanted, CPU, **more)


def clouds(images=60, width=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    centres = torch.randn(classes, width, generator=generator)
    return centres[labels] + torch.randn(images, width, generator=generator), labels


# -- what they compute


def head_of(method, data: Features, outputs: int):
    """The head of a method with its one value, which it works out from these features."""
    head = method.head(torch.nn.Linear(data.width, outputs), len(data))
    head.load_state_dict(dict(method.solve(problem(data, outputs)).tensors))
    return head


@pytest.mark.parametrize(("temperature", "winner"), [(0.07, 0), (0.288, 0), (0.289, 1), (1.0, 1)])
def test_neighbours_vote_by_their_cosine_and_cross_where_they_must(temperature, winner):
    """One at cosine 1 against two at 0.8: they are even at T = 0.2 / ln 2 = 0.2885."""
    data = features([[1, 0], [0.8, 0.6], [0.8, -0.6]], [0, 1, 1])
    head = head_of(KNN(k=(3,), temperature=(temperature,)), data, 2)
    logits = head(torch.tensor([[3.0, 0.0]]))
    assert logits.argmax().item() == winner
    share = math.exp(1 / temperature) / (math.exp(1 / temperature) + 2 * math.exp(0.8 / temperature))
    assert logits.exp()[0].tolist() == pytest.approx([share, 1 - share], abs=1e-3)  # the table is in fp16


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_the_order_of_the_training_images_does_not_matter(order, k):
    values, labels = clouds(12)
    queries = clouds(7, seed=1)[0]
    heads = [
        head_of(KNN(k=(k,)), features(values[rows], labels[rows]), 3)
        for rows in (torch.arange(12), torch.tensor(order))
    ]
    assert torch.allclose(*(head(queries) for head in heads), atol=1e-6)


def test_a_table_is_searched_in_parts_as_at_once():
    values, _ = clouds(40)
    table, queries = F.normalize(values), F.normalize(clouds(9, seed=1)[0])
    cosines, rows = nearest(queries, table.split(7), 10)
    whole = (queries @ table.T).topk(10)
    assert torch.allclose(cosines, whole.values)
    assert torch.equal(rows, whole.indices)
    assert nearest(queries, table[:4].split(3), 10)[0].shape == (9, 4)


def test_a_class_without_a_vote_has_a_finite_logit():
    head = head_of(KNN(k=(1,)), features([[1, 0], [0, 1]], [0, 1]), 3)
    assert head(torch.tensor([[1.0, 0.0]]))[0].tolist() == pytest.approx([0, math.log(1e-6), math.log(1e-6)])


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_ridge_is_the_same_by_images_as_by_features(shape):
    values, labels = clouds(*shape)
    data = features(values, labels)
    primal, dual = (LeastSquares(problem(data, 3), data, dual) for dual in (False, True))
    for penalty in (1e-2, 1.0, 1e3):
        for one, other in zip(primal.head(penalty), dual.head(penalty), strict=True):
            assert (one - other).abs().max() < 1e-10
    x = (values.double() - values.double().mean(0)).numpy()
    y = F.one_hot(labels, 3).double().numpy()
    weight = np.linalg.solve(x.T @ x + np.eye(shape[1]), x.T @ (y - y.mean(0)))
    assert np.abs(primal.head(1.0)[0].numpy().T - weight).max() < 1e-9


def test_ridge_with_a_large_penalty_gives_how_frequent_the_classes_are():
    values, labels = clouds(50)
    head = head_of(Ridge(penalty=(1e12,)), features(values, labels), 3)
    assert torch.allclose(head(values), torch.bincount(labels) / 50, atol=1e-6)


def test_the_nearest_mean_is_the_class_and_a_class_without_images_is_never_said():
    values, labels = clouds(40, classes=3)
    queries = clouds(25, seed=1)[0]
    means = torch.stack([values[labels == c].mean(0) for c in range(3)])
    for shrink in (0.0, 0.4):
        head = head_of(NCM(shrink=(shrink,)), features(values, labels), 4)
        drawn = torch.lerp(means, means.mean(0, keepdim=True), shrink)
        assert torch.equal(head(queries).argmax(1), torch.cdist(queries, drawn).argmin(1))
    again = head_of(NCM(), features(values[labels < 2], labels[labels < 2]), 2)
    whole = head_of(NCM(), features(values, labels), 3)
    assert torch.allclose(again.weight, whole.weight[:2]), "classes that come later change none of those before"


def test_logistic_regression_of_two_images():
    data = features([[1.0], [-1.0]], [1, 0])
    fitted = SoftmaxRegression(data, 2, CPU).fit(1.0, None, 1000, 1e-12)
    assert fitted.place[:, 0].tolist() == pytest.approx([-0.5212984571, 0.5212984571], abs=1e-9)
    assert fitted.place[:, 1].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert fitted.converged


@pytest.mark.parametrize("c", [1e-3, 1.0, 1e3])
def test_logistic_regression_is_that_of_scikit_learn(c):
    """It ends no higher than the peer, whose weights are off by what its own stopping leaves."""
    from sklearn.linear_model import LogisticRegression

    values, labels = clouds(90)
    data = features(values, labels)
    regression = SoftmaxRegression(data, 3, CPU)
    fitted = regression.fit(c, None, 1000, 1e-12)
    peer = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(values.double().numpy(), labels.numpy())
    weight, bias = regression.head(fitted)
    assert np.allclose(weight.numpy(), peer.coef_, atol=2e-4 * max(np.abs(peer.coef_).max(), 1))
    weights, biases = (weight, torch.from_numpy(peer.coef_)), (bias, torch.from_numpy(peer.intercept_))
    ours, theirs = (
        c * F.cross_entropy(values.double() @ w.T + b, labels, reduction="sum") + w.square().sum() / 2
        for w, b in zip(weights, biases, strict=True)
    )
    assert ours <= theirs + 1e-9 * theirs
    *_, again = regression.path([c / 4, c / 2, c], 1000, 1e-12)
    assert torch.allclose(again.place, fitted.place, atol=1e-5 * max(np.abs(peer.coef_).max(), 1))


@pytest.mark.parametrize("method", [KNN(k=(3,)), Ridge(penalty=(1.0,)), LogReg(C=(1.0,)), NCM()], ids=SOLVED)
def test_features_in_chunks_are_as_those_in_memory(method, monkeypatch):
    values, labels = clouds(64)
    whole = head_of(method, features(values, labels), 3)(values)
    monkeypatch.setattr("peftbench.methods.shared.solving.CHUNK", 2000)
    monkeypatch.setattr(softmax_regression, "IN_MEMORY", 0)
    data = features(values, labels)
    assert len(list(data.chunks(3))) > 3
    assert torch.allclose(head_of(method, data, 3)(values), whole, atol=1e-5)


def test_the_best_is_the_earlier_where_metric_and_loss_are_equal():
    assert best([(0.5, -1.0), (0.7, -2.0), (0.7, -1.0), (0.7, -1.0), (math.nan, 0.0)]) == 2


# -- a run of them


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solved")
    return {name: run(compose(folder, f"method={name}", FEW[name], "logger=csv")) for name in SOLVED}


@pytest.mark.parametrize("name", SOLVED)
def test_a_record_has_all_but_steps(runs, name):
    record = runs[name]
    assert record.status == "complete"
    assert record.history == []
    assert record.stamps["data"]["images"]["train"] == 60  # three batches of 20
    assert record.stamps["solved"]["images"] == 60
    assert record.stamps["solved"]["held_out_of"] == "validation images"
    assert len(record.stamps["solved"]["tried"]) == 2
    merits = [point["merit"] for point in record.stamps["solved"]["tried"]]
    assert record.metrics["val/accuracy"] == pytest.approx(max(merits))
    assert 0 <= record.metrics["test/accuracy"] <= 1
    costs = record.costs
    assert costs["time"]["train"] >= costs["time"]["features"] > 0
    assert "step" not in costs["time"]
    assert costs["memory"]["peak"]["above"] >= 0
    assert costs["taps"]["mode"] == "disk"
    width = 10 * (record_width(record) + 1)
    assert (costs["parameters"]["method"], costs["parameters"]["head"]) == (0, 0 if name == "knn" else width)


def record_width(record) -> int:
    with safe_open(Path(record.folder) / "delta.safetensors", "pt") as delta:
        return delta.get_tensor("task.head.table" if "knn" in record.id else "task.head.weight").shape[1]


@pytest.mark.parametrize("name", SOLVED)
def test_the_bytes_of_the_delta(runs, name):
    tensors = learned(runs[name])
    width = record_width(runs[name])
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    assert all(tensor.startswith("task.head.") for tensor in tensors)
    if name == "knn":  # N x d in fp16, a class each, the most neighbours, the temperature
        assert size == 60 * width * 2 + 60 * 8 + 3 * 4 + 4
    else:
        assert size == 4 * (10 * width + 10)
    file = Path(runs[name].folder) / "delta.safetensors"
    assert runs[name].costs["delta_bytes"] == file.stat().st_size


@pytest.mark.parametrize(
    "name", ["knn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ridge", "logreg", "ncm"))]
)
def test_it_is_the_same_to_the_bit_again_and_loads(runs, name, tmp_path, monkeypatch):
    """From features in a file, without kept taps, and with epochs and a rate that have no effect."""
    monkeypatch.setattr(solving, "IN_MEMORY", 0)
    more = ["taps=off", "trainer.epochs=7", "optimizer.lr=0.5"]
    again = run(compose(tmp_path, f"method={name}", FEW[name], *more))
    assert same(learned(again), learned(runs[name]))
    assert again.metrics == runs[name].metrics
    assert not [p for p in Path(again.folder).iterdir() if p.name.startswith("tmp")]
    tuned = peftbench.load(runs[name].folder)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits = tuned(images)
    assert torch.equal(logits, peftbench.load(again.folder)(images))
    assert torch.isfinite(logits).all()
    assert logits.std(1).min() > 0


def test_each_is_another_head(runs):
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    logits = [peftbench.load(record.folder)(images) for record in runs.values()]
    assert all(not torch.allclose(a, b, atol=0.01) for a, b in zip(logits, [*logits[1:], logits[0]], strict=True))


def test_without_validation_a_tenth_of_the_training_images_is_held_out(runs, tmp_path):
    words = ["data.stage=final", "method=logreg"]
    record = run(compose(tmp_path, *words, FEW["logreg"]))
    solved = record.stamps["solved"]
    assert solved["held_out"] == 6
    assert solved["held_out_of"].startswith("training images")
    chosen = solved["chosen"]["C"]
    fixed = run(compose(tmp_path, *words, f"method.C=[{chosen}]"))
    assert fixed.stamps["solved"]["held_out"] == 0
    assert fixed.stamps["solved"]["tried"] == []
    for name, tensor in learned(fixed).items():  # the chosen one is fitted to all of them again
        assert torch.allclose(tensor, learned(record)[name], atol=1e-4)


MIXED = ["data.augment=flip", "data.mixup=0.2", "data.sampler=balanced"]
MIXED += ["optimizer.lr=0.5", "optimizer.weight_decay=0.0", "trainer.epochs=7"]


def test_augmentation_has_no_effect_and_is_said_so(runs, capsys):
    folder = Path(runs["ridge"].folder)
    again = run(compose(folder.parent, "method=ridge", FEW["ridge"], "logger=csv", *MIXED))
    assert again.id == runs["ridge"].id
    assert again.was_there
    assert f"{', '.join(MIXED)}: are without effect" in capsys.readouterr().err


def test_a_sweep_says_once_what_has_no_effect_in_all_its_runs(runs, capsys):
    folder = Path(runs["ridge"].folder)
    config = compose(folder.parent, "method=ridge", FEW["ridge"], "logger=csv", "trainer.epochs=7")
    assert [run(config, group="a sweep").was_there for _ in range(3)] == [True] * 3
    assert capsys.readouterr().err.count("trainer.epochs=7: is without effect") == 1
    assert run(config, group="another").was_there
    assert "is without effect" in capsys.readouterr().err


@pytest.mark.parametrize("name", SOLVED)
def test_a_run_without_a_word_on_training_is_the_one_that_others_become(name):
    spec = peftbench.compose(f"method={name}", "backbone=vit_nano", "data=digits")
    assert settled_for_solving(spec, instantiate(spec.method)) == spec
    for words in (["optimizer=sgd", "optimizer.momentum=0.5"], ["optimizer=timm", "optimizer.name=lion"]):
        told: list[str] = []
        other = peftbench.compose(f"method={name}", "backbone=vit_nano", "data=digits", *words)
        assert identity(settled_for_solving(other, instantiate(spec.method), told.append)) == identity(spec)
        assert identity(other) == identity(spec)
        assert told[0].startswith(f"optimizer={other.optimizer.name}: is without effect")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("regression", "r2"), ("multilabel", "mAP")])
def test_ridge_fits_numbers_and_labels(task, metric, tmp_path):
    """To what its own record says on validation images, as any run does; the loaded head predicts in their units."""
    words = [f"task={task}", "method=ridge", "trainer.max_batches=null"]
    record = run(compose(tmp_path, *words))
    tried = record.stamps["solved"]["tried"]
    assert record.metrics[f"val/{metric}"] == pytest.approx(max(point["merit"] for point in tried), abs=1e-5)
    assert record.metrics[f"val/{metric}"] > 0.3
    if task == "multilabel":
        assert 0.3 < record.stamps["chosen"]["threshold"] < 0.7


@pytest.mark.parametrize(
    ("name", "words", "instead"),
    [
        ("knn", ["data=digits_det"], "method=linear"),
        ("ridge", ["data=digits_det"], "method=linear"),
        ("logreg", ["data=digits", "task=multilabel"], "method=ridge"),
        ("knn", ["data=digits", "task=regression"], "method=ridge"),
    ],
    ids=["boxes", "boxes, ridge", "labels", "numbers"],
)
def test_what_has_no_such_head_is_refused(name, words, instead):
    config = peftbench.compose("backbone=resnet_nano", f"method={name}", *words)
    with pytest.raises(
        peftbench.Refusal, match=rf"method={name} solves a head on pooled features for .*{instead} works"
    ):
        plan_run(config)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=logreg", "method.C=[0]"], "method.C"),
        (["method=logreg", "method.C=[1,-2]"], "method.C"),
        (["method=logreg", "method.C=[]"], "method.C=[]: expected at least one value."),
        (["method=ridge", "method.penalty=[0]"], "method.penalty"),
        (["method=ridge", "method.penalty=[]"], "method.penalty=[]: expected at least one value."),
        (["method=knn", "method.k=[0]"], "method.k"),
        (["method=knn", "method.k=[61]"], "method.k=[61]: there are 60 training images to be neighbours"),
        (["method=knn", "trainer.keep=best"], "trainer.keep=best: method=knn solves its head"),
        (["method=knn", "optimizer.find_lr=true"], "optimizer.find_lr=true: method=knn solves its head"),
        (["method=knn", "task.label_smoothing=0.1"], "task.label_smoothing=0.1: method=knn solves its head"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(words, told, tmp_path):
    with pytest.raises(peftbench.UserError) as refused:
        run(compose(tmp_path, *words))
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_several_processes_are_refused():
    config = peftbench.compose(*QUICK, "method=knn", "trainer=ddp", "trainer.devices=2")
    told = r"^trainer.devices=2 trainer.nodes=1: method=knn is solved by one process; give .*trainer.strategy=single\.$"
    with pytest.raises(peftbench.Refusal, match=told):
        plan_run(config)


def test_they_are_carried_out_alone(tmp_path):
    configs = [compose(tmp_path, "method=ridge", f"seed={seed}", "data.order_seed=0") for seed in (0, 1)]
    assert joint_signature(configs[0]) is None
    with pytest.raises(peftbench.UserError, match="head that is solved"):
        run_jointly(configs)


def test_plan_says_that_there_are_no_steps(tmp_path):
    planned = plan_run(compose(tmp_path, "method=knn"))
    assert planned.step is None
    assert planned.parameters["head"] == 0
    assert any("has no steps" in note for note in planned.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize("format_", ["onnx", "torch_export", "safetensors"])
def test_it_is_exported(runs, name, format_, tmp_path):
    """`export` compares the file's logits with the model's itself."""
    out = tmp_path / ("model.pt2" if format_ == "torch_export" else f"model.{format_}")
    if (name, format_) == ("knn", "safetensors"):
        with pytest.raises(peftbench.Refusal, match=r"method=knn: this head .* is no linear layer.*format=onnx"):
            export(runs[name].folder, format_, out)
    else:
        assert export(runs[name].folder, format_, out).difference < 1e-3


@pytest.mark.slow
def test_a_protocol_tries_one_value_at_a_time(tmp_path, cli):
    """As many trials as for any other method; the final run has the chosen value and holds nothing out."""
    words = ["method=ridge", "protocol=vtab1k", "protocol.seeds=1", "backbone=resnet_nano", "data=digits"]
    words += ["backbone.pretrained=false", "data.size=32", "trainer.progress=false", "logger=none"]
    status, _, told = cli("-m", *words)
    assert status == 0, told
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/result.json")]
    (final,) = [r for r in records if r["config"]["protocol"]]
    assert len(final["config"]["protocol"]["tried"]) == 6
    assert final["stamps"]["solved"]["held_out"] == 0
    assert [final["stamps"]["solved"]["chosen"]["penalty"]] == final["config"]["protocol"]["chosen"]["method.penalty"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [KNN(k=(10, 20)), LogReg(C=(1.0, 2.0), iterations=2)], ids=["knn", "logreg"])
def test_memory_does_not_grow_with_the_images(method):
    """But for the targets, and for the table that is the head: images of 400 MB in fp64, and half of them."""
    base = torch.randn(997, 256, generator=torch.Generator().manual_seed(0))

    class Nothing:
        def update(self, outputs, targets):
            pass

        def merit(self):
            return 0.0, 0.0

    def needed(images):
        rows = torch.arange(images)
        whole = Features(lambda first, last: base[rows[first:last] % 997], 256, rows % 10)
        held = Features(lambda first, last: base[first:last], 256, torch.arange(100) % 10)
        given = Problem(whole, held, whole, 10, Nothing, lambda t: F.one_hot(t, 10).double(), CPU)
        memory = PeakMemory(CPU)
        memory.start()
        tensors = method.solve(given).tensors
        return memory.read()["above"] - sum(t.nbytes for t in tensors.values())

    few, many = needed(100_000), needed(200_000)
    assert many - few < 2**26


@pytest.mark.slow
def test_heads_of_a_run_that_is_stopped_are_worked_out_again(tmp_path, monkeypatch, runs):
    solve, calls = KNN.solve, []

    def stopping(self, given):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return solve(self, given)

    monkeypatch.setattr(KNN, "solve", stopping)
    config = compose(tmp_path, "method=knn", FEW["knn"])
    first = run(config)
    assert first.status == "interrupted"
    assert same(learned(run(config)), learned(runs["knn"]))
