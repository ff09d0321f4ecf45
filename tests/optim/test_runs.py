"""Runs with optimizers that stay near a start: resumed, compared, in two processes, and mistakes of users."""

import json
import subprocess

import pytest
import torch

import peftbench
from peftbench import backbones
from peftbench.runs.run import run
from peftbench.training.checkpoint import Checkpoints
from support.finished_runs import records_in
from support.forks import python
from support.runs import SMALL, learned

QUICK = [*SMALL, "trainer.epochs=2", "trainer.max_batches=2", "data.batch_size=20"]
PROJECTED = [["method=ftp"], pytest.param(["method=bitfit", "optimizer=ftp"], marks=pytest.mark.slow)]
PROJECTED += [pytest.param([f"method={m}"], marks=pytest.mark.slow) for m in ("tpgm", "l2sp", "wise_ft")]
SPD = ["optimizer=spd", "optimizer.layer_decay=0.8", "optimizer.head_lr=3", "trainer.micro_batch=8"]
PROJECTED += [pytest.param(["method=full", *SPD], marks=pytest.mark.slow)]


PRUNED = [
    pytest.param(words, marks=pytest.mark.slow)
    for words in (
        ["method=full", "pruning=unstructured"],
        ["method=petah"],
        ["method=losa", "pruning=structured"],
        ["method=ssf", "pruning=unstructured"],
        ["method=fact_tk", "method.rank=4", "backbone=vit_nano"],
        ["method=gps", "method.batches=2", "pruning=unstructured"],
    )
]


@pytest.mark.parametrize("words", PROJECTED + PRUNED, ids=" ".join)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, monkeypatch, words):
    config = [peftbench.compose(*QUICK, *words, f"output_dir={tmp_path / place}") for place in "ab"]
    undisturbed = run(config[0])
    batch_end, seen = Checkpoints.on_train_batch_end, []

    def stop(self, *arguments):
        seen.append(1)
        self.stop = len(seen) >= 3  # in the second epoch
        batch_end(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert run(config[1]).status == "interrupted"
    resumed = run(config[1])
    a, b = learned(undisturbed), learned(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert resumed.metrics == undisturbed.metrics


def test_projection_stays_near_and_the_head_is_free(tmp_path):
    """Two seeds: FTP ends nearer to its start than full fine-tuning at equal epochs, and its head is not held back."""
    for seed in (0, 1):
        far = {}
        for method in ("ftp", "full"):
            words = [f"method={method}", f"seed={seed}", "optimizer.lr=3e-3", "optimizer.warmup=0"]
            config = peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}")
            tensors = learned(run(config))
            torch.manual_seed(peftbench.data.loading.mix(seed, 1))
            start = backbones.build_with_weights(config.backbone, 32).state_dict()
            inside = [n for n in tensors if n.startswith("backbone.") and n.endswith(("weight", "bias"))]
            far[method] = sum((tensors[n] - start[n.removeprefix("backbone.")]).square().sum() for n in inside)
            far[method, "head"] = tensors["task.head.bias"].abs().max()
        assert far["ftp"] < 0.5 * far["full"]
        assert far["ftp", "head"] > 1e-3


@pytest.mark.slow
def test_spd_ends_nearer_to_its_start_and_its_first_step_is_the_plain_one(tmp_path):
    """The learning rate's factors act on the inner step alone; bf16 and clipping pass."""
    words = ["method=full", "optimizer.lr=3e-3", "optimizer.warmup=0", "optimizer.weight_decay=0"]
    words += ["optimizer.layer_decay=0.7", "optimizer.head_lr=2", "trainer.precision=bf16", "trainer.clip=1"]
    tensors = {}
    for batches, name in ((1, "adamw"), (1, "spd"), (20, "adamw"), (20, "spd")):
        more = [f"optimizer={name}", f"trainer.max_batches={batches}", "trainer.epochs=1", f"output_dir={tmp_path}"]
        config = peftbench.compose(*QUICK, *more[:1], *words, *more[1:])
        tensors[batches, name] = learned(run(config))
    torch.manual_seed(peftbench.data.loading.mix(0, 1))
    start = backbones.build_with_weights(config.backbone, 32).state_dict()
    assert all(torch.equal(t, tensors[1, "spd"][n]) for n, t in tensors[1, "adamw"].items())
    inside = [n for n in tensors[20, "spd"] if n.startswith("backbone.") and n.endswith(("weight", "bias"))]
    far = {
        name: sum((tensors[20, name][n] - start[n.removeprefix("backbone.")]).square().sum() for n in inside)
        for name in ("adamw", "spd")
    }
    assert far["spd"] < 0.9 * far["adamw"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "spt"])
