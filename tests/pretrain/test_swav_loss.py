import math

import pytest
import torch

from carp_eval.pretrain.swav_loss import swapped_prediction
from tests.pretrain.in_processes import halves, whole
from tests.pretrain.test_sinkhorn import by_loops as assigned_by_loops


def by_loops(scores, num_assigned, temperature, queued=()):
    """A.1's pseudo-code with any number of views, in float64."""
    total, count = 0.0, 0
    num_views, num_images, _ = scores.shape
    for view in range(num_assigned):
        rows = torch.cat([scores[view], *queued[view : view + 1]])
        assigned = assigned_by_loops(rows, 0.05, 3)[:num_images]
        for other in range(num_views):
            if other == view:
                continue
            count += 1
            for image in range(num_images):
                logits = [value / temperature for value in scores[other, image].double().tolist()]
                norm = math.log(sum(math.exp(value) for value in logits))
                total -= sum(q * (value - norm) for q, value in zip(assigned[image], logits)) / num_images
    return total / count


def scores_of(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("num_views", "num_assigned"), [(2, 2), (5, 2)])
def test_the_loss_is_that_of_loops(num_views, num_assigned):
    scores = scores_of(num_views, 6, 4)
    loss = swapped_prediction(scores, num_assigned=num_assigned, temperature=0.1)
    assert loss.item() == pytest.approx(by_loops(scores, num_assigned, 0.1), rel=1e-4)


def test_a_queue_moves_assignments_and_is_not_predicted():
    scores, queued = scores_of(2, 6, 4), list(scores_of(2, 9, 4, seed=1))
    loss = swapped_prediction(scores, num_assigned=2, queued=queued)
    assert loss.item() == pytest.approx(by_loops(scores, 2, 0.1, queued), rel=1e-4)
    assert loss.item() != pytest.approx(by_loops(scores, 2, 0.1), rel=1e-3)


def test_gradients_go_through_predictions_alone():
    scores = scores_of(3, 5, 4).requires_grad_()
    swapped_prediction(scores, num_assigned=1).backward()
    # The one global view is assigned, and predicted by nobody.
    assert not scores.grad[0].any()
    assert scores.grad[1].any()
    assert scores.grad[2].any()


def test_even_scores_give_ln_k():
    assert swapped_prediction(torch.zeros(2, 6, 4), num_assigned=2).item() == pytest.approx(math.log(4))


def test_two_processes_are_one(tmp_path):
    scores = scores_of(3, 8, 4)

    def loss_of(given):
        return swapped_prediction(given, num_assigned=2)

    losses, gradient = halves(loss_of, scores, tmp_path)
    expected, wanted = whole(loss_of, scores)
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize(
    "wrong", [{"num_assigned": 0}, {"num_assigned": 3}, {"queued": [torch.zeros(2, 4)]}, {"temperature": 0.0}]
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError):
        swapped_prediction(torch.zeros(2, 6, 4), **{"num_assigned": 2} | wrong)
