import math

import numpy as np
import pytest
import torch

from carp_eval.errors import UsageError
from carp_eval.features import whitening
from carp_eval.features.rows import unit_rows


def stretched(count, seed=0, dim=6):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, dim, generator=generator) @ torch.randn(dim, dim, generator=generator)
    return unit_rows([mixed + 2])


@pytest.mark.parametrize("count", [200, 5])
def test_whitened_features_compare_as_by_mahalanobis(count):
    # An oracle without axes: cosines of whitened features are those of the inverse covariance.
    learnt_on, features = stretched(count), stretched(9, seed=1)
    mean = learnt_on.double().numpy().mean(axis=0)
    centred = learnt_on.double().numpy() - mean
    inverse = np.linalg.pinv(centred.T @ centred / (count - 1), rcond=1e-8)
    given = features.double().numpy() - mean
    products = given @ inverse @ given.T
    lengths = np.sqrt(np.diag(products))
    found = whitening.whiten(features, whitening.learn(learnt_on))
    assert (found.double() @ found.double().T).numpy() == pytest.approx(
        products / np.outer(lengths, lengths), abs=1e-5
    )
    assert found.norm(dim=1).tolist() == pytest.approx([1] * 9)


def test_what_was_learnt_spreads_evenly_and_without_correlation():
    features = stretched(500)
    learnt = whitening.learn(features)
    turned = ((features.double() - learnt.mean) @ learnt.projection).numpy()
    assert np.cov(turned, rowvar=False) == pytest.approx(np.eye(6), abs=1e-9)
    assert turned.mean(axis=0) == pytest.approx([0] * 6, abs=1e-9)
    assert learnt.learnt_on == 500


def test_it_is_the_covariance_of_centred_features():
    # All far from the origin in one direction: uncentred, that direction would come first.
    features = torch.tensor([[10.0, 3.0], [10.0, -3.0], [10.1, 0.0], [9.9, 0.0]])
    learnt = whitening.learn(features, components=1)
    assert abs(learnt.projection[:, 0].tolist()[0]) < 1e-6
    assert abs(learnt.projection[:, 0].tolist()[1]) == pytest.approx(1 / math.sqrt(18 / 3))


def test_fewer_components_are_the_first_ones():
    features = stretched(100)
    whole, part = whitening.learn(features), whitening.learn(features, components=2)
    assert torch.equal(whole.projection[:, :2], part.projection)
    assert whitening.whiten(features, part).shape == (100, 2)


def test_directions_without_spread_are_left_out():
    features = torch.cat([stretched(50, dim=3), torch.zeros(50, 2)], dim=1)
    assert whitening.learn(features).projection.shape == (5, 3)
    # As many images as dimensions span one direction less.
    assert whitening.learn(stretched(4)).projection.shape == (6, 3)


def test_the_mean_itself_has_no_direction():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert whitening.whiten(torch.tensor([[0.5, 0.5]]), whitening.learn(features)).tolist() == [[0.0]]


def test_what_cannot_be_learnt_is_refused():
    with pytest.raises(UsageError, match="two images or more, got 1"):
        whitening.learn(stretched(1))
    with pytest.raises(UsageError, match="spread along 0 directions"):
        whitening.learn(torch.ones(5, 3))
    with pytest.raises(UsageError, match=r"spread along 3 directions; whitening to 5"):
        whitening.learn(stretched(4), components=5)