def test_other_methods_learn_under_ftp(tmp_path, method):
    """LoRA's A and B are anchored at their starts: at 0 both would never move."""
    words = ["backbone=vit_nano", "data=digits", f"method={method}", "optimizer=ftp", "trainer.progress=false"]
    words += [
        "trainer.epochs=2",
        "trainer.max_batches=6",
        "data.stage=tune",
        "optimizer.lr=5e-3",
        "optimizer.schedule=constant",
    ]
    record = run(peftbench.compose(*words, f"output_dir={tmp_path}"))
    losses = [h["train_loss"] for h in record.history]
    assert losses[-1] < losses[0] - 0.1
    if method == "lora":
        assert max(t.abs().max().item() for n, t in learned(record).items() if n.endswith("lora_b")) > 1e-4


def test_wise_ft_ends_half_way_and_says_what_it_reaches_there(tmp_path):
    full, half, whole = (
        run(peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}"))
        for words in (["method=full"], ["method=wise_ft"], ["method=wise_ft", "method.alpha=1.0"])
    )
    a, b = learned(full), learned(half)
    torch.manual_seed(peftbench.data.loading.mix(0, 1))
    start = backbones.build_with_weights(peftbench.compose(*QUICK).backbone, 32).state_dict()
    for name in a:
        if name.startswith("backbone.") and a[name].is_floating_point():
            between = (start[name.removeprefix("backbone.")] + a[name]) / 2
            assert torch.allclose(b[name], between, atol=1e-6), name
    assert torch.equal(a["task.head.weight"], b["task.head.weight"])
    assert full.metrics == whole.metrics
    assert half.metrics["val/loss"] != full.metrics["val/loss"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=ftp", "method.kappa=1.5"], "method.kappa=1.5: expected a number from 0 to 1"),
        (["method=ftp", "method.exclude=[nothing*]"], "method.exclude=.*'nothing\\*' matches no trained tensor"),
        (["method=full", "optimizer=ftp", "optimizer.exclude=[taks.*]"], "optimizer.exclude=.*matches no trained"),
        (["method=ftp", "optimizer=ftp"], "method=ftp has an optimizer of its own; leave optimizer=ftp out"),
        (
            ["method=ftp", "trainer=fsdp", "trainer.accelerator=cpu"],
            "method=ftp: needs whole tensors.*use trainer=ddp",
        ),
        (["method=full", "optimizer=ftp", "trainer=fsdp"], "optimizer=ftp: needs whole tensors"),
        (["method=full", "optimizer=ftp", "optimizer.kappa=-1"], "optimizer.kappa=-1.0: expected a number from 0"),
        (["method=ftp", "optimizer=spd"], "optimizer=spd: method=ftp has an optimizer of its own; leave optimizer=spd"),
        (["method=full", "optimizer=spd", "trainer=fsdp"], "optimizer=spd: needs whole tensors"),
        (["method=full", "optimizer=spd", "optimizer.strength=-1"], "optimizer.strength=-1.0: expected"),
        (["method=tpgm", "method.iterations=0"], "method.iterations=0: expected at least 1"),
        (["method=l2sp", "method.strength=-1"], "method.strength=-1.0: expected 0 or more"),
        (["method=wise_ft", "method.alpha=2"], "method.alpha=2.0: expected a number from 0"),
    ],
)
def test_mistakes_of_the_command_line_get_one_sentence(tmp_path, monkeypatch, words, told):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(peftbench.UserError, match=told):
        run(peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}"))
    for left in tmp_path.glob("*/result.json"):  # of a run that never began
        assert json.loads(left.read_text())["status"] == "refused"


def test_bf16_clipping_accumulation_and_sgd_pass(tmp_path):
    words = ["method=full", "optimizer=ftp", "optimizer.inner=sgd", "trainer.precision=bf16", "trainer.clip=1"]
    record = run(peftbench.compose(*QUICK, *words, "trainer.accumulate=2", f"output_dir={tmp_path}"))
    assert record.status == "complete"


@pytest.mark.slow
@pytest.mark.parametrize(
    "trained",
    [
        ["method=bitfit", "optimizer=ftp", "optimizer.inner=sgd"],
        ["method=bitfit", "optimizer=spd", "optimizer.inner=sgd"],
        ["method=spt_lora", "optimizer=sgd", "method.batches=2", "method.dropout=0", "method.drop_path=0"],
        ["method=petah", "optimizer=sgd", "pruning.merge=masked"],
        ["method=ssf", "optimizer=sgd"],
        ["method=gps", "method.batches=2", "optimizer=sgd"],
        ["method=fact", "method.dropout=0", "optimizer=sgd", "backbone=vit_nano"],
    ],
    ids=" ".join,
)
def test_two_processes_reach_what_one_does(tmp_path, trained):
    found = []
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        words = [*QUICK, *trained, "optimizer.lr=0.01"]
        words += ["trainer.accelerator=cpu", "data.eval_batch_size=500", f"output_dir={tmp_path / place}"]
        command = [python(), "-m", "peftbench.cli.main", *more, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(learned(records_in(tmp_path / place)[0]))
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-4) for n in found[0])
