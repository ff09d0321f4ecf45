"""What a wrong name most likely means stands first in the answer; nothing is suggested where nothing is near."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.cli.main import main
from peftbench.common.config_files import CONFIGS, elsewhere, groups, names, roots
from peftbench.common.near_names import distance, nearest_name
from peftbench.common.other_words import ABSENT, KEYS, VALUES
from peftbench.config.near_keys import known_keys, near_key

SUGGESTED = {
    # keys, at any depth
    "epochs": "trainer.epochs",
    "batch_size": "data.batch_size",
    "batch-size": "data.batch_size",
    "batchsize": "data.batch_size",
    "lr": "optimizer.lr",
    "rank": "method.rank",
    "size": "data.size",
    "weights": "backbone.weights",
    "pretrained": "backbone.pretrained",
    "root": "data.root",
    "together": "sweep.together",
    "trainer.lr": "optimizer.lr",
    "trainer.batch_size": "data.batch_size",
    "optimizer.epochs": "trainer.epochs",
    "TRAINER.EPOCHS": "trainer.epochs",
    "trainer_epochs": "trainer.epochs",
    # letters
    "trainer.epoch": "trainer.epochs",
    "trainer.epohcs": "trainer.epochs",
    "trianer.epochs": "trainer.epochs",
    "epohcs": "trainer.epochs",
    "methd": "method",
    "bakcbone": "backbone",
    "dta": "data",
    "seeds": "seed",
    "optimzer.lr": "optimizer.lr",
    "data.bach_size": "data.batch_size",
    "data.sise": "data.size",
    "method.rnk": "method.rank",
    "data.val_fractoin": "data.val_fraction",
    "sweep.togehter": "sweep.together",
    # words of other tools
    "learning_rate": "optimizer.lr",
    "optimizer.learning_rate": "optimizer.lr",
    "lr0": "optimizer.lr",
    "head_lr": "optimizer.head_lr",
    "wd": "optimizer.weight_decay",
    "warmup_steps": "optimizer.warmup",
    "lr_scheduler": "optimizer.schedule",
    "opt": "optimizer",
    "num_epochs": "trainer.epochs",
    "max_epochs": "trainer.epochs",
    "total_epochs": "trainer.epochs",
    "gradient_clip_val": "trainer.clip",
    "accumulate_grad_batches": "trainer.accumulate",
    "amp": "trainer.precision",
    "device": "trainer.accelerator",
    "devices": "trainer.devices",
    "gpus": "trainer.devices",
    "bs": "data.batch_size",
    "per_device_train_batch_size": "data.batch_size",
    "workers": "data.workers",
    "num_workers": "data.workers",
    "imgsz": "data.size",
    "img_size": "data.size",
    "data.image_size": "data.size",
    "dataset": "data",
    "data_path": "data.root",
    "val_split": "data.val_fraction",
    "smoothing": "task.label_smoothing",
    "model": "backbone",
    "arch": "backbone",
    "drop_path_rate": "backbone.drop_path",
    "checkpoint": "backbone.weights",
    "lora_r": "method.rank",
    "method.lora_alpha": "method.alpha",
    "output": "output_dir",
    "out_dir": "output_dir",
    "random_seed": "seed",
    # nothing is near
    "name": None,
    "run_name": None,
    "patience": None,
    "mixup": "data.mixup",
    "foo": None,
    "trainer.foo": None,
    "data.mosaic": None,
    "x": None,
}
CHOSEN = {
    "method=lroa": "lora",
    "method=LoRA": "lora",
    "method=lorra": "lora",
    "method=bit-fit": "bitfit",
    "method=linear_probe": "linear",
    "method=finetune": "full",
    "method=wiseft": "wise_ft",
    "method=sptlora": "spt_lora",
    "backbone=resnet_nan": "resnet_nano",
    "backbone=vit-b": "vit_b",
    "backbone=vit": "vit_b",
    "backbone=efficientnet": "efficientnet_lite0",
    "backbone=resent50": "resnet50",
    "data=digit": "digits",
    "data=cifar": "vtab/cifar",
    "data=cifar100": "vtab/cifar",
    "data=vtab/cifra": "vtab/cifar",
    "data=imagefolder": "folder",
    "optimizer=adam": "adamw",
    "trainer=cuda": "gpu",
    "logger=wb": "wandb",
    "method=boft": None,
    "method=loraplus": "lora_plus",
    "method=loha": None,
    "backbone=resnet34": None,
    "backbone=swin_l": None,
    "backbone=efficientnet_lite4": None,
    "data=mnist": None,
    "data=cifar10": None,
    "logger=tb": "tensorboard",
    "logger=comet": None,
    "trainer=tpu": None,
    "task=semseg": "segmentation",
    "task=keypoints": None,
}


@pytest.fixture(scope="module")
def keys():
    return known_keys(["method=lora", "data=folder"], roots())


def test_the_key_that_is_meant_comes_first(keys):
    assert {wrong: near_key(wrong, keys) for wrong in SUGGESTED} == SUGGESTED


def test_what_other_tools_call_things_names_what_there_is(keys):
    for words in (["method=petah", "logger=wandb"], ["task=detection"], ["task=segmentation"]):
        keys = [*keys, *known_keys(words, [CONFIGS])]
    assert {key for meant in KEYS.values() for key in meant} <= set(keys)
    for group in groups([CONFIGS]):
        choices = names(group, [CONFIGS])
        words = [*ABSENT.get(group, "").split(), *(word for path in choices.values() for word in elsewhere(path))]
        assert not [word for word in words if word in choices or words.count(word) > 1], group
    for key, values in VALUES.items():
        for word in set(values.values()):
            assert word.startswith(key.partition(".")[0])
            peftbench.compose(word)


@pytest.mark.parametrize("wrong", CHOSEN)
def test_the_choice_that_is_meant_comes_first(wrong):
    with pytest.raises(peftbench.UserError) as mistake:
        peftbench.compose(wrong)
    meant = CHOSEN[wrong]
    assert f"{wrong}: there is no such " in str(mistake.value)
    assert (f"(did you mean '{meant}'?)" if meant else "; ") in str(mistake.value)
    assert meant or "did you mean" not in str(mistake.value)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["epochs=3"], "epochs: there is no such key (did you mean 'trainer.epochs'?)"),
        (["plan", "lr=3"], "lr: there is no such key (did you mean 'optimizer.lr'?)"),
        (["-m", "method=lora,full", "rank=1,2"], "rank: there is no such key (did you mean 'method.rank'?)"),
        (["method=linear", "rank=3"], "rank: there is no such key; see"),
        (
            ["-m", "method=linear,losa", "method.rank=3"],
            "method.rank: there is no such key; method=linear has no rank, wh",
        ),
        (
            ["data.frames=3"],
            "data.frames: there is no such key; data=photos has no frames, which video_folder has; see",
        ),
        (
            ["data=digits", "data.root=/there"],
            "data=digits has no root; for your own images: data=folder data.root=/there;",
        ),
        (["data=digits_det", "data.root=/there"], "for your own images: data=coco_folder data.root=/there;"),
        (["optimizer.learning_rate=1"], "optimizer.learning_rate: there is no such key (did you mean 'optimizer.lr'?)"),
        (["+optimizer.learning_rate=1"], "(did you mean 'optimizer.lr'?)"),
        (["+epochs=3"], "epochs: there is no such key (did you mean 'trainer.epochs'?)"),
        (
            ["data.path=."],
            "data.path=.: expected the import path of a class (did you mean 'data.root'?)",
        ),
        (["--epochs=3"], "--epochs=3: a run takes its keys without dashes; give trainer.epochs=3."),
        (["--method", "lora"], "--method: a run takes its keys without dashes; give method=…."),
        (["backbone.weights=random"], "backbone.weights=random: there is no such file (did you mean 'backbone.pretr"),
        (["backbone.weights=null"], "(did you mean 'backbone.pretrained=false'?)"),
        (["trainer.precision=fp16"], "(did you mean 'trainer.precision=16'?)"),
        (["trainer.accelerator=cuda"], "(did you mean 'trainer.accelerator=gpu'?)"),
        (["data.stage=tunne"], "expected 'fit', 'tune' or 'final' (did you mean 'tune'?)"),
        (["data.augment=filp"], "(did you mean 'flip'?)"),
        (["data=."], "data=.: there is no such data; for a folder of images: data=folder data.root=.; there are"),
        (
            ["data=~/photos (1)"],
            "data=~/photos (1): there is no such data; for a folder of images: data=folder data.root=",
        ),
        (["predcit"], "'predcit': there is no such command (did you mean 'predict'?)"),
        (["inference"], "(did you mean 'predict'?)"),
        (["summary"], "(did you mean 'report'?)"),
        (["train"], "'train': there is no such command; a run is given as key=value"),
        (["taps", "claer"], "(did you mean 'clear'?)"),
        (["predict", "model=x", "images=y"], "predict model=x: there is no such option (did you mean 'run'?)"),
        (["predict", "run=x", "source=y"], "(did you mean 'images'?)"),
        (["report", "format=md"], "(did you mean 'markdown'?)"),
        (["report", "--fmt=html"], "(did you mean 'format'?)"),
        (["choose", "memory=2GB"], "(did you mean 'max_memory'?)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_what_was_meant(capsys, words, part):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert part in told
    assert told.count("\n") == 1


def test_an_option_of_a_method_in_python_is_suggested():
    with pytest.raises(peftbench.UserError, match=r"method.rnk: there is no such key \(did you mean 'method.rank'"):
        peftbench.count_parameters("lora", "vit_nano", rnk=4)


@settings(max_examples=60, deadline=None)
@given(
    word=st.text("abcde", min_size=4, max_size=12),
    at=st.integers(0, 10),
    how=st.sampled_from(["delete", "swap", "double"]),
)
def test_one_slip_is_one_step_and_finds_the_word_again(word, at, how):
    at %= len(word) - 1
    slips = {
        "delete": word[:at] + word[at + 1 :],
        "swap": word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        "double": word[: at + 1] + word[at:],
    }
    slip = slips.get(how, word)
    assert distance(word, slip) == distance(slip, word) == (slip != word)
    assert nearest_name(slip, ["qqqqqqqqqqqqqqq", word, "rrrr"]) == word


@settings(max_examples=60, deadline=None)
@given(word=st.text(max_size=12), known=st.lists(st.text(max_size=6), max_size=4))
def test_a_suggestion_is_always_one_of_the_known_names(word, known):
    near = nearest_name(word, [*known, "", " "])
    assert near is None or near in known
    assert near is not None or word not in known or not any(letter.isalnum() for letter in word)
