"""`peftbench export format=executorch` of models whose updates are added to weights when they run."""

import pytest
import torch
from timm.models import register_model
from timm.models.byobnet import ByoBlockCfg, ByoModelCfg
from timm.models.mobilevit import _create_mobilevit, _mobilevit_block, model_cfgs

import peftbench
from peftbench.tuned.export import export
from peftbench.tuned.runtimes import open_exported
from support.finished_runs import finish, logits_of, pictures

SMALL_HYBRID = ["timm", "backbone.name=peftbench_tests_mobilevit", "backbone.pretrained=false"]
SMALL_VIT = ["vit_nano", "backbone.args={depth: 1}", "backbone.pretrained=false"]


@pytest.fixture(scope="module", autouse=True)
def small_hybrid():
    """hybrid_nano's kind in a size that ExecuTorch lowers in seconds: a convolution, then a stage with attention."""
    first = ByoBlockCfg(type="bottle", d=1, c=16, s=2, gs=1, br=2.0)
    second = _mobilevit_block(d=1, c=24, s=2, transformer_dim=32, transformer_depth=1, patch_size=2, br=2.0)
    model_cfgs["peftbench_tests_mobilevit"] = ByoModelCfg(
        blocks=(first, second),
        stem_chs=16,
        stem_type="3x3",
        stem_pool="",
        downsample="",
        act_layer="silu",
        num_features=48,
    )

    def peftbench_tests_mobilevit(pretrained=False, **words):
        return _create_mobilevit("peftbench_tests_mobilevit", pretrained=pretrained, **words)

    register_model(peftbench_tests_mobilevit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "merge", "said"),
    [
        (SMALL_HYBRID, True, "dense"),
        (["resnet_nano"], True, "dense"),
        (SMALL_VIT, False, "unmerged"),  # the factors lie in the file, and their product is scaled
    ],
    ids=["hybrid", "resnet", "vit-apart"],
)
def test_an_update_over_a_pruned_backbone_computes_the_same(backbone, merge, said, tmp_path):
    pytest.importorskip("executorch.exir")
    data = pictures(tmp_path / "pictures", train=8, test=3)
    words = ["trainer.max_batches=2", "method.alpha=16", "optimizer.lr=1e-2"]
    run = finish(tmp_path / "out", data, "petah", *backbone, *words).folder
    made = export(run, "executorch", merge=merge)
    assert made.difference < 1e-4
    model, tuned = open_exported(made.path), peftbench.load(run, merge=False)
    assert (model.told["merge"], model.told["merged"]) == (said, str(merge).lower())
    assert (float(model.told["sparsity"]) < 0.4) == merge
    right, _ = logits_of(data, tuned)
    pixels = torch.stack([tuned.transform(p) for c in tuned.classes for p in sorted((data / "test" / c).iterdir())])
    torch.testing.assert_close(torch.from_numpy(model(pixels.float() / 255)), right, rtol=1e-4, atol=1e-4)
