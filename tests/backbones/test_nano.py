"""The small backbones are really pretrained: a frozen-feature classifier on them against the same on random weights."""

import dataclasses

import numpy as np
import pytest
import torch

import peftbench
from peftbench import backbones
from peftbench.data.decoding import decode_image
from peftbench.runs.build import instantiate
from support.places import CALTECH


def features(backbone, split):
    images = (torch.from_numpy(decode_image(i, 64, "bicubic").copy()) for i in split.images)
    batches = torch.stack(list(images)).float().sub(127.5).div(127.5).split(128)
    with torch.no_grad():
        return torch.cat([backbone.pool(backbone.taps(b, [-1])[-1]) for b in batches]).numpy()


def probe(backbone, splits):
    """Top-1 of a logistic regression on standardised features, trained on 1000 images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    classifier.fit(features(backbone, splits.trainval), splits.trainval.labels)
    return float(np.mean(classifier.predict(features(backbone, splits.test)) == splits.test.labels))


@pytest.mark.slow
@pytest.mark.skipif(not CALTECH.is_dir(), reason="needs the Caltech-101 set, which is not shipped")
@pytest.mark.parametrize("name", ["vit_nano", "resnet_nano", "hybrid_nano"])
def test_frozen_features_beat_random_ones_by_far(name):
    config = peftbench.compose(f"backbone={name}", "data=vtab/caltech101", f"data.root={CALTECH}")
    splits = instantiate(config.data).load()
    pretrained = probe(backbones.build_with_weights(config.backbone), splits)
    torch.manual_seed(0)
    random = probe(backbones.build_with_weights(dataclasses.replace(config.backbone, pretrained=False)), splits)
    assert pretrained >= 0.30
    assert pretrained >= 2 * random
