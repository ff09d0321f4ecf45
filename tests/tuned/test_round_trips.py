"""Whatever trains is used: stopped, resumed, loaded, predicted from, exported; in every task, size and method."""

import csv
import json
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench import deltas
from peftbench.cli.main import main
from peftbench.common.config_files import names
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config import CONFIGS, task_schema
from peftbench.runs.build import instantiate
from peftbench.tasks.base import task_class
from peftbench.training.checkpoint import Checkpoints
from support import mistakes

SIZES = ("64", "[64,96]", "null")
"""A square, height and width, and images of their own sizes (or the backbone's own)."""
METHODS = names("method", [CONFIGS])
QUICK = [
    *("backbone=resnet_nano", "data.batch_size=2", "trainer.epochs=1", "trainer.max_batches=2", "logger=none"),
    *("trainer.progress=false", "trainer.accelerator=cpu", "taps=off"),
]
SMALL = {"min_size": "[64]", "max_size": "96", "images": "[4,2,2]", "canvas": "64", "width": "64", "hidden": "16"}
"""Options of data sets and tasks that make a run small, where there are such."""
FAST = {("detection", "[64,96]", "lora"), ("detection", "null", "linear")}


def words_of(task, size, method):
    """The words of the smallest run of a cell, and why it is refused, or the empty string."""
    data = task_schema({"name": task}).smoke
    spec = peftbench.compose(f"method={method}", *data, *QUICK)
    options = {"data": spec.data.options, "task": vars(spec.task)}
    small = [f"{s}.{key}={v}" for s, known in options.items() for key, v in SMALL.items() if key in known]
    boxes = task_class(spec.task).finds_boxes
    refusal = ""
    if size == "[64,96]" and not boxes:
        refusal = "takes square images; give one number"
    if size == "null" and boxes and instantiate(spec.method).fixed_size:
        refusal = "is built for one input size"
    return [f"method={method}", *data, *QUICK, *small, f"data.size={size}"], refusal


CELLS = [
    pytest.param(*cell, marks=() if cell in FAST else pytest.mark.slow, id="-".join(cell))
    for cell in ((t, s, m) for t in shipped_tasks() for s in SIZES for m in METHODS)
]


@pytest.mark.parametrize(("task", "size", "method"), CELLS)
def test_what_trains_is_used(task, size, method, cli, tmp_path, monkeypatch, capsys):
    words, refusal = words_of(task, size, method)
    if refusal:
        told = cli(*words)
        mistakes.refused(told, "data.size=", refusal)
        assert told[0] == 2
        return
    ended = Checkpoints.on_train_batch_end

    def stop(self, *arguments):
        self.stop = True
        ended(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        cli(*words)
    (file,) = tmp_path.glob("*/result.json")
    assert json.loads(file.read_text())["status"] == "interrupted"
    status, _, err = cli(*words)
    assert status == 0, err
    record, folder = json.loads(file.read_text()), file.parent
    assert record["status"] == "complete"
    assert record["costs"]["time"]["sessions"] == 2

    tensors, _ = deltas.load_delta(folder / deltas.FILE)
    tuned = peftbench.load(folder, merge=False)
    state = tuned.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    peftbench.load(folder)

    images = Path(peftbench.__file__).parent / "data" / "photos" / "test" / "helicopter"
    table = folder / "table.csv"
    assert main(["predict", f"run={folder}", f"images={images}", f"out={table}", "device=cpu"]) == 0
    with table.open() as file:
        assert {row["file"] for row in csv.DictReader(file)} == {str(image) for image in images.iterdir()}

    capsys.readouterr()
    status = main(["export", f"run={folder}", "format=safetensors"])
    told = (status, *capsys.readouterr())
    if task_class(tuned.run.config.task).predicts_tensor and tuned.run.method.foldable:
        assert told[0] == 0, told
        assert (folder / "model.safetensors").is_file()
    elif told[0]:
        mistakes.refused(told, "peftbench: ")
