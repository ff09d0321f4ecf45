"""Files that would be read for ever, or unpack to more than there is: told in a sentence, at once."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from support.limits import no_file, within
from support.mistakes import pictures, refused, run_folder

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 14)
)
DEEP = "[" * 3000 + "]" * 3000


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return run_folder(tmp_path / "out")


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def told(capsys):
    def call(*words):
        from peftbench.cli.main import main

        capsys.readouterr()
        with within(60):
            status = main([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["result.json", "config.yaml", "delta.safetensors"])
def test_what_is_no_file_in_a_runs_folder_is_not_waited_for(told, copy, image, name, kind):
    no_file(copy / name, kind)
    refused(told("predict", f"run={copy}", f"images={image}"), str(copy / name))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_in_the_place_of_an_image_is_skipped(told, copy, tmp_path, kind):
    place = no_file(tmp_path / "b.png", kind)
    status, _, err = told("predict", f"run={copy}", f"images={place}")
    assert status == 2
    assert f"skipped {place}: " in err
    assert "and no file" in err


@pytest.mark.slow
def test_pipes_in_the_place_of_weights_adapters_lists_and_annotations_are_refused(told, tiny, copy, image, tmp_path):
    pipe = no_file(tmp_path / "w.pth", "pipe")
    words = [w for w in tiny if w != "backbone.pretrained=false"]
    refused(told(*words, "method=linear", f"backbone.weights={pipe}", f"output_dir={tmp_path}"), "is a named pipe")
    (tmp_path / "adapter").mkdir()
    no_file(tmp_path / "adapter" / "adapter_config.json", "pipe")
    refused(told("predict", f"run={copy}", f"images={image}", f"adapter={tmp_path / 'adapter'}"), "adapter_config.json")
    root = pictures(tmp_path / "pictures", {"cat": 1, "dog": 1})
    table = no_file(tmp_path / "labels.csv", "pipe")
    words = ["method=linear", "backbone=resnet_nano", "trainer.progress=false", f"output_dir={tmp_path}"]
    refused(told(*words, "data=folder", f"data.root={root}", f"data.labels={table}"), "labels.csv")
    train = no_file(tmp_path / "train.json", "pipe")
    refused(told(*words, "data=coco_folder", f"data.root={root}", f"data.train={train}", "data.val=null"), "train.json")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "its aliases stand for far more values than are written"),
        (f"x: {DEEP}", "it is nested deeper than 64 levels"),
        ("".join(f"{' ' * i}a:\n" for i in range(200)), "it is nested deeper than 64 levels"),
        ("a: &a [*a]", "'*a' stands for something that holds it"),
        (f"a: {'9' * 6000}", "a value in it cannot be read"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_yaml_without_end_is_refused_in_a_run_and_in_a_folder_of_configs(told, tiny, copy, image, tmp_path, text, part):
    (copy / "config.yaml").write_text(text)
    refused(told("predict", f"run={copy}", f"images={image}"), f"{copy / 'config.yaml'}: cannot be read as YAML", part)
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "theirs.yaml").write_text(text)
    words = [*tiny, "method=theirs", "--config-dir", tmp_path / "mine", f"output_dir={tmp_path}"]
    refused(told(*words), "" if "9999" in text or "python" in text else "theirs.yaml: cannot be read as YAML")


def test_anchors_as_people_write_them_are_read(told, tiny, tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    text = "name: linear\npath: peftbench.methods.linear.Linear\nlr: &lr 0.01\ngrid: {optimizer.lr: [*lr]}\n"
    (tmp_path / "mine" / "method" / "mine.yaml").write_text(text)
    status, _, err = told(
        *tiny, "method=mine", "--config-dir", tmp_path / "mine", f"output_dir={tmp_path}", "--cfg", "job"
    )
    assert status == 0, err


def test_deep_json_is_refused_wherever_it_is_read(told, copy, image, tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(deep)
    refused(told("predict", f"run={copy}", f"images={image}", f"adapter={tmp_path / 'adapter'}"), "adapter_config.json")
    (copy / "result.json").write_text(deep)
    refused(told("predict", f"run={copy}", f"images={image}"), "result.json: is not a record")
    root = pictures(tmp_path / "pictures", {"cat": 1})
    (tmp_path / "train.json").write_text(json.dumps({"images": []})[:-1] + f', "x": {deep}}}')
    words = ["method=linear", "backbone=resnet_nano", "data=coco_folder", "trainer.progress=false"]
    words += [f"data.root={root}", f"data.train={tmp_path / 'train.json'}", "data.val=null", f"output_dir={tmp_path}"]
    refused(told(*words), "train.json: cannot be read as JSON")


def test_a_torch_file_with_packed_records_is_refused(told, tiny, tmp_path):
    torch.save({"x": torch.zeros(2**16)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as old,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    words = [w for w in tiny if w != "backbone.pretrained=false"]
    told_by = told(*words, "method=linear", f"backbone.weights={tmp_path / 'w.pth'}", f"output_dir={tmp_path}")
    refused(told_by, "w.pth: holds packed records")
