"""TPGM learns its radii on its objective."""

import pytest
import torch

import peftbench
from peftbench.optim import TPGM
from peftbench.training import trainer as of_training
from support.optimizers import gradients, parameters
from support.runs import compose


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


def test_a_scaled_loss_keeps_the_slopes_that_fp16_would_lose_and_passes_over_what_overflows():
    """The gradient of the loss goes through fp16, where 1e-8 is zero and 1e8 infinite."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

    def slope(factor, half=True, scaled=None):
        a = parameters(shapes={"w": (3, 4)})
        start = a["w"].detach().clone()

        def objective():
            away = a["w"] - start
            return -((away.half().float() if half else away) * factor).sum()

        tpgm = TPGM(torch.optim.SGD(a.items(), lr=1.0), objective=objective, scaled=scaled)
        gradients(a, 1)
        tpgm.step()
        assert a["w"].isfinite().all()
        return tpgm.radii.state(0)["gamma_mean"].item()

    assert slope(1e-8, half=False) != 0
    assert slope(1e-8) == 0
    assert slope(1e-8, scaled=scaler.scale) == pytest.approx(slope(1e-8, half=False), rel=1e-2)
    assert slope(1e4, scaled=scaler.scale) == 0


def test_where_training_scales_its_loss_the_second_loop_does_so_too(tmp_path, monkeypatch):
    """fp16 is for GPUs; here the scaler stands beside bf16, in which a factor of two to the tenth changes nothing."""
    scaled, make = [], of_training.lightning_trainer

    class Scaler(torch.amp.GradScaler):
        def scale(self, outputs):
            scaled.append(outputs)
            return super().scale(outputs)

    def with_scaler(*given):
        trainer = make(*given)
        trainer.precision_plugin.scaler = Scaler("cpu", init_scale=2.0**10)
        return trainer

    words = ["method=tpgm", "trainer.epochs=1", "trainer.max_batches=2", "trainer.precision=bf16"]
    plain = peftbench.run(compose(tmp_path / "plain", *words))
    monkeypatch.setattr(of_training, "lightning_trainer", with_scaler)
    record = peftbench.run(compose(tmp_path / "scaled", *words))
    assert len(scaled) == 2 * 3  # of each step the loss, that of the second loop, and one to divide by
    assert record.metrics == plain.metrics
