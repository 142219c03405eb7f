import math

import pytest
import torch
from torch.nn import functional

from carp_eval.pretrain.moco_loss import Queue, info_nce
from tests.pretrain.in_processes import halves, whole


def by_loops(queries, keys, negatives, temperature):
    """Equation 1 of MoCo in float64, one number at a time."""

    def unit(row):
        length = math.sqrt(sum(x * x for x in row))
        return [x / length for x in row]

    losses = []
    for query, key in zip(queries.flatten(0, 1).tolist(), keys.flatten(0, 1).tolist()):
        others = [unit(key), *negatives.tolist()]
        terms = [math.exp(sum(x * y for x, y in zip(unit(query), other)) / temperature) for other in others]
        losses.append(-math.log(terms[0] / sum(terms)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("num_pairs", [1, 2])
def test_the_loss_is_that_of_loops(num_pairs):
    torch.manual_seed(0)
    queries, keys = torch.randn(2, num_pairs, 5, 7)
    negatives = functional.normalize(torch.randn(11, 7))
    loss = info_nce(queries, keys, negatives, temperature=0.2)
    assert loss.item() == pytest.approx(by_loops(queries, keys, negatives, 0.2), rel=1e-5)


def test_queries_alone_carry_a_gradient():
    queries, keys = torch.randn(1, 4, 3, requires_grad=True), torch.randn(1, 4, 3, requires_grad=True)
    info_nce(queries, keys, functional.normalize(torch.randn(6, 3)), temperature=0.2).backward()
    assert keys.grad is None
    assert queries.grad.norm() > 0


def test_two_processes_are_one(tmp_path):
    torch.manual_seed(2)
    embeddings = torch.randn(2, 32, 8)
    negatives = functional.normalize(torch.randn(64, 8))

    def loss_of(given):
        return info_nce(given[:1], given[1:], negatives, temperature=0.2)

    losses, gradient = halves(loss_of, embeddings, tmp_path)
    expected, wanted = whole(loss_of, embeddings)
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_the_oldest_keys_make_room():
    queue = Queue(5, dim=2, seed=0, device=torch.device("cpu"))
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(5))
    first = queue.keys.clone()
    steps = [torch.full((2, 2), float(step)) for step in range(4)]
    queue.put(steps[0], step=0)
    assert torch.equal(queue.keys, torch.cat([steps[0], first[2:]]))
    queue.put(steps[1], step=1)
    queue.put(steps[2], step=2)
    # Four and five of five are taken; the sixth lies where the first was.
    assert queue.keys[:, 0].tolist() == [2.0, 0.0, 1.0, 1.0, 2.0]
    queue.put(steps[3], step=3)
    assert queue.keys[:, 0].tolist() == [2.0, 3.0, 3.0, 1.0, 2.0]


def test_a_fresh_queue_depends_on_the_seed_alone():
    queues = [Queue(5, dim=2, seed=seed, device=torch.device("cpu")).keys for seed in (0, 0, 1)]
    assert torch.equal(queues[0], queues[1])
    assert not torch.equal(queues[0], queues[2])
