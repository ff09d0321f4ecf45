"""Structured pruning to a latency: the counts are measured once, and kept; the rest learns from the whole backbone."""

import json
import sys

import pytest
import safetensors.torch
import torch
from PIL import Image

import peftbench
from peftbench import backbones, pruning
from peftbench.common.sealed_file import sealed
from peftbench.config import Pruning
from peftbench.pruning.by_latency import losses_of
from peftbench.runs import latency_pruning
from support.finished_runs import finish, pictures
from support.pruned import of

WORDS = ["pruning=structured", "pruning.runtime=torch", "pruning.recovery=0", "pruning.rounds=1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of small pictures to prune on."""
    folder = tmp_path_factory.mktemp("unlabelled")
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def clock():
    """Time as a part's arithmetic says, and not as this machine has it."""

    def multiply_adds(module, image, runtime):
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(image)
        seconds = 1e-9 * counter.get_total_flops()

        def call():
            return None

        call.seconds = seconds
        return call

    def times(calls, rounds):
        return {name: [call.seconds] * rounds for name, call in calls.items()}

    with pytest.MonkeyPatch.context() as patch:
        for module in ("layer_times", "by_latency"):
            patch.setattr(f"peftbench.pruning.{module}.call_of", multiply_adds)
        patch.setattr("peftbench.pruning.runtimes.times_of", times)
        patch.setattr("peftbench.pruning.layer_times.times_of", times)
        patch.setattr("peftbench.pruning.layer_times._place", lambda runtime: _place())
        yield


def _place():
    from peftbench.common.cache_folder import cache

    return cache() / "latency" / "of_a_test.json"


@pytest.fixture(scope="module")
def pruned(clock, images, tmp_path_factory):
    """(the record of a run on a backbone pruned to 0.8, its output folder, its images)."""
    folder, data = tmp_path_factory.mktemp("runs"), pictures(tmp_path_factory.mktemp("pictures"), 4, 2)
    words = [*WORDS, "pruning.target=latency:0.8", f"pruning.images={images}"]
    return finish(folder, data, "linear", "vit_nano", *words), folder, data


def whole():
    return backbones.build_with_weights(of("vit_nano"))


def pixels():
    """Smooth pictures: of noise a backbone says nothing."""
    rough = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(rough, (64, 64), mode="bicubic")


def pooled(backbone, images):
    with torch.no_grad():
        return backbone.pool(backbone.taps(images, (-1,))[0])


def spec(share=0.8, **given):
    return Pruning(name="structured", target=f"latency:{share:g}", **{"runtime": "torch", "recovery": 0, **given})


def test_the_counts_leave_the_target_and_the_file_holds_them(pruned):
    record, folder, _ = pruned
    stamp = record.stamps["backbone"]["pruning"]
    assert 0.78 <= stamp["latency"]["share"] <= 0.8
    assert stamp["target"] == "latency:0.8"
    assert stamp["kept"]["channels"] or stamp["kept"]["heads"]
    (file,) = (folder / "backbones").glob("*.safetensors")
    assert record.stamps["backbone"]["fingerprint"][:10] in file.name
    source = peftbench.compose("method=linear", "data=digits", "backbone=vit_nano", f"backbone.weights={file}").backbone
    kept = backbones.build_with_weights(source, 32)
    assert {k: dict(v) for k, v in kept.kept.items()} == stamp["kept"]
    assert kept.fingerprint == record.stamps["backbone"]["fingerprint"]


def test_a_second_run_measures_nothing_and_has_the_same_backbone(pruned, images, monkeypatch):
    record, folder, data = pruned

    def never(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr("peftbench.pruning.prune_to_latency", never)
    words = [*WORDS, "pruning.target=latency:0.8", f"pruning.images={images}"]
    again = finish(folder, data, "linear", "vit_nano", *words, "force=true")
    assert again.id == record.id
    other = finish(folder, data, "linear", "vit_nano", *words, "seed=1")
    assert other.stamps["backbone"]["fingerprint"] == record.stamps["backbone"]["fingerprint"]
    tuned = peftbench.load(folder / record.id)
    assert tuned.model.backbone.kept == record.stamps["backbone"]["pruning"]["kept"]
    assert peftbench.MultiTask(None, {"a": folder / record.id, "b": folder / other.id}).report()["tasks"] == 2


def test_a_run_whose_pruned_file_is_gone_says_so(pruned, tmp_path):
    record, folder, _ = pruned
    (file,) = (folder / "backbones").glob("*.safetensors")
    moved = file.rename(tmp_path / file.name)
    try:
        with pytest.raises(peftbench.UserError, match=r"the file that holds it, .* give it as weights=FILE"):
            peftbench.load(folder / record.id)
        assert peftbench.load(folder / record.id, weights=moved).model.backbone.kept
    finally:
        moved.rename(file)


def test_a_file_whose_counts_do_not_fit_the_backbone_is_one_sentence(pruned, images, tmp_path):
    _, folder, data = pruned
    (file,) = (folder / "backbones").glob("*.safetensors")
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = safetensors.torch.load_file(file)
    kept = json.loads(about["kept"])
    kept["channels"] = dict.fromkeys(kept["channels"] or {"blocks.0.mlp.fc1": 1}, 9999)
    place = tmp_path / "backbones" / file.name
    place.parent.mkdir()
    safetensors.torch.save_file(tensors, place, metadata=sealed(tensors, about | {"kept": json.dumps(kept)}))
    words = [
        *WORDS,
        "pruning.target=latency:0.8",
        f"pruning.images={images}",
        f"data.root={data}",
        "data=folder",
        "data.size=32",
    ]
    config = peftbench.compose("method=linear", "backbone=vit_nano", *words, f"output_dir={tmp_path}")
    with pytest.raises(peftbench.UserError, match="does not fit"):
        peftbench.build_backbone(config)


def test_a_target_out_of_reach_says_the_least_that_was_measured(clock):
    with pytest.raises(peftbench.Refusal, match=r"takes 0\.\d\d of the whole one's latency .* give 0\.\d\d or more"):
        pruning.prune_to_latency(whole(), spec(0.01), pixels(), torch.device("cpu"))


@pytest.mark.slow
def test_recovery_brings_the_taps_back_without_labels(clock):
    given = pixels()
    before = pooled(whole(), given)
    apart = {}
    for steps in (0, 30):
        small = pruning.prune_to_latency(whole(), spec(0.7, rounds=2, recovery=steps), given, torch.device("cpu"))
        apart[steps] = float((pooled(small, given) - before).square().mean())
        assert not any(p.grad is not None for p in small.net.parameters())
    assert apart[30] < 0.8 * apart[0]


@pytest.mark.slow
def test_the_same_pruning_again_has_the_same_bits(clock):
    made = [pruning.prune_to_latency(whole(), spec(recovery=2), pixels(), torch.device("cpu")) for _ in range(2)]
    assert made[0].fingerprint == made[1].fingerprint


def test_what_a_part_loses_is_the_share_of_its_least():
    assert losses_of(torch.tensor([1.0, 4.0, 3.0, 2.0]), [4, 3, 1]) == pytest.approx([0.0, 0.1, 0.6])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pruning.target=latency:1.5"], "pruning.target=latency:1.5: expected latency:SHARE"),
        (["pruning.target=latency:x"], "pruning.target=latency:x: expected latency:SHARE"),
        (["pruning.target=latency:nan"], "expected latency:SHARE"),
        (["pruning.target=size:0.5"], "expected latency:SHARE"),
        (["pruning.target=latency:0.7", "pruning.heads=0.5"], "pruning.heads=0.5: pruning.target=latency:0.7 chooses"),
        (["pruning.rounds=2"], "pruning.rounds=2: is of a latency"),
        (["pruning.target=latency:0.7", "pruning.images=nowhere"], "pruning.images=nowhere: "),
        (["pruning.target=latency:0.7", "pruning.images={empty}"], "pruning.images="),
        (["pruning.target=latency:0.7", "pruning.images={broken}"], "cannot be read as an image"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_words_are_one_sentence(words, says, cli, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    words = [w.format(empty=tmp_path / "empty", broken=tmp_path / "broken") for w in words]
    words = [*tiny, "method=linear", "pruning=structured", *words]
    status, _, told = cli(*words)
    assert status == 2, told
    assert says in told
    assert "Traceback" not in told
    assert not list(tmp_path.glob("backbones/*.safetensors"))


def test_a_runtime_whose_library_is_missing_is_one_sentence(cli, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, _, told = cli(*tiny, "method=linear", "pruning=structured", "pruning.target=latency:0.7")
    assert status == 2
    assert "pruning.runtime=onnx: needs onnxruntime; pip install 'peftbench[onnx]'" in told


def test_ids_of_before_stay_and_a_target_is_part_of_one():
    from peftbench.config.identity import identity

    plain = identity(peftbench.compose("method=linear", "data=digits", "pruning=structured"))
    assert set(plain["pruning"]) == {"name", "ratio", "criterion", "scope", "merge", "round_to", "heads"}
    words = ["method=linear", "data=digits", "pruning=structured", "pruning.target=latency:0.7"]
    assert identity(peftbench.compose(*words))["pruning"]["target"] == "latency:0.7"


def test_a_request_knows_the_images_and_the_size(images, tmp_path):
    backbone = whole()
    config = peftbench.compose("method=linear", "data=digits", "pruning=structured", "pruning.target=latency:0.7")
    asked = {latency_pruning._request(backbone, config, digest) for digest in ("a", "b")}
    assert len(asked) == 2
