"""Whatever trains is used: stopped, resumed, loaded, predicted from, exported; in every task, size and method."""

import csv
import functools
import json
from pathlib import Path

import pytest
import torch
import yaml

import peftbench
from peftbench import deltas
from peftbench.cli.main import main
from peftbench.common.config_files import names
from peftbench.common.task_lookup import shipped_tasks
from peftbench.config import CONFIGS, task_schema
from peftbench.config.declared_fields import class_constant
from peftbench.runs.build import instantiate
from peftbench.tasks.base import task_class
from peftbench.training.checkpoint import Checkpoints
from peftbench.tuned.finished_run import open_run
from support import mistakes
from support.backbones import OTHER_NAMES, REFUSES
from support.backbones import method as method_of

SIZES = ("64", "[64,96]", "null")
"""A square, height and width, and images of their own sizes (or the backbone's own)."""
METHODS = [name for name in names("method", [CONFIGS]) if not method_of(name).solves]
"""All but those without steps (tests/methods/test_solved.py)."""
QUICK = [
    *("data.batch_size=2", "trainer.epochs=1", "trainer.max_batches=2", "logger=none"),
    *("trainer.progress=false", "trainer.accelerator=cpu", "taps=off"),
]
SMALL = {"min_size": "[64]", "max_size": "96", "images": "[4,2,2]", "canvas": "64", "width": "64", "hidden": "16"}
"""Options of data sets and tasks that make a run small, where there are such."""
EXPORTED = {("classification", "full"), ("classification", "lora"), ("classification", "spt_lora")}
"""Some of those of which a timm state dict can be written."""
BOUND = {("detection", "[64,96]", "lora")}
"""Those of which every key of the config is edited."""


def words_of(task, size, method):
    """The words of the smallest run of a cell, and the key and the reason of its refusal (empty if there is none)."""
    data = task_schema({"name": task}).smoke
    spec = peftbench.compose(f"method={method}", *data, *QUICK)
    options = {"data": spec.data.options, "task": vars(spec.task)}
    small = [f"{s}.{key}={v}" for s, known in options.items() for key, v in SMALL.items() if key in known]
    boxes, dense = task_class(spec.task).finds_boxes, not task_class(spec.task).uses_tail
    key, refusal = "data.size=", ""
    backbone = "vit_nano" if "cnn" in REFUSES.get(method, ()) else "resnet_nano"
    if size == "null" and boxes and backbone == "vit_nano":
        refusal = "give data.size=[H,W]"
    if size == "[64,96]" and not dense:
        refusal = "takes square images; give one number"
    if size == "null" and boxes and instantiate(spec.method).fixed_size:
        refusal = "is built for one input size"
    if instantiate(spec.method).pools and not task_class(spec.task).takes_features:
        key, refusal = f"method={method}", "pools the features itself"
    if spec.trainer.consistency and dense:
        key, refusal = f"trainer.consistency={spec.trainer.consistency}", "compares two predictions for an image"
    words = [f"method={method}", *data, *QUICK, f"backbone={backbone}", *small, f"data.size={size}"]
    return words, key, refusal


CELLS = [
    (task, size, method)
    for task in shipped_tasks()
    for size in SIZES
    for method in METHODS
    if method not in OTHER_NAMES or size == SIZES[0]
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "size", "method"), CELLS)
def test_what_trains_is_used(task, size, method, cli, tmp_path, monkeypatch, capsys):
    words, key, refusal = words_of(task, size, method)
    if refusal:
        told = cli(*words)
        mistakes.refused(told, key, refusal)
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
        assert {row[0] for row in list(csv.reader(file))[1:]} == {str(image) for image in images.iterdir()}

    capsys.readouterr()
    status = main(["export", f"run={folder}", "format=safetensors"])
    told = (status, *capsys.readouterr())
    if told[0]:  # what is more than a timm model
        mistakes.refused(told, "format=")
    else:
        assert (folder / "model.safetensors").is_file()
    assert told[0] == 0 or (task, method) not in EXPORTED
    if (task, size, method) in BOUND:
        every_key_is_bound(folder)


UNBOUND = {
    *("output_dir", "data_dir", "force", "backbone.stream", "backbone.weights", "pruning.images", "trainer.progress"),
    *(
        "trainer.threads",
        "trainer.checkpoint_seconds",
        "trainer.meet_seconds",
        "data.workers",
        "data.memory_gb",
        "data.eval_batch_size",
    ),
    *(
        "taps.max_gb",
        "taps.gpu_gb",
        "taps.memory_gb",
        "taps.dir",
        "data.tasks",
        "data.path",
        "method.path",
        "task.path",
    ),
    *("task.weights", "trainer.grad_checkpointing", "start", "page"),
}
"""Where files lie, and what changes no number, besides the places that a data set names."""


def every_key_is_bound(folder):
    """Whatever is changed in `config.yaml`: the model is refused, and the key named, unless it is of no effect."""
    file = folder / "config.yaml"
    whole = file.read_text()
    values = yaml.safe_load(whole)
    of_data = {f"data.{key}" for key in class_constant(values["data"]["path"], "places", "data.path")}
    places = [(section, key) for section, content in values.items() if isinstance(content, dict) for key in content]
    places += [(section, "options", key) for section in ("method", "data") for key in values[section]["options"]]
    places += [(key,) for key, value in values.items() if not isinstance(value, dict)]
    for place in places:
        name = ".".join(key for key in place if key != "options")
        if (
            name in UNBOUND | of_data
            or place[0] in ("logger", "choices", "protocol", "costs")
            or place[-1] == "options"
        ):
            continue
        edited = yaml.safe_load(whole)
        within = functools.reduce(dict.__getitem__, place[:-1], edited)
        within[place[-1]] = 0.5 if name == "optimizer.layer_decay" else another(within[place[-1]])  # 1 is none as well
        file.write_text(yaml.safe_dump(edited))
        with pytest.raises(peftbench.UserError) as problem:
            open_run(folder)
        assert name.split(".")[-1] in str(problem.value), (name, str(problem.value))
    for place in ("output_dir", "data_dir"):
        file.write_text(yaml.safe_dump(yaml.safe_load(whole) | {place: "/elsewhere"}))
        open_run(folder)
    for key in {key.partition(".")[2] for key in of_data} & values["data"]["options"].keys():
        edited = yaml.safe_load(whole)
        edited["data"]["options"][key] = "/elsewhere"
        file.write_text(yaml.safe_dump(edited))
        open_run(folder)
    file.write_text(whole)


def another(value):
    """A value of the same type, where there can be one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value else 1
    if isinstance(value, str):
        return {"32": "bf16", "none": "flip", "model": "none"}.get(value, f"{value}x")
    if isinstance(value, list):
        return [*value, value[0]] if value else ["x"]
    return {**value, "x": 1} if isinstance(value, dict) else 1
