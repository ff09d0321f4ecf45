"""TPGM learns its radii on its objective."""

import pytest
import torch

import peftbench
from peftbench.optim import TPGM
from support.optimizers import gradients, parameters


def test_tpgm_learns_radii_on_its_objective_and_projects():
    a = parameters(dtype=torch.float64, shapes={"w": (3, 4)})
    start = a["w"].detach().clone()
    seen = []

    def objective():
        seen.append((a["w"] - start).abs().sum(1).detach())
        return -((a["w"] - start) ** 2).sum()  # wants to be far: every radius grows

    tpgm = TPGM(torch.optim.SGD(a.items(), lr=1.0), objective=objective, iterations=3)
    gradients(a, 1)
    plain = a["w"].detach() - a["w"].grad
    tpgm.step()
    sizes = (plain - start).abs().sum(1)
    assert len(seen) == 3
    assert seen[0].max() == pytest.approx(sizes.min().item() / 2, rel=1e-6)
    gamma = tpgm.radii.gamma.item()
    assert gamma == pytest.approx(sizes.min().item() / 2 + 0.03, rel=1e-2)
    assert (a["w"].detach() - start).abs().sum(1).max() == pytest.approx(gamma)
    with pytest.raises(peftbench.UserError, match="no objective"):
        TPGM(torch.optim.SGD(a.items(), lr=1.0)).step()
