"""What the same command does with a run that is there: it is shown, or, where it is not whole, mended or run again."""

import json
import shutil

import pytest
import torch
import yaml

import peftbench
from peftbench import deltas
from peftbench.results.labels import data_name
from support import coco
from support.finished_runs import finish, pictures
from support.mistakes import refused

PARTS = ("delta.safetensors", "result.json", "config.yaml")


@pytest.fixture
def complete(cli, tiny, finished, tmp_path):
    """A copy of the finished probe: (the same command again, its folder)."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (record,) = tmp_path.glob("*/result.json")
    return lambda *words: cli(*tiny, "method=linear", *words), record.parent


def kept(folder):
    """The folders in which something of a run was kept."""
    return sorted(folder.parent.glob(f".{folder.name}.previous*"))


def flipped(content):
    content = bytearray(content)
    content[len(content) // 2] ^= 4
    return bytes(content)


def of_another_run(folder):
    tensors, told = deltas.load_delta(folder / "delta.safetensors")
    deltas.save_delta(folder / "delta.safetensors", tensors, told | {"run": "linear-resnet_nano-digits-s9-0123456789"})


DAMAGES = {
    "missing": lambda folder: (folder / "delta.safetensors").unlink(),
    "truncated": lambda folder: (folder / "delta.safetensors").write_bytes(b"\x10"),
    "flipped": lambda folder: (folder / "delta.safetensors").write_bytes(
        flipped((folder / "delta.safetensors").read_bytes())
    ),
    "of another run": of_another_run,
}


@pytest.mark.parametrize(
    "damage", [d if d in ("missing", "flipped") else pytest.param(d, marks=pytest.mark.slow) for d in DAMAGES]
)
def test_a_complete_run_without_its_whole_delta_is_carried_out_again(complete, damage):
    command, folder = complete
    learned = {name: t.clone() for name, t in deltas.load_delta(folder / "delta.safetensors")[0].items()}
    DAMAGES[damage](folder)
    before = {name: (folder / name).read_bytes() for name in PARTS if (folder / name).exists()}
    status, _, err = command()
    assert status == 0, err
    assert "delta.safetensors: is " in err
    assert "carried out again; what was there is kept in" in err
    again, _ = deltas.load_delta(folder / "delta.safetensors")
    assert again.keys() == learned.keys()
    assert all(torch.equal(again[name], learned[name]) for name in learned)
    (old,) = kept(folder)
    assert {p.name: p.read_bytes() for p in old.iterdir()} == {n: c for n, c in before.items() if n != "config.yaml"}
    peftbench.load(folder)
    assert command()[::2] == (0, ""), "now it is whole"


def test_the_record_of_another_run_is_not_shown_as_this_ones(complete):
    command, folder = complete
    file = folder / "result.json"
    own = json.loads(file.read_text())
    foreign = own | {"id": "linear-resnet_nano-digits-s9-0123456789", "metrics": {"test/accuracy": 1.0}}
    file.write_text(json.dumps(foreign))
    status, _, err = command()
    assert status == 0, err
    assert "result.json is of another run (linear-resnet_nano-digits-s9-0123456789)" in err
    now = json.loads(file.read_text())
    assert (now["id"], now["metrics"]) == (folder.name, own["metrics"])
    (old,) = kept(folder)
    assert json.loads((old / "result.json").read_text()) == foreign


@pytest.mark.parametrize(
    "edit", [{"seed": 5}, *(pytest.param(e, marks=pytest.mark.slow) for e in (None, {"trainer": 3}))], ids=str
)
def test_a_config_that_is_not_as_the_run_left_it_is_written_again(complete, edit):
    command, folder = complete
    file, record = folder / "config.yaml", (folder / "result.json").read_bytes()
    whole = yaml.safe_load(file.read_text())
    file.unlink()
    if edit:
        file.write_text(yaml.safe_dump(whole | edit))
    status, _, err = command()
    assert status == 0, err
    assert "config.yaml was not as the run left it" in err
    assert yaml.safe_load(file.read_text()) == whole | {"output_dir": str(folder.parent)}
    assert (folder / "result.json").read_bytes() == record
    assert [p.name for p in kept(folder)[0].iterdir()] == (["config.yaml"] if edit else [])


# -- classes


def renamed(name, id_=90):
    content = json.loads(json.dumps(coco.good()).replace('"zebra"', json.dumps(name)))
    return json.loads(json.dumps(content).replace("90", str(id_)))


@pytest.mark.slow
def test_classes_that_the_data_call_otherwise_by_now(cli, tmp_path):
    root = coco.write(tmp_path / "data", coco.good())
    coco.write(root, coco.good(), "annotations/instances_val.json")
    words = ["method=linear", "backbone=resnet_nano", "data=coco_folder", f"data.root={root}"]
    words += ["data.min_size=[64]", "data.max_size=96"]
    words += ["task.width=64", "task.hidden=16", "task.rois=16", "trainer.epochs=1", "trainer.max_batches=1"]
    words += ["data.augment=none", "logger=none", "trainer.progress=false", "taps=off", f"output_dir={tmp_path}"]
    assert cli(*words)[0] == 0
    (file,) = tmp_path.glob("*/result.json")
    folder, first = file.parent, file.read_bytes()
    learned, _ = deltas.load_delta(folder / "delta.safetensors")

    def again(content, *more):
        for name in ("train", "val"):
            coco.write(root, content, f"annotations/instances_{name}.json")
        status, out, err = cli(*words, *more)
        return status, out, "".join(line for line in err.splitlines(True) if not line.startswith("data="))

    status, _, err = again(renamed("horse"))
    assert status == 0
    assert "1 of 2 classes has another name in the data by now, such as 'horse' instead of 'zebra'" in err
    tensors, told = deltas.load_delta(folder / "delta.safetensors")
    assert json.loads(told["classes"]) == ["apple", "horse"]
    assert all(torch.equal(tensors[name], learned[name]) for name in learned)
    assert peftbench.load(folder).classes == ("apple", "horse")
    record = json.loads(file.read_text())
    assert record["stamps"]["data"]["renamed"] == [["zebra", "horse"]]
    assert record["costs"]["delta_bytes"] == (folder / "delta.safetensors").stat().st_size
    assert record["metrics"] == json.loads(first)["metrics"]
    assert again(renamed("horse"))[::2] == (0, ""), "said once"

    before = {name: (folder / name).read_bytes() for name in PARTS}
    more = renamed("horse")
    more["categories"].append({"id": 95, "name": "yak"})
    refused(again(more), str(folder), "on 2 classes", "has 3 by now", "force=true", "kept beside it")
    refused(again(renamed("horse", 91)), str(folder), "id 90, which has id 91", "force=true", "kept beside it")
    assert {name: (folder / name).read_bytes() for name in PARTS} == before

    assert again(more, "force=true")[0] == 0
    assert json.loads(deltas.load_delta(folder / "delta.safetensors")[1]["classes"]) == ["apple", "horse", "yak"]
    (old,) = kept(folder)
    assert {name: (old / name).read_bytes() for name in PARTS} == before


def test_the_same_images_in_a_folder_of_another_name_keep_the_name_of_the_run(tmp_path, capsys):
    output, pets = tmp_path / "outputs", pictures(tmp_path / "pets", train=4, test=2)
    first = finish(output, pets, "linear", "resnet_nano")
    same = shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    assert finish(output, same, "linear", "resnet_nano").was_there
    assert capsys.readouterr().err == ""
    cats = pets.rename(tmp_path / "cats")
    again = finish(output, cats, "linear", "resnet_nano")
    assert (again.id, again.was_there) == (first.id, True)
    told = capsys.readouterr().err
    assert told.startswith(f"{first.folder}: was carried out on the same images, which were called pets then")
    assert told.endswith("force=true repeats the run as cats\n")
    assert told.count("\n") == 1
    assert data_name(again.config) == "pets"
    assert data_name(finish(output, cats, "linear", "resnet_nano", "force=true").config) == "cats"
