"""What a run writes and reads again is whole or refused: flipped bits give no traceback and no other answer."""

import random
import shutil
import warnings

import pytest
import safetensors
import safetensors.torch
import torch

import peftbench
from peftbench import backbones, config, pruning
from peftbench.common.notes import Note
from peftbench.runs import starting_backbone
from peftbench.runs.plan_file import read_plan
from support.mistakes import refused
from support.pruned import of, structured, unstructured


def with_flips(file, count, seed):
    """The file again and again, a random bit flipped each time; afterwards as it was."""
    whole = file.read_bytes()
    rng = random.Random(seed)
    for _ in range(count):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        yield
    file.write_bytes(whole)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# -- the plan of a stopped run


@pytest.fixture(scope="module")
def planned(tiny, tmp_path_factory):
    """The words of a run that plans, and its folder after it was stopped."""
    from peftbench.cli.main import main

    output = tmp_path_factory.mktemp("planned")
    words = [*tiny, "method=spt_sparse", "method.budget=2000", f"output_dir={output}"]
    assert main(words) == 0
    (record,) = output.glob("*/result.json")
    record.unlink()
    return words, record.parent


@pytest.mark.parametrize("name", ["plan.json", "plan.safetensors"])
def test_a_plan_with_a_flipped_bit_is_refused_or_the_same(planned, name):
    folder = planned[1]
    whole = read_plan(folder)
    refusals = []
    for _ in with_flips(folder / name, 100, seed=1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Note)
                plan = read_plan(folder)
        except peftbench.UserError as problem:
            refusals.append(str(problem))
        else:
            assert plan.facts == whole.facts
            assert same_tensors(plan.tensors, whole.tensors)
    assert len(refusals) >= 90
    assert all(name in text and "force=true" in text and "\n" not in text for text in refusals)
    assert same_tensors(read_plan(folder).tensors, whole.tensors)


def test_a_stopped_run_with_a_damaged_plan_is_told_in_one_sentence(planned, cli, tmp_path):
    words, folder = planned
    copy = shutil.copytree(folder.parent, tmp_path / "copy")
    file = copy / folder.name / "plan.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    words = [*words[:-1], f"output_dir={copy}"]
    refused(cli(*words), str(file), "is damaged", "force=true")
    assert file.read_bytes() == content


def test_the_plan_of_an_earlier_version_is_read_with_a_note(planned, tmp_path):
    copy = shutil.copytree(planned[1], tmp_path / "copy")
    plan = read_plan(copy)
    safetensors.torch.save_file(dict(plan.tensors), copy / "plan.safetensors")
    with pytest.warns(Note, match="which wrote no hash"):
        again = read_plan(copy)
    assert again.facts == plan.facts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_plan(copy, bound="the hash in a delta")  # which is compared with it


# -- the file of a pruned backbone


@pytest.mark.parametrize(
    ("spec", "flips"),
    [
        (unstructured(0.7), 12),
        (structured(), 12),
        pytest.param(unstructured(0.7), 200, marks=pytest.mark.slow),
        pytest.param(structured(), 200, marks=pytest.mark.slow),
    ],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_a_pruned_file_with_a_flipped_bit_is_refused_or_the_same(tmp_path, spec, flips):
    pruned = pruning.prune(backbones.build_with_weights(of("resnet_nano")), spec)
    file = tmp_path / "pruned.safetensors"
    pruning.save_pruned(pruned, file)
    assert pruning.is_saved(pruned, file)
    header = int.from_bytes(file.read_bytes()[:8], "little")
    given = config.Backbone(**{**vars(of("resnet_nano")), "weights": str(file)})
    refusals = []
    for place, part in (("header", file.read_bytes()[: header + 8]), ("tensors", b"")):
        whole = file.read_bytes()
        rng = random.Random(len(part))
        for _ in range(flips):
            content = bytearray(whole)
            at = rng.randrange(len(part)) if part else rng.randrange(header + 8, len(whole))
            content[at] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            assert not pruning.is_saved(pruned, file)
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always", Note)
                    backbone = backbones.build_with_weights(given)
            except peftbench.UserError as problem:
                refusals.append(str(problem))
            else:
                assert place == "header"
                assert told, "the key of the hash itself was hit"
                assert backbone.fingerprint == pruned.fingerprint
        file.write_bytes(whole)
    assert len(refusals) > flips
    assert not any("\n" in text for text in refusals)
    assert backbones.build_with_weights(given).fingerprint == pruned.fingerprint


def test_a_pruned_file_of_an_earlier_version_is_read_with_a_note(tmp_path):
    pruned = pruning.prune(backbones.build_with_weights(of("resnet_nano")), structured())
    file = tmp_path / "pruned.safetensors"
    pruning.save_pruned(pruned, file)
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
    del about["content"], about["tensors"]
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, metadata=about)
    given = config.Backbone(**{**vars(of("resnet_nano")), "weights": str(file)})
    with pytest.warns(Note, match="which wrote no hash"):
        assert backbones.build_with_weights(given).fingerprint == pruned.fingerprint
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, metadata=about | {"format": "x"})
    with pytest.raises(peftbench.UserError, match="its format is 'x'"):
        backbones.build_with_weights(given)


@pytest.mark.parametrize("at", [20, -3], ids=["header", "tensors"])
def test_the_next_run_that_prunes_so_mends_a_damaged_file(tmp_path, at):
    spec = peftbench.compose("backbone=resnet_nano", "data=digits", "pruning=unstructured", f"output_dir={tmp_path}")
    pruned = pruning.prune(backbones.build_with_weights(spec.backbone), spec.pruning)
    file = starting_backbone.keep_pruned_file(pruned, spec)
    content = bytearray(file.read_bytes())
    content[at] ^= 16
    file.write_bytes(content)
    assert starting_backbone.keep_pruned_file(pruned, spec) == file
    assert same_tensors(safetensors.torch.load_file(file), dict(pruned.net.state_dict()))
    assert pruning.is_saved(pruned, file)
