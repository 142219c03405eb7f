import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from carp_eval.errors import UsageError
from carp_eval.metrics.clustering import agreement


def by_counting(classes, clusters):
    """Scores from counts of images and of pairs of images, as their papers define them; AMI left out."""
    n = len(classes)
    joint, rows, columns = Counter(zip(classes, clusters)), Counter(classes), Counter(clusters)

    def entropy(counts):
        return -sum(count / n * math.log(count / n) for count in counts.values())

    mutual = entropy(rows) + entropy(columns) - entropy(joint)
    homogeneity, completeness = mutual / entropy(rows), mutual / entropy(columns)
    together = Counter(
        (classes[a] == classes[b], clusters[a] == clusters[b]) for a, b in combinations(range(n), 2)
    )
    both, one, other, neither = (
        together[key] for key in ((True, True), (True, False), (False, True), (False, False))
    )
    chance = (both + one) * (both + other) / (both + one + other + neither)
    return {
        "nmi": mutual / ((entropy(rows) + entropy(columns)) / 2),
        "ari": (both - chance) / ((2 * both + one + other) / 2 - chance),
        "fms": both / math.sqrt((both + one) * (both + other)),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v": 2 * homogeneity * completeness / (homogeneity + completeness),
    }


def test_scores_are_those_of_counting():
    random = np.random.default_rng(0)
    classes = random.integers(0, 4, 60)
    clusters = np.where(random.random(60) < 0.6, classes, random.integers(0, 6, 60))
    found = agreement(classes, clusters)
    wanted = by_counting(classes.tolist(), clusters.tolist())
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert set(found) == {*wanted, "ami"}
    assert 0 < found["ami"] < found["nmi"] < 1


def test_the_same_partition_scores_one_whatever_its_names():
    classes = np.array([0, 0, 1, 1, 2, 2])
    assert agreement(classes, (classes + 1) % 3) == pytest.approx(
        dict.fromkeys(agreement(classes, classes), 1)
    )


def test_chance_scores_nothing_where_it_is_corrected_for():
    random = np.random.default_rng(0)
    found = agreement(random.integers(0, 10, 3000), random.integers(0, 10, 3000))
    assert abs(found["ami"]) < 0.01
    assert abs(found["ari"]) < 0.01


def test_images_without_a_class_cannot_be_held_against():
    with pytest.raises(UsageError, match="1 of 2"):
        agreement(np.array([0, -1]), np.array([0, 1]))
    with pytest.raises(UsageError, match="0 of 0"):
        agreement(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
