"""Methods that add branches to blocks, in whole runs: resumed, compiled, computed again, exported, by two processes."""

from __future__ import annotations

from pathlib import Path

import pytest

import peftbench
from peftbench.runs.run import run
from peftbench.tuned.export import export
from support.finished_runs import finish, logits_of, pictures, same
from support.processes import one_and_two_processes
from support.runs import learned
from support.stops import interrupted_and_undisturbed

METHODS = ("adapter", "adapter_plus", "houlsby", "repadapter", "convpass", "mona")
DRAWN = ("adapter_plus", "mona")
"""Of these what is added draws random numbers, for images or for single ones."""
VIT = ["backbone=vit_nano", "data.size=32", "data.batch_size=8"]
SWIN = ["backbone=timm", "backbone.name=swin_tiny_patch4_window7_224", "backbone.pretrained=false"]
SWIN += ["+backbone.args={depths:[2,2],embed_dim:16,num_heads:[2,2]}"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=20, test=10)


@pytest.mark.parametrize("method", DRAWN)
def test_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path, monkeypatch, method):
    words = [f"method={method}", *VIT, "data.stage=tune", "logger=none"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.parametrize("words", [["backbone=vit_nano"], SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_loaded_and_exported_with_the_same_logits(method, words, data, tmp_path):
    record = finish(tmp_path, data, method, words[0].partition("=")[2], *words[1:])
    folder = Path(record.folder)
    beside, tuned = peftbench.load(folder, merge=False), peftbench.load(folder)
    a, labels = logits_of(data, beside)
    b, _ = logits_of(data, tuned)
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    assert (a.argmax(1) == labels).float().mean().item() == pytest.approx(record.metrics["test/accuracy"], abs=1e-6)
    for format_ in ("onnx", "torch_export"):
        assert export(folder, format_).difference < 1e-4
    if not beside.run.method.foldable:
        with pytest.raises(peftbench.Refusal, match="cannot be merged into a timm model"):
            export(folder, "safetensors")


CASES = [(m, VIT) for m in METHODS if m != "adapter_plus"]
CASES += [(m, [*SWIN, "data.size=32", "data.batch_size=8"]) for m in ("adapter", "mona")]


@pytest.mark.parametrize(("method", "words"), CASES)
def test_compiled_and_computed_again_it_learns_the_same(method, words, tmp_path):
    words = [f"method={method}", *words, "data=digits", "trainer.epochs=1", "trainer.max_batches=3", "logger=none"]
    words += ["data.stage=tune", "trainer.progress=false", "backbone.drop_path=0.0", "data.eval_batch_size=200"]
    plain, again, compiled = (
        run(peftbench.compose(*words, *more, f"output_dir={tmp_path / str(i)}"))
        for i, more in enumerate(
            ([], ["trainer.grad_checkpointing=true"], ["trainer.compile=true", "method.dropout=0"])
        )
    )
    assert same(learned(plain), learned(again))
    assert again.costs["memory"]["saved_for_backward"] < plain.costs["memory"]["saved_for_backward"]
    assert compiled.stamps["compiled"].get("without") is None
    assert compiled.stamps["compiled"]["blocks"] > 1  # of Swin, stages


@pytest.mark.parametrize("method", DRAWN)
def test_two_processes_learn_what_one_does(method, tmp_path):
    words = [f"method={method}", "data=digits", *VIT, "trainer.epochs=1", "trainer.max_batches=4", "logger=none"]
    words += ["data.stage=tune", "trainer.progress=false", "method.dropout=0.0"]
    words += ["method.drop_path=0.0"] if method == "adapter_plus" else []  # each process draws its own
    one_and_two_processes(words, tmp_path)
