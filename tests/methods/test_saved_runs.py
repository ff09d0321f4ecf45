"""Runs that an earlier version saved are loaded and compute what they computed then.

`saved_runs/` holds their folders without checkpoints, and `logits.json` what their models said of `images()` on the
processor and versions that it names, with the update beside the weights and merged into them. Nothing of it is written
anew: a version that no longer loads it breaks its users' deltas.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench.cli.main import main
from peftbench.common.notes import Note
from peftbench.tuned.finished_run import open_run

HERE = Path(__file__).parent
ROOT = next(p for p in HERE.parents if (p / "pyproject.toml").is_file())
_spec = importlib.util.spec_from_file_location("golden", ROOT / "scripts" / "golden.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

RUNS = HERE / "saved_runs"
KNOWN = json.loads((RUNS / "logits.json").read_text(encoding="utf-8"))


def images() -> torch.Tensor:
    """Four images (4, 3, 64, 64) in uint8, of integer arithmetic alone."""
    pixels = torch.arange(4 * 3 * 64 * 64, dtype=torch.int64)
    return (pixels * 7919 % 251 + pixels // 997 % 5).to(torch.uint8).view(4, 3, 64, 64)


@pytest.mark.filterwarnings("ignore:.*is of an earlier version")
@pytest.mark.parametrize("run", KNOWN["logits"])
@pytest.mark.parametrize("how", ["beside", "merged"])
def test_a_run_saved_by_an_earlier_version_computes_what_it_did(run, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        logits = peftbench.load(RUNS / run, merge=how == "merged")(images())
    finally:
        torch.set_num_threads(threads)
    known = torch.tensor([[float.fromhex(v) for v in row] for row in KNOWN["logits"][run][how]])
    if golden.stamp() == KNOWN["stamp"]:
        assert torch.equal(logits, known)
    torch.testing.assert_close(logits, known, rtol=1e-5, atol=1e-5)


def test_a_run_of_an_earlier_version_is_used_with_a_note(capsys):
    run = RUNS / "lora-vit_nano-digits-s0-ef17e39acd"
    with pytest.warns(Note, match="did not bind all of config.yaml to it"):
        open_run(run)
    image = Path(peftbench.__file__).parent / "data" / "photos" / "test" / "helicopter" / "image_0020.jpg"
    assert main(["predict", f"run={run}", f"images={image}", "device=cpu"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(
        f"note: {run / 'delta.safetensors'}: is of an earlier version, which did not bind all of "
    )
    assert len(told.err.splitlines()) == 1
    assert len(told.out.splitlines()) == 2


def test_every_saved_run_is_tested():
    assert {p.name for p in RUNS.iterdir() if p.is_dir()} == set(KNOWN["logits"])
