"""Every mistake gets one clear sentence, a status other than zero, no traceback, and nothing half-written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import resource
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from peftbench import deltas
from peftbench.common.errors import UserError

NANO = {"channels": [32, 48, 96, 192], "num_classes": 0}  # of backbone=resnet_nano


def refused(told: tuple[int, str, str], *parts: str) -> str:
    """Checks that a command ended with one sentence that holds `parts`, and returns it."""
    status, out, err = told
    assert status not in (0, None)
    assert "Traceback" not in out + err
    assert err.startswith("peftbench: ")
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err
    return err


def files(folder: Path) -> list[str]:
    """Every file below `folder`, but for the locks."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts)


def run_folder(output: Path) -> Path:
    """The one run folder in `output`."""
    (record,) = output.glob("*/result.json")
    return record.parent


def record(output: Path) -> dict:
    return json.loads((run_folder(output) / "result.json").read_text())


def pictures(root: Path, counts: dict[str, int]) -> Path:
    """`root/<class>/<number>.png` of random pixels."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@contextlib.contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def finished(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a linear probe that ran to its end."""
    from peftbench.cli.main import main

    output = tmp_path_factory.mktemp("finished")
    assert main([*tiny, "method=linear", f"output_dir={output}"]) == 0
    return output


@pytest.fixture
def stopped(cli: Callable, tiny: list[str], finished: Path, tmp_path: Path) -> tuple[Callable, Path]:
    """A copy of the finished probe that has lost its record: (the same command again, its run folder)."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = run_folder(tmp_path)
    (folder / "result.json").unlink()
    return lambda *words: cli(*tiny, "method=linear", *words), folder


# -- names, keys, types and values


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method=lorra"], ["method=lorra", "did you mean 'lora'", "linear"]),
        (["method=qqq"], ["method=qqq", "there is no such method", "linear"]),
        (["backbone=resnet_nan"], ["backbone=resnet_nan", "did you mean 'resnet_nano'"]),
        (["backbone=zzz"], ["backbone=zzz", "backbone=timm backbone.name=zzz"]),
        (["backbone=timm", "backbone.name=resnet5"], ["backbone.name=resnet5", "did you mean 'resnet50'"]),
        (["backbone=timm", "backbone.name=resnet50.a1_in2k"], ["backbone.name=resnet50.a1_in2k", "a1_in1k"]),
        (["backbone=timm"], ["backbone.name", "needs a value"]),
        (["data=digit"], ["data=digit", "did you mean 'digits'"]),
        (["data=vtab/cifra"], ["data=vtab/cifra", "did you mean 'vtab/cifar'"]),
        (["data=folder"], ["data.root", "needs a value"]),
        (["trainer=tpu"], ["trainer=tpu", "gpu"]),
        (["logger=tensorboard"], ["logger=tensorboard", "wandb"]),
        (["optimizer=adam"], ["optimizer=adam", "did you mean 'adamw'"]),
        (["task=segmentation"], ["task=segmentation", "classification"]),
        (["experiment=zzz"], ["experiment=zzz", "quickstart"]),
        (["trainer.epoch=3"], ["trainer.epoch", "did you mean 'trainer.epochs'"]),
        (["data.sise=3"], ["data.sise", "did you mean 'data.size'"]),
        (["method=lora", "method.rnk=3"], ["method.rnk", "did you mean 'method.rank'"]),
        (["method=linear", "method.rank=3"], ["method.rank", "there is no such key"]),
        (["epochs=3"], ["epochs", "there is no such key"]),
        (["+trainer.foo=1"], ["trainer.foo", "there is no such key", "epochs"]),
        (["+foo=1"], ["foo", "there is no such key"]),
        (["lora"], ["'lora'"]),
        (["method=linear", "lora"], ["'lora'", "expected key=value"]),
        (["list", "optimisers"], ["optimisers", "methods"]),
        (["train"], ["'train'", "there is no such command"]),
        (["--config-dir", "/none"], ["/none"]),
        (["method=null"], ["method"]),
        (["data=null"], ["data"]),
        (["~data"], ["data"]),
        (["~trainer.epoch"], ["trainer.epoch"]),
    ],
)
def test_an_unknown_name_or_key_is_told_with_the_nearest_one(cli, tmp_path, words, parts):
    refused(cli(*words), *parts)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("trainer.epochs=abc", ["trainer.epochs='abc'", "a whole number"]),
        ("trainer.epochs=1.5", ["trainer.epochs=1.5", "a whole number"]),
        ("trainer.epochs=true", ["trainer.epochs=True", "a whole number"]),
        ("trainer.epochs=null", ["trainer.epochs=None", "a whole number"]),
        ("trainer.epochs=[1,2]", ["trainer.epochs=[1, 2]", "a whole number"]),
        ("trainer.progress=maybe", ["trainer.progress='maybe'", "boolean"]),
        ("seed=abc", ["seed='abc'", "a whole number"]),
        ("seed=1.5", ["seed=1.5", "a whole number"]),
        ("force=1", ["force=1", "true or false"]),
        ("data.size=large", ["data.size='large'", "a whole number"]),
        ("data.root=3", ["data.root=3", "string"]),
        ("data.val_fraction=half", ["data.val_fraction='half'", "number"]),
        ("optimizer.lr=fast", ["optimizer.lr='fast'", "a number"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "list"]),
        ("optimizer.betas=0.9", ["optimizer.betas=0.9", "list"]),
        ("method.rank=abc", ["method.rank='abc'", "a whole number"]),
        ("method.rank=8.5", ["method.rank=8.5", "a whole number"]),
        ("method.layers=qkv", ["method.layers='qkv'", "list"]),
        ("method.lr=fast", ["method.lr='fast'", "a number"]),
        ("backbone.args=3", ["backbone.args=3", "expected"]),
        ("data.on_error=ignore", ["data.on_error='ignore'", "'refuse' or 'skip'"]),
        ("data.stage=test", ["data.stage='test'", "'fit', 'tune' or 'final'"]),
        ("trainer.precision=64", ["trainer.precision='64'", "'32', '16' or 'bf16'"]),
        ("trainer.strategy=dp", ["trainer.strategy='dp'", "'ddp'"]),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_the_right_one(cli, tmp_path, word, parts):
    told = refused(cli("method=lora", "data=folder", "data.root=.", word), parts[0])
    assert parts[1] in told
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "word",
    [
        "trainer.epochs=0",
        "trainer.devices=0",
        "trainer.accumulate=-1",
        "trainer.max_batches=0",
        "trainer.threads=-1",
        "trainer.threads=0",
        "trainer.clip=-1",
        "trainer.clip=nan",
        "data.batch_size=0",
        "data.eval_batch_size=-3",
        "data.size=0",
        "data.workers=-1",
        "data.memory_gb=nan",
        "data.memory_gb=-1",
        "optimizer.lr=0",
        "optimizer.lr=-1",
        "optimizer.lr=nan",
        "optimizer.lr=inf",
        "optimizer.min_lr=-1",
        "optimizer.warmup=1",
        "optimizer.warmup=nan",
        "optimizer.weight_decay=-1",
        "optimizer.weight_decay=nan",
        "optimizer.betas=[2,3]",
        "task.label_smoothing=1.5",
        "backbone.drop_path=-0.1",
    ],
)
def test_a_number_that_makes_no_sense_is_refused(cli, tiny, tmp_path, word):
    told = refused(cli(*tiny, "method=full", word), word.partition("=")[0])
    assert "expected" in told
    assert files(tmp_path) == []


@pytest.mark.parametrize("word", ["optimizer.momentum=-1", "optimizer.momentum=1.5", "optimizer.momentum=0"])
def test_a_momentum_that_makes_no_sense_is_refused(cli, tiny, tmp_path, word):
    refused(cli(*tiny, "method=full", "optimizer=sgd", word), "optimizer.momentum")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("method.rank=0", ["method.rank=0", "at least 1"]),
        ("method.rank=100000", ["method.rank=100000", "at most"]),
        ("method.dropout=1.0", ["method.dropout=1.0", "below 1"]),
        ("method.layers=[nothing]", ["method.layers=['nothing']", "qkv"]),
    ],
)
def test_an_option_that_does_not_fit_the_backbone_is_refused_before_anything_is_written(cli, tmp_path, word, parts):
    words = ["method=lora", "backbone=vit_nano", "backbone.pretrained=false", "data=digits"]
    refused(cli(*words, word), *parts)
    assert files(tmp_path) == []


def test_arguments_that_the_model_does_not_take_are_named(cli, tiny):
    refused(cli(*tiny, "method=linear", "+backbone.args.colour=red"), "backbone.args.colour", "resnet18")


def test_a_key_of_cfg_that_timm_does_not_know_is_named(cli, tiny):
    refused(cli(*tiny, "method=linear", "+backbone.cfg.colour=red"), "backbone.cfg", "colour")


# -- the command line itself


@pytest.mark.parametrize("words", [["data=glob(nothing/*)"], ["-m", "data=glob(nothing/*)"]])
def test_a_glob_that_matches_nothing_is_refused(cli, tmp_path, words):
    refused(cli(*words), "data=glob(nothing/*)", "matches none")
    assert files(tmp_path) == []


@pytest.mark.parametrize("word", ["data=glob(vtab/cif*", "data=glob(vtab/*", "data=glob()", "data=glob([a,b)"])
def test_a_glob_that_cannot_be_read_is_refused(cli, word):
    refused(cli("-m", word), word)


@pytest.mark.parametrize("word", ["seed=0,1", "method=full,linear", "trainer.epochs=1,2", "seed=range(3)"])
def test_several_values_without_m_are_told_to_be_a_sweep(cli, tiny, tmp_path, word):
    refused(cli(*tiny, word), word.partition("=")[0], "peftbench -m")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "word",
    [
        "data.root=/photos/(old",
        "logger.project='unclosed",
        'logger.project="unclosed',
        "logger.tags=[a,b",
        "logger.project=a=b",
        "backbone.args={a:1",
        "data.root=${nothing",
    ],
)
def test_a_value_that_needs_quotes_is_told_so(cli, tmp_path, word):
    told = refused(cli("method=linear", "data=folder", word), word)
    assert "quote" in told
    assert files(tmp_path) == []


def test_an_interpolation_of_a_key_that_does_not_exist_is_told(cli, tmp_path):
    refused(cli("data=folder", "data.root=${nothing}"), "nothing")
    assert files(tmp_path) == []


def test_half_precision_on_a_cpu_is_refused(cli, tiny):
    refused(cli(*tiny, "method=linear", "trainer=cpu", "trainer.precision=16"), "trainer.precision", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which has half precision")
def test_half_precision_is_refused_where_auto_finds_a_cpu(cli, tiny):
    refused(cli(*tiny, "method=linear", "trainer.precision=16"), "trainer.precision", "bf16")


def test_several_devices_need_a_strategy(cli, tiny, tmp_path):
    refused(cli(*tiny, "method=linear", "trainer.devices=2"), "trainer.devices=2", "trainer=ddp")
    assert files(tmp_path) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(cli, tiny, tmp_path):
    refused(cli(*tiny, "method=linear", "trainer=gpu"), "trainer.accelerator=gpu")
    assert record(tmp_path)["status"] == "failed"


def test_a_sweep_goes_on_after_a_job_that_failed_and_says_so(cli, tiny, tmp_path):
    status, out, err = cli("-m", *tiny, "method=linear", "data.batch_size=0,16")
    assert status == 1
    assert "Traceback" not in out + err
    assert "data.batch_size=0: expected at least 1" in out
    assert record(tmp_path)["status"] == "complete"


def test_a_sweep_goes_on_after_a_run_that_failed_while_it_ran(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 20, "dog": 20})
    (root / "cat" / "3.png").write_bytes(b"no image")
    words = [*tiny, "method=linear", "data=folder", f"data.root={root}", "data.batch_size=8"]
    status, out, err = cli("-m", *words, "data.on_error=refuse,skip")
    assert status == 1
    assert "Traceback" not in out + err
    assert f"{root / 'cat' / '3.png'}: cannot be read" in out
    assert sorted(json.loads(p.read_text())["status"] for p in tmp_path.glob("linear*/result.json")) == [
        "complete",
        "failed",
    ]


# -- data


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["data=folder", "data.root={}/none"], ["data.root={}/none", "there is no folder"]),
        (["data=folder", "data.root={}", "data.labels=none.csv"], ["data.labels=none.csv", "there is no such file"]),
        (["data=vtab/cifar", "data_dir={}"], ["data=vtab/cifar", "train800.txt", "{}/vtab", "data.root="]),
        (["data=fashion_mnist", "data_dir={}"], ["data.root={}", "train-images-idx3-ubyte", "data.download=true"]),
        (["data=folder", "data.root={}"], ["{}", "holds no class folders with images"]),
    ],
)
def test_missing_data_is_told_where_it_was_looked_for(cli, tiny, tmp_path, words, parts):
    empty = tmp_path / "empty"
    empty.mkdir()
    told = cli(*tiny, "method=linear", *(w.format(empty) for w in words))
    refused(told, *(p.format(empty) for p in parts))
    assert files(tmp_path) == []


def test_a_download_without_a_network_is_told(cli, tiny, tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    words = ["data=fashion_mnist", "data.download=true", f"data.root={tmp_path / 'data'}"]
    told = refused(cli(*tiny, "method=linear", *words), "data.download=true", str(tmp_path / "data"))
    assert "could not be" in told


@pytest.fixture
def photos(tiny: list[str], tmp_path: Path) -> tuple[list[str], Path]:
    """Forty pictures, the words of a run on them, and their folder; two of them are damaged."""
    root = pictures(tmp_path / "photos", {"cat": 20, "dog": 20})
    (root / "cat" / "3.png").write_bytes((root / "cat" / "3.png").read_bytes()[:200])
    (root / "dog" / "7.png").write_text("<html>not found</html>")
    return [*tiny, "method=linear", "data=folder", f"data.root={root}", "data.batch_size=8"], root


def test_a_truncated_image_is_refused_by_name(cli, photos, tmp_path):
    words, root = photos
    told = refused(cli(*words), "data.on_error=skip")
    assert str(root / "cat" / "3.png") in told or str(root / "dog" / "7.png") in told
    failed = record(tmp_path)
    assert failed["status"] == "failed"
    assert failed["reason"] in told
    assert files(run_folder(tmp_path)) == ["config.yaml", "result.json"]


def test_damaged_images_are_skipped_where_that_is_asked_for_and_the_record_names_them(cli, photos, tmp_path):
    words, root = photos
    status, _, err = cli(*words, "data.on_error=skip")
    assert (status, err) == (0, "")
    skipped = record(tmp_path)["stamps"]["data"]["skipped"]
    assert sorted(skipped) == [str(root / "cat" / "3.png"), str(root / "dog" / "7.png")]


def test_a_truncated_image_that_is_read_only_in_training_is_refused_by_name(cli, photos, tmp_path):
    words, root = photos
    told = refused(cli(*words, "trainer.max_batches=null", "data.memory_gb=0"), "data.on_error=skip")
    assert str(root) in told
    assert record(tmp_path)["status"] == "failed"


def test_a_truncated_image_read_by_a_worker_process_is_refused_by_name(cli, photos):
    words, root = photos
    told = cli(*words, "trainer.max_batches=null", "data.memory_gb=0", "data.workers=1")
    assert str(root) in refused(told, "data.on_error=skip")


def test_a_folder_of_nothing_but_damaged_images_is_refused(cli, photos):
    words, root = photos
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    refused(cli(*words, "data.on_error=skip"), "images can be read", str(root))


def lists(root: Path, **changed: str) -> Path:
    """A small task in the layout of VTAB-1k."""
    pictures(root / "images", {"trainval": 6, "test": 4})
    lines = {
        "train800": [f"images/trainval/{i}.png {i % 2}" for i in range(4)],
        "val200": [f"images/trainval/{i}.png {i % 2}" for i in range(4, 6)],
        "train800val200": [f"images/trainval/{i}.png {i % 2}" for i in range(6)],
        "test": [f"images/test/{i}.png {i % 2}" for i in range(4)],
    }
    for name, content in lines.items():
        (root / f"{name}.txt").write_text(changed.get(name, "\n".join(content) + "\n"))
    return root


def test_a_small_task_in_the_layout_of_vtab_runs(cli, tiny, tmp_path):
    root = lists(tmp_path / "svhn")
    assert cli(*tiny, "method=linear", "data=vtab/svhn", f"data.root={root}", "data.batch_size=2")[0] == 0


@pytest.mark.parametrize("line", ["images/trainval/0.png 10", "images/trainval/0.png -1"])
def test_a_label_outside_the_classes_is_told_with_its_line(cli, tiny, tmp_path, line):
    root = lists(tmp_path / "svhn", train800=f"images/trainval/1.png 1\n{line}\n")
    told = cli(*tiny, "method=linear", "data=vtab/svhn", f"data.root={root}")
    refused(told, f"{root / 'train800.txt'}:2", line.split()[1], "expected 0 to 9")
    assert list(tmp_path.glob("linear*")) == []


@pytest.mark.parametrize("name", ["train800", "val200", "train800val200", "test"])
def test_an_empty_list_is_told(cli, tiny, tmp_path, name):
    root = lists(tmp_path / "svhn", **{name: "\n"})
    role = {"train800": "train", "val200": "val", "train800val200": "trainval", "test": "test"}[name]
    refused(cli(*tiny, "method=linear", "data=vtab/svhn", f"data.root={root}"), f"the {role} split is empty")
    assert list(tmp_path.glob("linear*")) == []


@pytest.mark.parametrize("role", ["train", "val", "test"])
def test_an_empty_folder_of_a_split_is_told(cli, tiny, tmp_path, role):
    root = tmp_path / "photos"
    for each in ("train", "val", "test"):
        pictures(root / each, {"cat": 0 if each == role else 4, "dog": 0 if each == role else 4})
    refused(cli(*tiny, "method=linear", "data=folder", f"data.root={root}"), str(root / role))
    assert list(tmp_path.glob("linear*")) == []


def test_a_csv_without_rows_or_without_training_rows_is_told(cli, tiny, tmp_path):
    root = pictures(tmp_path / "photos", {"cat": 2})
    for content, part in (
        ("path,label\n", "has no rows"),
        ("path,label,split\ncat/0.png,x,test\n", "none to train on"),
        ("path,label,split\ncat/0.png,x,train\ncat/1.png,y,test\n", "labelled 'y'"),
    ):
        (root / "l.csv").write_text(content)
        words = ["data=folder", f"data.root={root}", "data.labels=l.csv"]
        refused(cli(*tiny, "method=linear", *words), part)
    assert list(tmp_path.glob("linear*")) == []


@pytest.mark.parametrize("stage", ["tune", "fit", "final"])
def test_a_stage_without_its_images_is_told(cli, tiny, tmp_path, stage):
    root = pictures(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["data=folder", f"data.root={root}", f"data.stage={stage}", "data.val_fraction=0", "data.test_fraction=0"]
    refused(cli(*tiny, "method=linear", *words), f"data.stage={stage}")
    assert list(tmp_path.glob("linear*")) == []


# -- weights


def weights(cli: Callable, tiny: list[str], path: Path | str) -> tuple[int, str, str]:
    return cli(*tiny, "method=linear", "backbone.pretrained=true", f"backbone.weights={path}")


def nano() -> dict[str, torch.Tensor]:
    return timm.create_model("resnet18", **NANO).state_dict()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_that_fit_are_loaded_from_a_file(cli, tiny, tmp_path, name):
    state = nano()
    if name.endswith("pth"):
        torch.save({"state_dict": state}, tmp_path / name)
    else:
        safetensors.torch.save_file(state, tmp_path / name)
    assert weights(cli, tiny, tmp_path / name)[0] == 0


def test_weights_that_are_not_there_are_told(cli, tiny, tmp_path):
    refused(weights(cli, tiny, tmp_path / "none.pth"), str(tmp_path / "none.pth"), "there is no such file")
    refused(weights(cli, tiny, "package:none"), "package:none", "resnet_nano")
    assert files(tmp_path) == []


def test_weights_that_cannot_be_fetched_are_told_with_what_works_offline(cli, tmp_path):
    told = cli("method=linear", "data=digits", "backbone=timm", "backbone.name=resnet10t.c3_in1k")
    refused(told, "backbone.name=resnet10t.c3_in1k", "could not be fetched", "backbone.weights=", "resnet_nano")
    assert files(tmp_path) == []


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("writer", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj, 2))])
def test_a_pickle_offered_as_weights_is_refused_and_its_code_does_not_run(cli, tiny, tmp_path, writer, wrapped):
    bomb = Bomb(tmp_path / "ran")
    writer({"state_dict": {"conv1.weight": bomb}} if wrapped else bomb, tmp_path / "w.pth")
    refused(weights(cli, tiny, tmp_path / "w.pth"), str(tmp_path / "w.pth"), "safetensors")
    assert files(tmp_path) == ["w.pth"]
    assert not (tmp_path / "ran").exists()


def test_a_pickle_called_safetensors_is_refused(cli, tiny, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(weights(cli, tiny, tmp_path / "w.safetensors"), "not a readable weights file")
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_in_a_pickle_is_refused(cli, tiny, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    refused(weights(cli, tiny, tmp_path / "w.pt"), "state dict")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_truncated_weights_file_is_refused(cli, tiny, tmp_path, name, share):
    path = tmp_path / name
    torch.save(nano(), path) if name.endswith("pth") else safetensors.torch.save_file(nano(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(weights(cli, tiny, path), str(path), "not a readable weights file")
    assert files(tmp_path) == [name]


def test_a_text_file_offered_as_weights_is_not_called_a_pickle(cli, tiny, tmp_path):
    (tmp_path / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    told = refused(weights(cli, tiny, tmp_path / "w.pth"), str(tmp_path / "w.pth"))
    assert "holds Python objects" not in told


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_file_that_is_no_state_dict_is_refused(cli, tiny, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refused(weights(cli, tiny, tmp_path / "w.pth"), str(tmp_path / "w.pth"), "state dict")


def test_weights_of_another_model_are_refused_with_the_names_that_do_not_fit(cli, tiny, tmp_path):
    safetensors.torch.save_file({"blocks.0.attn.qkv.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    told = weights(cli, tiny, tmp_path / "w.safetensors")
    refused(
        told, f"backbone.weights={tmp_path / 'w.safetensors'}", "resnet18", "conv1.weight", "blocks.0.attn.qkv.weight"
    )
    assert files(tmp_path) == ["w.safetensors"]


def test_weights_of_another_shape_are_refused_with_both_shapes(cli, tiny, tmp_path):
    state = nano()
    state["layer4.0.conv1.weight"] = torch.zeros(7, 96, 3, 3)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    told = weights(cli, tiny, tmp_path / "w.safetensors")
    refused(told, "layer4.0.conv1.weight", "[7, 96, 3, 3] in the file", "[192, 96, 3, 3] expected")


def test_weights_that_lack_a_tensor_are_refused_with_its_name(cli, tiny, tmp_path):
    state = nano()
    del state["layer4.0.bn1.running_var"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    refused(weights(cli, tiny, tmp_path / "w.safetensors"), "1 missing key", "layer4.0.bn1.running_var")


# -- checkpoints


def spoil(folder: Path, change: Callable[[dict], object]) -> Path:
    """Writes the checkpoint anew as what `change` makes of it, or as it is after `change` when that returns None."""
    path = folder / "checkpoint.ckpt"
    content = torch.load(path, weights_only=True)
    made = change(content)
    torch.save(content if made is None else made, path)
    return path


def refused_checkpoint(told: tuple[int, str, str], path: Path, *parts: str) -> None:
    """The command refused the checkpoint and said what to do; the record says the same."""
    sentence = refused(told, str(path), "remove it, or give force=true", *parts)
    assert "is kept in" not in sentence
    assert path.is_file()
    stored = json.loads((path.parent / "result.json").read_text())
    assert stored["status"] == "failed"
    assert stored["reason"] in sentence


def test_a_checkpoint_with_a_pickle_inside_is_refused_and_its_code_does_not_run(stopped, tmp_path):
    command, folder = stopped
    path = spoil(folder, lambda content: content | {"callbacks": Bomb(tmp_path / "ran")})
    refused_checkpoint(command(), path, "Python objects")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_run_is_refused(stopped, tmp_path):
    command, folder = stopped
    assert command("seed=7")[0] == 0
    (other,) = tmp_path.glob("*-s7-*")
    path = folder / "checkpoint.ckpt"
    path.write_bytes((other / "checkpoint.ckpt").read_bytes())
    refused_checkpoint(command(), path, f"belongs to run {other.name}, not to {folder.name}")


def test_a_checkpoint_of_another_model_is_refused_with_the_tensor_that_does_not_fit(stopped):
    command, folder = stopped

    def widen(content: dict) -> None:
        content["state_dict"]["model.task.head.weight"] = torch.zeros(11, 192)

    path = spoil(folder, widen)
    refused_checkpoint(command(), path, "model.task.head.weight", "[11, 192]")


def test_a_checkpoint_with_a_tensor_that_the_model_has_not_is_refused(stopped):
    command, folder = stopped

    def add(content: dict) -> None:
        content["state_dict"]["model.side.weight"] = torch.zeros(3)

    path = spoil(folder, add)
    refused_checkpoint(command(), path, "model.side.weight")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(stopped, share):
    command, folder = stopped
    path = folder / "checkpoint.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused_checkpoint(command(), path, "is damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: torch.zeros(3),
        lambda content: {"state_dict": {}},
        lambda content: content | {"peftbench": {}},
        lambda content: content | {"peftbench": None},
        lambda content: {k: v for k, v in content.items() if k != "state_dict"},
        lambda content: content | {"state_dict": {"model.task.head.weight": 3}},
        lambda content: content | {"peftbench": {"id": content["peftbench"]["id"]}},
    ],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_refused(stopped, change):
    command, folder = stopped
    path = spoil(folder, change)
    refused_checkpoint(command(), path)


def test_a_refused_checkpoint_is_put_aside_by_force(stopped, tmp_path):
    command, folder = stopped
    (folder / "checkpoint.ckpt").write_bytes(b"PK damaged")
    assert command("force=true")[0] == 0
    assert record(tmp_path)["status"] == "complete"
    (old,) = tmp_path.glob(".*.previous")
    assert (old / "checkpoint.ckpt").read_bytes() == b"PK damaged"


# -- records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 99}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_record_is_refused_and_left_alone(stopped, content):
    command, folder = stopped
    (folder / "result.json").write_bytes(content)
    before = files(folder)
    refused(command(), str(folder / "result.json"))
    assert (folder / "result.json").read_bytes() == content
    assert files(folder) == before


def test_a_run_whose_record_was_removed_is_completed_from_its_checkpoint(stopped, tmp_path):
    command, folder = stopped
    learned, _ = deltas.load_delta(folder / "delta.safetensors")
    status, _, err = command()
    assert (status, err) == (0, "")
    assert record(tmp_path)["status"] == "complete"
    again, _ = deltas.load_delta(folder / "delta.safetensors")
    assert again.keys() == learned.keys()
    assert all(torch.equal(again[name], learned[name]) for name in learned)


# -- the output folder


def test_an_output_folder_that_is_a_file_is_told(cli, tiny, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for place in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        for mode in ([], ["-m"]):
            told = cli(*mode, *tiny, "method=linear", f"output_dir={place}")
            refused(told, str(tmp_path / "taken"), "cannot be written")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission_is_told(cli, tiny, tmp_path):
    tmp_path.chmod(0o555)
    try:
        refused(cli(*tiny, "method=linear"), str(tmp_path), "cannot be written")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", [".locks", "run"])
def test_a_file_where_a_folder_has_to_be_is_told(stopped, tmp_path, name):
    command, folder = stopped
    place = tmp_path / ".locks" if name == ".locks" else folder
    place.rename(tmp_path / "aside")
    place.write_text("mine")
    refused(command(), "cannot be written")
    assert place.read_text() == "mine"


def test_a_run_that_another_process_carries_out_is_told(stopped, tmp_path):
    command, folder = stopped
    with (tmp_path / ".locks" / folder.name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(command(), str(folder), "another process")


def test_no_space_for_a_delta_leaves_the_old_one(tmp_path):
    path = tmp_path / "delta.safetensors"
    deltas.save_delta(path, {"a": torch.zeros(3)}, {})
    before = path.read_bytes()
    with disk_full_beyond(4096), pytest.raises(UserError) as refusal:
        deltas.save_delta(path, {"a": torch.zeros(5000)}, {})
    assert str(path) in str(refusal.value)
    assert "what was there before is kept" in str(refusal.value)
    assert files(tmp_path) == ["delta.safetensors"]
    assert path.read_bytes() == before


def test_a_run_without_space_for_its_delta_fails_and_leaves_the_old_one(stopped, tmp_path):
    command, folder = stopped
    before = {name: (folder / name).read_bytes() for name in ("delta.safetensors", "checkpoint.ckpt")}
    assert len(before["delta.safetensors"]) > 7000
    with disk_full_beyond(7000):
        told = command()
    refused(told, str(folder / "delta.safetensors"), "could not be written")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert record(tmp_path)["status"] == "failed"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("size", [0, 2000, 3000, 4000, 20000])
def test_a_disk_that_is_full_from_some_point_on_is_told_in_one_sentence(cli, tiny, tmp_path, size):
    with disk_full_beyond(size):
        told = cli(*tiny, "method=linear")
    refused(told, "could not be written")
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("delta.safetensors"))
    for path in tmp_path.glob("*/result.json"):
        assert json.loads(path.read_text())["status"] in ("running", "failed")


# -- a loss that is no longer a number


def test_a_loss_that_becomes_nan_stops_the_run_and_names_the_step(cli, tiny, tmp_path):
    told = refused(cli(*tiny, "method=full", "optimizer.lr=1e30"), "the loss became", "epoch 1, step 2", "optimizer.lr")
    stored = record(tmp_path)
    assert stored["status"] == "failed"
    assert stored["reason"] in told
    assert stored["metrics"] == {}
    assert not (run_folder(tmp_path) / "delta.safetensors").exists()


POISON = """
    from dataclasses import dataclass

    import torch

    from peftbench.methods.full import Full


    @dataclass(frozen=True)
    class Poison(Full):
        '''Full fine-tuning whose weights become NaN in step `at`, as after a gradient that overflowed.'''

        at: int = 3

        def optimizer(self, named, anchors, inner):
            steps = []

            def spoil(*_):
                steps.append(1)
                if len(steps) == self.at:
                    with torch.no_grad():
                        named[0][1].fill_(float("nan"))

            inner.register_step_post_hook(spoil)
            return inner
