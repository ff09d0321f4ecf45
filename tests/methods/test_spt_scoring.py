"""SPT's scores: the specification's worked case, and that scoring leaves the model as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench.methods.spt import sensitivity
from support.spt import T, X, half_square, linear


def test_scores_of_the_worked_case():
    scores = sensitivity(linear(), [(X, T)], half_square)
    assert scores["weight"].tolist() == [[1, 4, 9], [4, 16, 36]]


def test_squares_of_batch_means_add():
    model = nn.Linear(1, 1, bias=False)

    def mean(model, batch):
        return (model(batch)).mean()

    plus, minus = torch.ones(1, 1), -torch.ones(1, 1)
    assert sensitivity(model, [plus, minus], mean)["weight"].item() == 2
    assert sensitivity(model, [torch.cat([plus, minus])], mean)["weight"].item() == 0


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scoring_leaves_the_model_as_it_was(mode):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    model[1].eval()
    model[0].weight.requires_grad = False
    model[3].bias.grad = torch.ones(2)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]

    def loss(model, x):
        assert model[2].training is (mode == "train")
        return model(x).square().mean()

    scores = sensitivity(model, [torch.randn(5, 4)] * 2, loss, mode=mode)
    assert set(scores) == {n for n, _ in model.named_parameters()}
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert model[3].bias.grad.tolist() == [1, 1]
    assert all(p.grad is None for n, p in model.named_parameters() if n != "3.bias")


def test_eval_scores_repeat_and_class_tokens_heads_and_embeddings_are_no_candidates():
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 2), "patch_embed": nn.Linear(3, 3)})

    def loss(m, x):
        return m["head"](F.dropout(m["body"](m["patch_embed"](x)), 0.5, m.training)).square().mean()

    a, b = (sensitivity(model, [X], loss) for _ in range(2))
    assert set(a) == {"body.weight", "body.bias"}
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_mistakes_in_scoring_get_one_sentence():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})

    def loss(m, batch):
        return half_square(m["used"], batch)

    with pytest.raises(peftbench.UserError, match=r"'idle\.weight' gets no gradient.*leave it out of the candidates"):
        sensitivity(model, [(X, T)], loss)
    found = sensitivity(model, [(X, T)], loss, unreached="skip")
    assert set(found) == {"used.weight", "used.bias"}
    with pytest.raises(peftbench.UserError, match=r"no parameter 'usd\.weight' \(did you mean 'used\.weight'"):
        sensitivity(model, [(X, T)], loss, ["usd.weight"])
    with pytest.raises(peftbench.UserError, match="the loss of a batch is nan"):
        sensitivity(linear(), [(X * float("nan"), T)], half_square)
    with pytest.raises(peftbench.UserError, match="scores of 'weight' are not all finite"):
        sensitivity(linear(), [(X * 1e30, T * 0 + 1e-30)], lambda m, b: m(b[0] * 1e8).mean())
    with pytest.raises(peftbench.UserError, match="no batches"):
        sensitivity(linear(), [], half_square)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
