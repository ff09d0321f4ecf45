"""The state of optimizers that stay near a start: saved, loaded, and refused where it does not belong."""

import pytest
import torch
from torch import nn

import peftbench
from peftbench.optim import FTP
from support.optimizers import INNER, SHAPES, gammas, gradients, parameters, through_a_file


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_saved_run_goes_on_bit_for_bit(inner, at):
    def fresh():
        params = parameters()
        return params, FTP(INNER[inner](params.items()), exclude=["vector"])

    a, whole = fresh()
    for t in range(1, 10):
        gradients(a, t)
        if t == 3:
            a["token"].grad = None
        whole.step()
        if t == at:
            saved = through_a_file({"model": {n: p.detach() for n, p in a.items()}, "optimizer": whole.state_dict()})
    b, resumed = fresh()
    for name, value in saved["model"].items():
        b[name].data.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    for t in range(at + 1, 10):
        gradients(b, t)
        if t == 3:
            b["token"].grad = None
        resumed.step()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert gammas(whole) == gammas(resumed)


def test_resuming_does_not_throw_the_weights_back_to_their_start():
    """The official code saves no radius: after loading, its first step is a first step, which is undone."""

    def model():
        torch.manual_seed(0)
        net = nn.Linear(6, 4)
        return net, FTP(torch.optim.AdamW(net.named_parameters(), lr=0.01))

    def step(net, ftp):
        ftp.zero_grad()
        (net(torch.ones(1, 6)) - 5).square().sum().backward()
        ftp.step()
        return (net.weight - model()[0].weight).abs().sum(1).max().item()

    net, ftp = model()
    far = [step(net, ftp) for _ in range(20)][-1]
    assert far > 0.1
    other, resumed = model()
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(through_a_file(ftp.state_dict()))
    assert step(other, resumed) > far
    other.load_state_dict(net.state_dict())
    official = FTP(torch.optim.AdamW(other.named_parameters(), lr=0.01), anchors=dict(model()[0].named_parameters()))
    official.inner.load_state_dict({k: v for k, v in ftp.state_dict().items() if k != "anchored"})
    assert step(other, official) < 1e-6


def test_a_state_that_does_not_belong_here_is_refused_in_one_sentence():
    a = parameters()
    ftp = FTP(INNER["adamw"](a.items()))
    gradients(a, 1)
    ftp.step()
    state = through_a_file(ftp.state_dict())

    def other(shapes, **more):
        return FTP(INNER["adamw"](parameters(shapes=shapes).items()), **more)

    wider = other(SHAPES | {"matrix": (6, 7)})
    with pytest.raises(peftbench.UserError, match=r"another model: direction of 'matrix' is \[5, 7\], expected \[6, 7"):
        wider.load_state_dict(state)
    with pytest.raises(peftbench.UserError, match=r"holds 5 tensors, expected 1"):
        other({"matrix": (5, 7)}).load_state_dict(state)
    renamed = {("other" if n == "matrix" else n): s for n, s in SHAPES.items()}
    with pytest.raises(peftbench.UserError, match="'matrix' where 'other' is expected"):
        other(renamed).load_state_dict(state)
    with pytest.raises(peftbench.UserError, match=r"excludes other tensors"):
        other(SHAPES, exclude=["matrix"]).load_state_dict(state)
    late = FTP(INNER["adamw"](a.items()))  # built on trained weights
    with pytest.raises(peftbench.UserError, match=r"another anchor of 'matrix'; build FTP on the starting weights"):
        late.load_state_dict(state)
    with pytest.raises(peftbench.UserError, match="expected one of FTP"):
        ftp.load_state_dict(INNER["adamw"](a.items()).state_dict())


def test_names_and_anchors_that_do_not_fit_are_refused_in_one_sentence():
    a = parameters()
    with pytest.raises(peftbench.UserError, match="no tensor 'matrx' \\(did you mean 'matrix'\\?\\)"):
        FTP(INNER["adamw"](a.items()), exclude=["matrx"])
    with pytest.raises(peftbench.UserError, match=r"build it with model\.named_parameters"):
        FTP(INNER["adamw"](a.values()), exclude=["matrix"])
    anchors = {n: p.detach() for n, p in a.items()}
    with pytest.raises(peftbench.UserError, match=r"'matrix' has shape \[2, 2\], its parameter \[5, 7\]"):
        FTP(INNER["adamw"](a.items()), anchors=anchors | {"matrix": torch.zeros(2, 2)})
    with pytest.raises(peftbench.UserError, match="'matrix' has none"):
        FTP(INNER["adamw"](a.items()), anchors={"conv": anchors["conv"]})
    with pytest.raises(peftbench.UserError, match="no tensor 'more'"):
        FTP(INNER["adamw"](a.items()), anchors=anchors | {"more": torch.zeros(2)})
    for wrong in ({"kappa": 2}, {"gamma_lr": 0.0}, {"norm": "max"}):
        with pytest.raises(peftbench.UserError, match=next(iter(wrong))):
            FTP(INNER["adamw"](a.items()), **wrong)
    with pytest.raises(peftbench.UserError, match="one of them is enough"):
        FTP(FTP(INNER["adamw"](a.items())))
    with pytest.raises(peftbench.UserError, match="before it is wrapped"):
        FTP(INNER["adamw"](a.items())).add_param_group({"params": []})


def test_given_anchors_are_where_it_stays():
    a = parameters()
    anchors = {n: torch.zeros(s) for n, s in SHAPES.items()}
    ftp = FTP(INNER["sgd"](a.items()), anchors=anchors)
    gradients(a, 1)
    ftp.step()
    assert all(p.abs().max() < 1e-7 for p in a.values())
