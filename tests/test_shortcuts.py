"""What makes the tests quick is in force: it would be missed by nothing but the clock."""

from __future__ import annotations

import subprocess
from unittest import mock

import pytest
import torch
from sklearn import datasets

from peftbench import backbones, costs
from peftbench.backbones import cut
from support.backbones import spec
from support.forks import python


def test_latency_is_measured_once_after_three_passes_to_warm_up():
    asked = []

    class Model(torch.nn.Module):
        def forward(self, image):
            asked.append(image)

    costs.latency(Model(), torch.zeros(1))
    assert len(asked) == 4


def test_the_facts_of_a_net_are_learned_once():
    with mock.patch.object(cut, "_cut", wraps=cut._cut) as learned:
        for _ in range(2):
            backbones.build_on_meta(spec("resnet18"), 48)
    assert learned.call_count == 1


def test_digits_are_read_once_and_nobody_shares_them():
    one, two = (datasets.load_digits() for _ in range(2))
    one.images[:] = 0
    assert two.images.any()
    with mock.patch("sklearn.datasets._base.load_csv_data", side_effect=AssertionError, create=True):
        assert datasets.load_digits().images.any()


@pytest.mark.slow
def test_a_forked_process_is_told_all_that_a_new_one_is(tmp_path):
    words = ["-m", "peftbench", "list", "nothing", ""]
    told = subprocess.run([python(), *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert told.stderr.startswith("peftbench: ")
    assert told.stderr.count("\n") == 1
    told = subprocess.run([python(), "-c", "print(3)"], capture_output=True, text=True, check=True)
    assert told.stdout == "3\n"
