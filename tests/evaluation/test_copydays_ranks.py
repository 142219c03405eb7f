import numpy as np
import pytest
import torch

from carp_eval.evaluation import copydays
from carp_eval.evaluation.copydays import Ranked, average_precision, rank
from carp_eval.metrics import ranking


def slow_average_precision(database, query, right):
    """Count places by loops, and lay trapezoids under precision and recall."""
    own = sum(a * b for a, b in zip(database[right], query))
    before = sum(sum(a * b for a, b in zip(row, query)) > own for row in database)
    left = 1.0 if before == 0 else 0 / before
    return (left + 1 / (before + 1)) / 2


@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_ranks_and_precisions_equal_loops(monkeypatch, rows):
    monkeypatch.setattr(copydays, "BLOCK_ROWS", rows)
    chance = torch.Generator().manual_seed(1)
    database, queries = (torch.randn(n, 6, generator=chance) for n in (40, 9))
    right = torch.randint(40, (9,), generator=chance)
    found = rank(database, queries, right)
    values = average_precision(found, places=None)
    wide = database.double().numpy(), queries.double().numpy()
    expected = [
        slow_average_precision(wide[0], query, number) for query, number in zip(wide[1], right.tolist())
    ]
    assert values == pytest.approx(expected)
    order = (-(wide[1] @ wide[0].T)).argsort(axis=1)
    assert found.nearest.tolist() == order[:, 0].tolist()
    assert found.level.tolist() == [1] * 9
    # As the Revisited benchmark's code has it, whose case without junk this is.
    empty = [np.array([], dtype=np.int64)] * 9
    revisited = ranking.revisited(order, [np.array([number]) for number in right.tolist()], empty)
    assert values == pytest.approx(revisited.average_precision)


def test_equals_have_no_order():
    # The original is there twice, and one more image is nearer to the second query.
    database = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0]])
    found = rank(database, torch.tensor([[1.0, 0.5, 0], [0.5, 1.0, 0]]), torch.tensor([2, 2]))
    assert found.above.tolist() == [0, 1]
    assert found.level.tolist() == [2, 2]
    assert average_precision(found, places=None) == pytest.approx([(1 + 1 / 4) / 2, (1 / 4 + 1 / 6) / 2])
    assert average_precision(found, places=2) == pytest.approx([(1 + 1 / 4) / 2, 1 / 8])
    assert found.nearest[0] in (0, 2)
    assert found.nearest[1] == 1


def test_features_that_are_all_the_same_find_by_chance():
    database = torch.full((50, 4), 0.3)
    found = rank(database, torch.full((3, 4), 0.7), torch.tensor([0, 20, 49]))
    chance = np.mean([1] + [1 / (2 * place) for place in range(2, 51)])
    assert average_precision(found, places=None) == pytest.approx([chance] * 3)


def test_a_cut_is_below_what_counts():
    stands = Ranked(np.array([0, 1, 19, 20]), np.ones(4, dtype=np.int64), np.zeros(4, dtype=np.int64))
    assert average_precision(stands, places=20) == pytest.approx([1, 1 / 4, 1 / 40, 0])
