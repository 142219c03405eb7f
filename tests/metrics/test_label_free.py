import math
from itertools import combinations

import numpy as np
import pytest
import torch

from carp_eval.errors import UsageError
from carp_eval.metrics import label_free


def rows(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_rank_me_by_hand():
    assert label_free.rank_me(torch.eye(7), epsilon=0.0) == pytest.approx(7)
    assert label_free.rank_me(torch.ones(9, 4), epsilon=0.0) == pytest.approx(1)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert label_free.rank_me(torch.diag(torch.tensor([3.0, 1.0])), epsilon=0.0) == pytest.approx(expected)
    # Whatever their length, and not centred: the mean is a direction like others.
    assert label_free.rank_me(torch.eye(7) * 50, epsilon=0.0) == pytest.approx(7)
    assert label_free.rank_me(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), epsilon=0.0) == pytest.approx(1)


@pytest.mark.parametrize("epsilon", [1e-7, 1e-3])
@pytest.mark.parametrize("shape", [(40, 6), (5, 12)])
def test_rank_me_is_the_equation(shape, epsilon):
    features = rows(*shape)
    features[:, 0] *= 30
    wide = features.double().numpy()
    # Singular values by another way: roots of the smaller Gram matrix's eigenvalues.
    gram = wide @ wide.T if shape[0] < shape[1] else wide.T @ wide
    values = [math.sqrt(value) for value in np.linalg.eigvalsh(gram)]
    shares = [value / sum(values) + epsilon for value in values]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert label_free.rank_me(features, epsilon=epsilon) == pytest.approx(expected)


def test_missing_directions_cost_the_epsilon_alone():
    line = torch.ones(50, 8)
    shares = [1 + 1e-7, *[1e-7] * 7]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert label_free.rank_me(line) == pytest.approx(expected, rel=1e-9)
    assert label_free.rank_me(torch.zeros(50, 8)) == pytest.approx(1, abs=1e-4)


def test_alignment_by_hand():
    one = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    other = torch.tensor([[0.0, 5.0], [0.0, -1.0], [1.0, 1.0]])
    # A right angle, a turn about, the same direction: squared distances 2, 4 and 0.
    assert label_free.alignment(one, other) == pytest.approx(2)
    assert label_free.alignment(one, other, alpha=1.0) == pytest.approx((math.sqrt(2) + 2) / 3)


def test_uniformity_by_hand():
    # Three corners of a square on the circle: squared distances 2, 2 and 4.
    corners = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert label_free.uniformity(corners) == pytest.approx(expected)
    assert label_free.uniformity(torch.ones(6, 3)) == pytest.approx(0)
    # A network that died gives zeros, which are all the same.
    assert label_free.uniformity(torch.zeros(6, 3)) == pytest.approx(0)


@pytest.mark.parametrize("chunk", [None, 1, 7, 23, 100])
@pytest.mark.parametrize("t", [2.0, 0.5])
def test_uniformity_is_the_mean_over_pairs_whatever_the_chunk(chunk, t):
    features = rows(23, 5)
    features[4] = 0
    unit = [row / max(np.linalg.norm(row), 1e-300) for row in features.double().numpy()]
    pairs = [math.exp(-t * sum((x - y) ** 2)) for x, y in combinations(unit, 2)]
    expected = math.log(sum(pairs) / len(pairs))
    assert label_free.uniformity(features, t=t, chunk=chunk) == pytest.approx(expected, rel=1e-12)


def test_what_cannot_be_looked_at_is_refused():
    broken = rows(4, 3)
    broken[2, 1] = math.nan
    whole = rows(4, 3)
    for look in (
        label_free.rank_me,
        label_free.uniformity,
        lambda features: label_free.alignment(features, whole),
        lambda features: label_free.alignment(whole, features),
    ):
        with pytest.raises(UsageError, match="1 of 4 images"):
            look(broken)
    for look in (label_free.rank_me, label_free.uniformity):
        with pytest.raises(UsageError, match="no features"):
            look(rows(0, 3))
    with pytest.raises(UsageError, match="two or more, got 1"):
        label_free.uniformity(rows(1, 3))
