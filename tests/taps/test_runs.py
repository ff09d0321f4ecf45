"""Runs on stored taps: computed once, bit-equal to computing always, shared, checked."""

from __future__ import annotations

import pytest
import torch

import peftbench
from peftbench.data import read_ahead
from peftbench.taps import entries, store
from support.taps import RUN, history, record

SLOWLY = [pytest.param(n, marks=pytest.mark.slow) for n in ("resnet_nano", "hybrid_nano", "efficientnet_lite0")]


@pytest.mark.parametrize("backbone", ["vit_nano", *SLOWLY])
def test_training_from_the_cache_is_training_without_it(cli, tmp_path, backbone, monkeypatch):
    monkeypatch.setattr(read_ahead, "LEAST", 0)  # small batches too are read by a thread
    words = [w if not w.startswith("backbone") else f"backbone={backbone}" for w in RUN]
    words += ["data.batch_size=7", "data.stage=tune", "data.eval_batch_size=11"]
    for mode in ("off", "disk", "memory"):
        assert cli(*words, f"taps={mode}", f"output_dir={tmp_path / mode}")[0] == 0
    assert history(tmp_path / "disk") == history(tmp_path / "memory")
    exactly = backbone in ("vit_nano", "resnet_nano") or rounds_alike_in_every_batch(backbone)
    for live, kept in zip(history(tmp_path / "off"), history(tmp_path / "disk"), strict=True):
        assert live == (kept if exactly else pytest.approx(kept, rel=1e-5))
    live, kept = (record(tmp_path / mode)["metrics"] for mode in ("off", "disk"))
    assert live == (kept if exactly else pytest.approx(kept, rel=1e-5))


def rounds_alike_in_every_batch(backbone):
    """Whether this processor gives an image's taps the same bits in a batch of 8 as in one of 16.

    Some with AVX-512 do not, for convolutions as EfficientNet's.
    """
    net = peftbench.build_backbone(peftbench.compose(f"backbone={backbone}", "data=digits")).eval()
    images = torch.randn(16, 3, *net.facts.canvas, generator=torch.Generator().manual_seed(0))
    last = (len(net.facts.taps) - 1,)
    with torch.no_grad():
        return torch.equal(net.taps(images[:8], last)[0], net.taps(images, last)[0][:8])


def test_a_second_run_computes_no_taps_and_the_record_says_so(cli, tmp_path):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    status, out, _ = cli(*RUN, "optimizer.lr=0.01", f"output_dir={tmp_path / 'b'}")
    assert status == 0
    first, second = (record(tmp_path / n)["costs"]["taps"] for n in "ab")
    assert first["mode"] == second["mode"] == "disk"
    assert first["computed"] == first["rows"] == second["rows"] > 0
    assert second["computed"] == 0
    assert second["seconds"] == 0
    assert "disk, filled" in out


def test_other_weights_seeds_and_methods_have_taps_of_their_own(cli, tmp_path, cache):
    random = [*RUN, "backbone.pretrained=false"]  # the same name, other weights
    for i, words in enumerate(([*RUN], random, [*random, "seed=1"], ["method=linear", *RUN[1:]])):
        assert cli(*words, f"output_dir={tmp_path / str(i)}")[0] == 0
        assert record(tmp_path / str(i))["costs"]["taps"]["computed"] > 0
    assert len(entries.entries(cache)) == 8  # training and validation images of each


def test_a_damaged_entry_is_noticed_and_computed_again(cli, tmp_path, cache, monkeypatch):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    monkeypatch.setattr(store, "_VERIFIED", set())  # as in another process
    for entry in entries.entries(cache):
        path = entry.folder / "tap-02.bin"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    status, _, err = cli(*RUN, "force=true", f"output_dir={tmp_path / 'a'}")
    assert status == 0
    assert err.count("a checksum differs") == 2
    whole = record(tmp_path / "a")
    assert whole["costs"]["taps"]["computed"] == whole["costs"]["taps"]["rows"]
    assert cli(*RUN, "taps=off", f"output_dir={tmp_path / 'b'}")[0] == 0
    assert history(tmp_path / "a") == history(tmp_path / "b")


@pytest.mark.slow
def test_random_augmentation_is_not_cached_and_fixed_views_are(cli, tmp_path):
    status, _, err = cli(*RUN, "data.augment=flip", f"output_dir={tmp_path / 'a'}")
    assert status == 0
    assert "not kept" in err
    assert "taps.views=4" in err
    assert record(tmp_path / "a")["costs"]["taps"]["mode"] == "off"
    views = [*RUN, "data.augment=flip", "taps.views=2"]
    assert cli(*views, f"output_dir={tmp_path / 'b'}")[0] == 0
    kept = record(tmp_path / "b")["costs"]["taps"]
    assert kept["views"] == 2
    assert kept["rows"] > record(tmp_path / "b")["stamps"]["data"].get("rows", 0)
    assert cli(*views, "taps=off", f"output_dir={tmp_path / 'c'}")[0] == 0
    assert history(tmp_path / "b") == history(tmp_path / "c") != history(tmp_path / "a")


def test_a_method_that_changes_the_backbone_has_no_taps(cli, tmp_path, cache, tiny):
    status, _, err = cli("method=bitfit", "taps=disk", *[w for w in tiny if "progress" not in w])
    assert status == 0
    assert "method=bitfit changes the backbone" in err
    assert "taps" not in record(tmp_path)["costs"]
    assert not cache.exists()


def test_validation_is_cached_and_test_images_never_are(cli, tmp_path, cache):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    rows = sorted(e.about["rows"] for e in entries.entries(cache))
    assert len(rows) == 2
    assert sum(rows) == record(tmp_path / "a")["costs"]["taps"]["rows"] == 36


def test_an_order_seed_of_its_own_keeps_the_batches_while_the_seed_changes(cli, tmp_path):
    words = ["method=linear", *RUN[1:], "seed=1"]
    assert cli(*words, "data.order_seed=7", f"output_dir={tmp_path}")[0] == 0
    assert record(tmp_path)["config"]["data"]["order_seed"] == 7
    assert peftbench.compose(*words).data.order_seed is None
