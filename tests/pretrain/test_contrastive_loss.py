import math

import pytest
import torch
from torch.nn import functional

from carp_eval.pretrain.contrastive_loss import nt_xent
from tests.pretrain.in_processes import halves, whole


def by_loops(embeddings, temperature):
    """Equation 1 of A.8 in float64, one pair at a time."""
    unit = functional.normalize(embeddings.double(), dim=-1)
    num_views, num_images, _ = unit.shape
    total = 0.0
    for v in range(num_views):
        for i in range(num_images):
            against = sum(
                math.exp(float(unit[v, i] @ unit[w, j]) / temperature)
                for w in range(num_views)
                for j in range(num_images)
                if j != i
            )
            for w in range(num_views):
                if w != v:
                    positive = math.exp(float(unit[v, i] @ unit[w, i]) / temperature)
                    total -= math.log(positive / (positive + against))
    return total / (num_views * num_images * (num_views - 1))


@pytest.mark.parametrize("num_views", [2, 4])
def test_the_loss_is_that_of_loops(num_views):
    torch.manual_seed(0)
    embeddings = torch.randn(num_views, 5, 8)
    assert nt_xent(embeddings, temperature=0.2).item() == pytest.approx(by_loops(embeddings, 0.2), rel=1e-5)


def test_with_two_views_it_is_cross_entropy_over_all_others():
    torch.manual_seed(1)
    embeddings = torch.randn(2, 6, 8)
    rows = functional.normalize(embeddings, dim=-1).flatten(0, 1)
    logits = rows @ rows.T / 0.5
    logits.fill_diagonal_(-torch.inf)
    partners = torch.arange(12).roll(6)
    assert nt_xent(embeddings, temperature=0.5).item() == pytest.approx(
        functional.cross_entropy(logits, partners).item(), rel=1e-5
    )


def test_two_processes_are_one(tmp_path):
    torch.manual_seed(2)
    embeddings = torch.randn(3, 6, 8)

    def loss_of(given):
        return nt_xent(given, temperature=0.2)

    losses, gradient = halves(loss_of, embeddings, tmp_path)
    expected, wanted = whole(loss_of, embeddings)
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="two views"):
        nt_xent(torch.zeros(1, 2, 3), temperature=0.2)
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(torch.zeros(2, 2, 3), temperature=0.0)
