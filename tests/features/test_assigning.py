import math

import pytest
import torch

from carp_eval.features.assigning import assign


def plain(embeddings, prototypes, *, temperature=1.0, unit_embeddings=False):
    """The softmax of every image over all prototypes, as loops in float64."""
    found = []
    for row in embeddings.double().tolist():
        length = math.sqrt(sum(x * x for x in row)) if unit_embeddings else 1.0
        logits = [
            sum(x / length * c for x, c in zip(row, prototype)) / temperature
            for prototype in prototypes.double().tolist()
        ]
        exponentials = [math.exp(logit) for logit in logits]
        found.append([value / sum(exponentials) for value in exponentials])
    return found


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1}, {"unit_embeddings": True, "temperature": 0.1}])
@pytest.mark.parametrize("most_logits", [7, 40, 10**6])
def test_the_highest_shares_of_a_softmax_over_all_prototypes(options, most_logits):
    chance = torch.Generator().manual_seed(0)
    embeddings = torch.randn(23, 5, generator=chance)
    prototypes = torch.randn(17, 5, generator=chance)
    found = assign(embeddings, prototypes, places=4, most_logits=most_logits, **options)
    for row, shares in enumerate(plain(embeddings, prototypes, **options)):
        best = sorted(range(17), key=lambda number: -shares[number])[:4]
        assert found.prototypes[row].tolist() == best
        assert found.confidences[row].tolist() == pytest.approx([shares[number] for number in best], rel=1e-4)


def test_a_longer_embedding_is_surer_unless_it_is_scaled():
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    embeddings = torch.tensor([[2.0, 1.0], [4.0, 2.0]])
    short, long = assign(embeddings, prototypes).confidences[:, 0].tolist()
    assert short == pytest.approx(1 / (1 + math.exp(-1)))
    assert long == pytest.approx(1 / (1 + math.exp(-2)))
    short, long = assign(embeddings, prototypes, unit_embeddings=True).confidences[:, 0].tolist()
    assert short == pytest.approx(long) == pytest.approx(1 / (1 + math.exp(-1 / math.sqrt(5))))


def test_large_logits_do_not_overflow():
    found = assign(torch.tensor([[3000.0, 0.0]]), torch.eye(2), temperature=0.1)
    assert found.confidences.tolist() == [[1.0]]


def test_there_must_be_as_many_prototypes_as_places():
    with pytest.raises(ValueError, match="2 prototypes"):
        assign(torch.ones(1, 2), torch.eye(2), places=3)
