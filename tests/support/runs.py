"""Words of a small run on digits, and what a run learned."""

from pathlib import Path

import safetensors.torch

import peftbench

SMALL = ["backbone=resnet_nano", "backbone.pretrained=false", "data=digits", "data.size=32", "trainer.progress=false"]
QUICK = [*SMALL, "trainer.epochs=2", "trainer.max_batches=3", "data.batch_size=20"]


def compose(folder, *words):
    return peftbench.compose(*QUICK, f"output_dir={folder}", *words)


def learned(record):
    return safetensors.torch.load_file(Path(record.folder) / "delta.safetensors")


def told_by(capsys, *words):
    """(status, stdout, stderr) of a command that is no run."""
    from peftbench.cli.main import main

    capsys.readouterr()
    status = main([str(word) for word in words])
    told = capsys.readouterr()
    return status, told.out, told.err