"""


@pytest.fixture
def poisoned(cli: Callable, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`poisoned(step)` runs four steps of a method whose weights become NaN in that one; a checkpoint each step."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "poison.py").write_text(textwrap.dedent(POISON))
    monkeypatch.syspath_prepend(tmp_path / "outside")

    def call(at: int, *words: str) -> tuple[int, str, str]:
        method = ["method=full", "method.path=poison.Poison", f"+method.at={at}"]
        return cli(*tiny, *method, "trainer.max_batches=4", "trainer.checkpoint_seconds=0", *words)

    return call


def finite(folder: Path) -> bool:
    """Whether the checkpoint in `folder` holds numbers only."""
    state = torch.load(folder / "checkpoint.ckpt", weights_only=True)["state_dict"]
    assert state
    return all(torch.isfinite(t).all() for t in state.values() if t.is_floating_point())


def test_the_last_good_state_is_kept_when_the_loss_becomes_nan(poisoned, tmp_path):
    told = refused(poisoned(3), "became nan", "epoch 1, step")
    folder = run_folder(tmp_path)
    assert str(folder / "checkpoint.ckpt") in told
    assert finite(folder)
    assert record(tmp_path)["status"] == "failed"


def test_weights_that_become_nan_in_the_last_step_do_not_count_as_complete(poisoned, tmp_path):
    refused(poisoned(4), "nan")
    assert record(tmp_path)["status"] == "failed"
    assert not (run_folder(tmp_path) / "delta.safetensors").exists()


def test_weights_that_become_nan_at_the_end_of_an_epoch_do_not_replace_the_last_good_state(poisoned, tmp_path):
    refused(poisoned(4, "trainer.epochs=2"), "nan")
    assert finite(run_folder(tmp_path))


def test_a_run_that_failed_is_not_taken_for_complete_by_the_same_command(poisoned, tmp_path):
    for _ in range(2):
        refused(poisoned(1), "became nan")
        assert record(tmp_path)["status"] == "failed"


def test_a_folder_of_another_vtab_task_does_not_pass_for_this_one(cli, tmp_path):
    folder = tmp_path / "somewhere"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "a.png")
    for name in ("train800", "val200", "train800val200", "test"):
        (folder / f"{name}.txt").write_text("images/a.png 0\n")
    status, _, error = cli("data=vtab/eurosat", f"data.root={folder}", "backbone=resnet_nano", "method=linear")
    assert status == 2
    assert "looks like another task" in error
    assert "eurosat" in error
