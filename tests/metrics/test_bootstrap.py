import math

import numpy as np
import pytest
from scipy import stats

from carp_eval.errors import UsageError
from carp_eval.metrics import bootstrap


def plain_means(values, *, seed, resamples):
    """Draw images one test set after another, and take the mean."""
    random = np.random.default_rng(seed)
    return np.array([random.choice(values, size=len(values)).mean() for _ in range(resamples)])


@pytest.mark.parametrize("counts", [[6, 0, 30, 14], [1] * 30 + [2] * 5])
def test_counts_are_those_of_images_drawn_one_by_one(counts):
    counts = np.array(counts)
    images = counts.sum()
    drawn = np.concatenate(list(bootstrap.drawn_counts(counts, seed=0, resamples=30_000)))
    assert drawn.shape == (30_000, len(counts))
    assert (drawn.sum(axis=1) == images).all()
    share = counts / images
    # Of a multinomial: mean n p, variance n p (1 - p), covariance -n p q.
    np.testing.assert_allclose(drawn.mean(axis=0), counts, atol=5 * np.sqrt(images / 4 / 30_000))
    covariance = images * (np.diag(share) - np.outer(share, share))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.35)


@pytest.mark.parametrize("counts", [[6, 0, 30, 14], [1] * 30 + [2] * 5, [1]])
def test_halves_are_drawn_without_replacement(counts):
    counts = np.array(counts)
    images = counts.sum()
    drawn = np.concatenate(list(bootstrap.halved_counts(counts, seed=0, resamples=30_000)))
    half = max(images // 2, 1)
    assert drawn.shape == (30_000, len(counts))
    assert (drawn.sum(axis=1) == half).all()
    assert (drawn <= counts).all()
    share = counts / images
    # Of a multivariate hypergeometric: as of a multinomial of so many draws, the variance times (n - m) / (n - 1).
    left = (images - half) / max(images - 1, 1)
    covariance = half * left * (np.diag(share) - np.outer(share, share))
    np.testing.assert_allclose(drawn.mean(axis=0), half * share, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), covariance.squeeze(), atol=0.1)


@pytest.mark.parametrize("kind", ["right or wrong", "difference", "any number"])
def test_means_are_spread_as_those_of_images_drawn_one_by_one(kind):
    random = np.random.default_rng(0)
    values = {
        "right or wrong": (random.random(700) < 0.8).astype(float),
        "difference": random.integers(-1, 2, 700).astype(float),
        "any number": random.gamma(0.5, size=700),
    }[kind]
    ours = bootstrap.resampled_means(values, seed=1, resamples=4000)
    assert stats.ks_2samp(ours, plain_means(values, seed=2, resamples=4000)).pvalue > 1e-3
    wide = bootstrap.resampled_means(values * 1.1, seed=1, resamples=4000)
    assert stats.ks_2samp(wide, plain_means(values, seed=2, resamples=4000)).pvalue < 1e-3


def test_an_interval_of_a_share_is_that_of_the_binomial():
    right = np.arange(2000) < 1500
    low, high = bootstrap.mean_interval(right, seed=0, resamples=20_000)
    assert [low, high] == pytest.approx(stats.binom(2000, 0.75).ppf([0.025, 0.975]) / 2000, abs=1e-3)


def test_the_seed_alone_decides():
    values = np.random.default_rng(0).random(1000)
    once, again, other = (bootstrap.mean_interval(values, seed=seed) for seed in (3, 3, 4))
    assert once == again
    assert once != other
    assert once.low < values.mean() < once.high


def test_more_confidence_is_wider_and_equal_values_have_no_spread():
    values = np.random.default_rng(0).random(400)
    narrow = bootstrap.mean_interval(values, seed=0, confidence=0.5)
    wide = bootstrap.mean_interval(values, seed=0, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap.mean_interval(np.full(30, 0.25), seed=0) == (0.25, 0.25)
    assert bootstrap.mean_interval(np.array([True]), seed=0) == (1, 1)


@pytest.mark.parametrize("values", [[], [1, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(UsageError, match="finite"):
        bootstrap.mean_interval(np.array(values, dtype=float), seed=0)


def test_the_interval_of_the_mean_per_class_is_that_of_drawn_test_sets():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    predicted = np.where(random.random(100) < 0.7, labels, (labels + 1) % 3)
    means = []
    for _ in range(4000):
        drawn = random.integers(100, size=100)
        right = predicted[drawn] == labels[drawn]
        means.append(np.mean([right[labels[drawn] == c].mean() for c in range(3) if c in labels[drawn]]))
    found = bootstrap.mean_per_class_interval(predicted, labels, num_classes=3, seed=0, resamples=4000)
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.02)
