"""What classification measures, batch by batch."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from peftbench.tasks.classification.task import Classification


def task(classes: int) -> Classification:
    return Classification(SimpleNamespace(facts=SimpleNamespace(width=4)), [str(i) for i in range(classes)])


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), first=st.sampled_from(["right", "wrong", "mixed"]),
       seed=st.integers(0, 99))  # fmt: skip
def test_metrics_are_those_of_all_images_whatever_the_first_batch_holds(sizes, first, seed):
    """Metrics that agree on the first batch are still counted each by itself."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(7, (sum(sizes),), generator=generator)
    logits = torch.randn(len(labels), 7, generator=generator)
    begin = slice(0, sizes[0])
    if first != "mixed":
        logits[begin] += (20 if first == "right" else -20) * F.one_hot(labels[begin], 7)
    measured = task(7)
    metrics = measured.metrics()
    for one_batch, its_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.update(one_batch, its_labels)
    found = {name: value.item() for name, value in metrics.compute().items()}
    right = logits.argmax(1) == labels
    assert found["accuracy"] == pytest.approx(right.float().mean().item())
    among_five = (logits.topk(5).indices == labels[:, None]).any(1)
    assert found["top5"] == pytest.approx(among_five.float().mean().item())
    assert measured.rows(metrics).tolist() == right.tolist()
    metrics.reset()
    assert measured.rows(metrics).tolist() == []
