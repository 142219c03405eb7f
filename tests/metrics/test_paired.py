import numpy as np
import pytest
from scipy import stats

from carp_eval.errors import UsageError
from carp_eval.metrics import paired
from carp_eval.metrics.paired import Outcomes


def test_images_are_counted_by_who_has_them_right():
    first = np.array([True, True, True, False, False, False, False])
    second = np.array([True, True, False, True, False, False, False])
    assert paired.outcomes(first, second) == Outcomes(both=2, only_first=1, only_second=1, neither=3)


@pytest.mark.parametrize(
    ("only_first", "only_second", "by_hand"),
    # Of 3 disagreements: 2 (1/8). Of 6, 1 to 5: 2 (1 + 6)/64. Of 10, 2 to 8: 2 (1 + 10 + 45)/1024.
    [(0, 3, 0.25), (5, 1, 14 / 64), (2, 8, 112 / 1024), (4, 4, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_as_worked_out_by_hand(only_first, only_second, by_hand):
    # What both or none have right must not matter.
    for agreed in (0, 1000):
        counts = Outcomes(agreed, only_first, only_second, agreed)
        assert paired.mcnemar(counts) == pytest.approx(by_hand)


def test_mcnemar_of_many_disagreements_comes_near_the_chi_squared_test():
    counts = Outcomes(40_000, 2_600, 2_400, 5_000)
    corrected = (abs(2_600 - 2_400) - 1) ** 2 / 5_000
    assert paired.mcnemar(counts) == pytest.approx(stats.chi2.sf(corrected, df=1), rel=0.02)


def test_the_interval_of_a_difference_holds_the_true_one_as_often_as_it_says():
    random = np.random.default_rng(0)
    held, trials, images = 0, 400, 300
    for trial in range(trials):
        hard = random.random(images)
        # Right wherever an image is easier than a model is able: shared difficulty, a true gain of 0.05.
        first = (hard + random.normal(0, 0.1, images) < 0.60).astype(float)
        second = (hard + random.normal(0, 0.1, images) < 0.65).astype(float)
        found = paired.difference(first, second, seed=trial, resamples=500)
        held += found.low <= 0.05 <= found.high
    assert 0.90 < held / trials < 0.98


def test_a_paired_interval_is_narrower_than_that_of_two_test_sets_would_be():
    random = np.random.default_rng(1)
    first = random.random(2000)
    second = first + random.normal(0.01, 0.02, 2000)
    found = paired.difference(first, second, seed=0)
    assert found.value == pytest.approx(float(np.mean(second) - np.mean(first)))
    # Of the differences: 1.96 standard errors both ways.
    width = 2 * 1.96 * float(np.std(second - first)) / np.sqrt(2000)
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_models_that_swap_places_have_the_difference_with_the_other_sign():
    random = np.random.default_rng(2)
    first, second = random.random(500), random.random(500)
    one, other = paired.difference(first, second, seed=0), paired.difference(second, first, seed=0)
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high, abs=0.01)


def test_no_image_and_no_number_are_refused():
    with pytest.raises(UsageError, match="finite"):
        paired.difference(np.array([]), np.array([]), seed=0)
    with pytest.raises(UsageError, match="finite"):
        paired.difference(np.array([0.0, np.nan]), np.array([0.0, 1.0]), seed=0)


def test_the_mean_over_classes_weighs_each_class_alike():
    # Class 0 has 6 images, of which the second wins 3; class 2 has 2, of which it loses 1; class 1 has none.
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2])
    first = np.array([0, 0, 0, 1, 1, 1, 1, 1], dtype=bool)
    second = np.array([1, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    found = paired.mean_per_class_difference(first, second, labels, seed=0)
    assert found.value == pytest.approx((0.5 - 0.5) / 2)


def test_the_interval_of_the_mean_over_classes_is_that_of_images_drawn_one_by_one():
    random = np.random.default_rng(3)
    labels = random.choice(4, size=240, p=[0.6, 0.2, 0.15, 0.05])
    first, second = random.random(240) < 0.7, random.random(240) < 0.8
    plain = []
    for _ in range(4000):
        drawn = random.integers(240, size=240)
        plain.append(
            np.mean(
                [
                    second[drawn][labels[drawn] == label].mean() - first[drawn][labels[drawn] == label].mean()
                    for label in np.unique(labels[drawn])
                ]
            )
        )
    found = paired.mean_per_class_difference(first, second, labels, seed=0, resamples=4000)
    low, high = np.quantile(plain, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.012)
    assert found.high == pytest.approx(high, abs=0.012)


def test_both_models_are_judged_on_the_same_draws():
    random = np.random.default_rng(4)
    targets = np.where(random.random((120, 3)) < 0.3, 1, -1).astype(np.int8)
    first = targets + random.normal(0, 1, (120, 3))
    # A scaling moves no rank: the same model, however few images are drawn twice.
    same = paired.mean_average_precision_difference(
        first, first * 7, targets, difficult="negative", seed=0, resamples=50
    )
    assert same == (0, 0, 0)
    better = paired.mean_average_precision_difference(
        first, first + targets, targets, difficult="negative", seed=0, resamples=200
    )
    assert 0 < better.low < better.value < better.high
