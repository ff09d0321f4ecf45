"""Names, keys, types and values that cannot be: each gets one sentence, and nothing is written."""

from __future__ import annotations

import pytest

from support.mistakes import files, refused


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
        (["logger=comet"], ["logger=comet", "wandb"]),
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
        ("data.root=3", ["data.root=3", "string", "read as a number; for text write \"data.root='3'\""]),
        ("data.root=true", ["data.root=True", "read as true or false", "\"data.root='true'\""]),
        ("data.root=null", ["data.root=None", "read as nothing", "\"data.root='null'\""]),
        ("data.root=[a,b]", ["data.root=['a', 'b']", "read as a list", "\"data.root='[a,b]'\""]),
        ("output_dir=2024", ["output_dir=2024", "\"output_dir='2024'\""]),
        ("output_dir=null", ["output_dir=None", "\"output_dir='null'\""]),
        ("~method.lr", ["optimizer.lr: refers by ${…}", "to the key 'method.lr', which is not there"]),
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
        ("trainer.precision=64", ["trainer.precision='64'", "'32', '16', 'bf16' or 'auto'"]),
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


@pytest.mark.parametrize("word", ["seed=-1", "seed=4294967296", "data.order_seed=-1", "data.order_seed=4294967296"])
def test_a_seed_that_would_be_cut_is_refused(cli, tiny, tmp_path, word):
    refused(cli(*tiny, "method=linear", word), f"{word}: expected a whole number from 0 to 4294967295")
    assert files(tmp_path) == []
