"""L2-SP is the gradient of its penalty."""

import torch

from peftbench.optim import L2SP
from support.optimizers import INNER, gradients, parameters, through_a_file


def test_l2sp_is_the_gradient_of_its_penalty():
    a, b = parameters(), parameters()
    start = {n: p.detach().clone() for n, p in b.items()}
    ours, plain = L2SP(INNER["adamw"](a.items()), exclude=["vector"], strength=0.3), INNER["adamw"](b.items())
    for t in range(1, 5):
        gradients(a, t)
        gradients(b, t)
        penalty = sum(0.15 * ((p - start[n]) ** 2).sum() for n, p in b.items() if n != "vector")
        penalty.backward()
        ours.step()
        plain.step()
    assert all(torch.allclose(a[n], b[n], atol=1e-6) for n in a)
    assert torch.equal(a["vector"], b["vector"])
    through = through_a_file(ours.state_dict())
    fresh = L2SP(INNER["adamw"](parameters().items()), exclude=["vector"])
    fresh.load_state_dict(through)
