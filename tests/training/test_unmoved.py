"""What a checkpoint looks at: frozen weights once, and all of a model that may have moved each time."""

import pytest
import torch

from peftbench.common.digests import digests
from peftbench.runs.run import run
from peftbench.training.joint import JointFit
from peftbench.training.module import Fit
from peftbench.training.unmoved import Unmoved
from support.runs import compose


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
        self.trained = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("mean", torch.zeros(3))


@pytest.fixture
def looked_at(monkeypatch):
    """The names that were hashed, a list for each checkpoint."""
    names = []

    def look(tensors):
        names.append(sorted(tensors))
        return digests(tensors)

    monkeypatch.setattr("peftbench.deltas.delta_file.digests", look)
    return names


def test_a_frozen_weight_is_hashed_again_only_when_somebody_has_written_to_it(looked_at):
    net = Net()
    start, unmoved = digests(net.state_dict()), Unmoved(net)
    changed = [unmoved.changed(net.state_dict(), start) for _ in range(2)]
    with torch.no_grad():
        net.frozen += 1
        net.mean += 1
    changed += [unmoved.changed(net.state_dict(), start) for _ in range(2)]
    assert [sorted(c) for c in changed] == [[], [], ["frozen", "mean"], ["frozen", "mean"]]
    every, rest = ["frozen", "mean", "trained"], ["mean", "trained"]
    assert looked_at == [every, rest, every, every]


def test_a_weight_in_another_place_is_hashed(looked_at):
    net = Net()
    start, unmoved = digests(net.state_dict()), Unmoved(net)
    assert unmoved.changed(net.state_dict(), start) == {}
    net.frozen.data = torch.ones(3)
    assert [*unmoved.changed(net.state_dict(), start)] == ["frozen"]


def test_checkpoints_of_a_run_hash_its_frozen_backbone_once(looked_at, tmp_path):
    run(compose(tmp_path, "method=bitfit", "trainer.epochs=1", "trainer.checkpoint_seconds=0"))
    first, *others = looked_at[:-1]  # the last is the delta, of the finished model
    assert len(others) > 1
    assert any(name.endswith(".weight") for name in first)
    assert not any(name.endswith(".weight") for names in others for name in names)
    assert {tuple(names) for names in others} == {tuple(n for n in first if not n.endswith(".weight"))}


@pytest.mark.parametrize("kind", [Fit, JointFit])
def test_weights_are_looked_at_with_one_wait(kind, monkeypatch):
    """bool() and item() of a tensor are what waits for a GPU."""
    waits = []
    for name in ("__bool__", "item", "tolist"):
        wait = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, name=name, wait=wait: waits.append(name) or wait(t))
    net = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    net.trainable = lambda: list(net.named_parameters())
    fit = _Looking(kind, net)
    fit.check_weights()
    assert len(waits) == 1
    with torch.no_grad():
        net[3].bias[1] = torch.nan
    with pytest.raises(Exception, match=r"3\.bias became nan in epoch 1"):
        fit.check_weights()


class _Looking:
    """As much of a training as looks at weights."""

    global_step, current_epoch, device = 7, 0, torch.device("cpu")

    def __init__(self, kind, net):
        self.model, self.failed = net, [""]
        net.models = [net]
        self.trainer = self
        self.strategy = self
        self.check_weights = kind.check_weights.__get__(self)

    def reduce(self, tensor, reduce_op):
        return tensor
