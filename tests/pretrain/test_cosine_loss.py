import math

import pytest
import torch

from carp_eval.pretrain.cosine_loss import byol_loss, simsiam_loss
from tests.pretrain.in_processes import halves, whole


def cosines(predictions, targets):
    """Every cosine in float64, one number at a time."""
    found = []
    for predicted, met in zip(predictions.flatten(0, 1).tolist(), targets.flatten(0, 1).tolist()):
        product = sum(x * y for x, y in zip(predicted, met))
        found.append(product / math.sqrt(sum(x * x for x in predicted)) / math.sqrt(sum(y * y for y in met)))
    return found


@pytest.mark.parametrize("num_pairs", [2, 6])
def test_the_losses_are_those_of_loops(num_pairs):
    torch.manual_seed(0)
    predictions, targets = torch.randn(2, num_pairs, 5, 7)
    found = cosines(predictions, targets)
    # BYOL's equation 2 sums two directions of ||q - z||^2 of unit vectors, SimSiam's equation 4 halves two of -cos.
    byol = 2 * sum(2 - 2 * cosine for cosine in found) / len(found)
    assert byol_loss(predictions, targets).item() == pytest.approx(byol, rel=1e-5)
    assert simsiam_loss(predictions, targets).item() == pytest.approx(-sum(found) / len(found), rel=1e-5)


def test_they_end_where_all_agree():
    rows = torch.randn(2, 4, 3)
    assert byol_loss(rows, 5 * rows).item() == pytest.approx(0.0, abs=1e-6)
    assert byol_loss(rows, -rows).item() == pytest.approx(8.0)
    assert simsiam_loss(rows, 5 * rows).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("loss", [byol_loss, simsiam_loss])
def test_targets_carry_no_gradient(loss):
    predictions, targets = torch.randn(2, 2, 4, 3, requires_grad=True).unbind()
    targets.retain_grad()
    predictions.retain_grad()
    loss(predictions, targets).backward()
    assert targets.grad is None
    assert predictions.grad.norm() > 0


@pytest.mark.parametrize("loss", [byol_loss, simsiam_loss])
def test_two_processes_are_one(tmp_path, loss):
    torch.manual_seed(2)
    embeddings = torch.randn(4, 32, 8)

    def loss_of(given):
        return loss(given[:2], given[2:])

    losses, gradient = halves(loss_of, embeddings, tmp_path)
    expected, wanted = whole(loss_of, embeddings)
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()
