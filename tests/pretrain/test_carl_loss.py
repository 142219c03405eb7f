import math

import pytest
import torch

from carp_eval.pretrain.carl_loss import carl_loss, kl_weight
from tests.pretrain.in_processes import halves, whole


def by_loops(logits, weight):
    """Equations 3 to 7 in float64, one number at a time."""
    logits = logits.double()
    num_views, num_images, num_prototypes = logits.shape
    shares = [[[0.0] * num_prototypes for _ in range(num_images)] for _ in range(num_views)]
    for v in range(num_views):
        for i in range(num_images):
            row = [math.exp(value) for value in logits[v, i].tolist()]
            shares[v][i] = [value / sum(row) for value in row]
    pairs = [(a, b) for a in range(num_views) for b in range(a + 1, num_views)]
    consistency = 0.0
    for a, b in pairs:
        for i in range(num_images):
            consistency -= math.log(sum(x * y for x, y in zip(shares[a][i], shares[b][i])))
    consistency /= len(pairs) * num_images
    kl = math.log(num_prototypes)
    for k in range(num_prototypes):
        mean = sum(shares[v][i][k] for v in range(num_views) for i in range(num_images))
        mean /= num_views * num_images
        kl += mean * math.log(mean)
    return consistency + weight * kl, consistency, kl


@pytest.mark.parametrize("num_views", [2, 3])
def test_the_loss_is_that_of_loops(num_views):
    torch.manual_seed(0)
    logits = torch.randn(num_views, 5, 7)
    loss = carl_loss(logits, kl_weight=1.5)
    assert [part.item() for part in loss] == pytest.approx(by_loops(logits, 1.5), rel=1e-5)


def test_both_views_carry_a_gradient_that_is_right():
    torch.manual_seed(1)
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(carl_loss(logits, kl_weight=0.7).total, logits)[0]
    step = 1e-3
    for place in [(0, 0, 0), (1, 3, 2), (0, 2, 1)]:
        moved = []
        for sign in (1, -1):
            given = logits.detach().clone()
            given[place] += sign * step
            moved.append(by_loops(given, 0.7)[0])
        assert gradient[place].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-3, abs=1e-6)
    assert (gradient.abs().sum(dim=(1, 2)) > 0).all()


def test_it_starts_at_ln_k_and_ends_at_nothing():
    even = carl_loss(torch.zeros(2, 6, 4), kl_weight=1.0)
    assert (even.consistency.item(), even.kl.item()) == pytest.approx((math.log(4), 0.0), abs=1e-6)
    sharp = 200 * torch.nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    agreed = carl_loss(torch.stack([sharp, sharp]), kl_weight=1.0)
    assert agreed.total.item() == pytest.approx(0.0, abs=1e-6)
    one_for_all = torch.zeros(2, 6, 4)
    one_for_all[..., 2] = 200.0
    assert carl_loss(one_for_all, kl_weight=1.0).kl.item() == pytest.approx(math.log(4))


def test_sharp_views_that_disagree_still_learn():
    logits = torch.zeros(2, 1, 3)
    logits[0, 0, 0] = logits[1, 0, 1] = 300.0
    logits.requires_grad_()
    carl_loss(logits, kl_weight=0.0).total.backward()
    assert logits.grad.abs().max() > 0.4


def test_two_processes_are_one(tmp_path):
    torch.manual_seed(2)
    logits = torch.randn(2, 6, 5)

    def loss_of(given):
        return carl_loss(given, kl_weight=2.0).total

    losses, gradient = halves(loss_of, logits, tmp_path)
    expected, wanted = whole(loss_of, logits)
    assert losses == pytest.approx([expected] * 2, rel=1e-6)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_lambda_goes_down_in_a_line_and_stays():
    weights = [kl_weight(epoch, start=4.0, end=1.5, epochs=100.0) for epoch in (0.0, 50.0, 100.0, 150.0)]
    assert weights == pytest.approx([4.0, 2.75, 1.5, 1.5])


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="two views"):
        carl_loss(torch.zeros(1, 2, 3), kl_weight=1.0)
