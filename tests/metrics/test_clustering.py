import math
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest

from carp_eval.errors import UsageError
from carp_eval.metrics import clustering
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


def test_scores_of_drawn_tables_are_those_of_their_images():
    random = np.random.default_rng(0)
    classes = np.sort(random.integers(0, 5, 90))
    clusters = np.where(random.random(90) < 0.5, classes, random.integers(0, 7, 90))
    cells = clustering._cells(classes, clusters)
    counts = random.multinomial(90, cells.counts / 90, size=6)
    counts[5] = 0
    counts[5, 3] = 90
    found = clustering.of_tables(cells, [counts[:2], counts[2:]])
    for table, drawn in enumerate(counts):
        wanted = agreement(np.repeat(cells.classes, drawn), np.repeat(cells.clusters, drawn))
        assert {name: found[name][table] for name in found} == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("classes", "clusters"), [([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [0, 0, 0]), ([0], [0])]
)
def test_trivial_partitions_score_as_scikit_learn_has_it(classes, clusters):
    classes, clusters = np.array(classes), np.array(clusters)
    cells = clustering._cells(classes, clusters)
    found = clustering.of_tables(cells, [cells.counts[None]])
    wanted = agreement(classes, clusters)
    assert {name: value[0] for name, value in found.items()} == pytest.approx(wanted, abs=1e-9)


def test_intervals_hold_what_new_test_sets_score():
    # A population of 20 classes, an image's cluster right by chance q; 25 images of a class are few for 20 clusters.
    random = np.random.default_rng(1)

    def test_set():
        classes = random.integers(0, 20, 500)
        return classes, np.where(random.random(500) < 0.5, classes, random.integers(0, 20, 500))

    expected = {
        name: np.mean([found[name] for found in (agreement(*test_set()) for _ in range(60))])
        for name in ("nmi", "ami", "ari", "fms", "homogeneity", "completeness", "v")
    }
    held = Counter()
    for trial in range(40):
        classes, clusters = test_set()
        ends = clustering.intervals(classes, clusters, seed=trial, resamples=100)
        held.update(name for name, (low, high) in ends.items() if low <= expected[name] <= high)
    assert set(held) == set(expected)
    assert min(held.values()) >= 40 * 0.8
    narrow = clustering.intervals(classes, clusters, seed=trial, resamples=100, confidence=0.3)
    for name, (low, high) in narrow.items():
        assert ends[name].low < low < high < ends[name].high


def test_the_interval_of_a_perfect_score_ends_there():
    classes = np.arange(60) % 3
    for low, high in clustering.intervals(classes, classes, seed=0).values():
        assert (low, high) == pytest.approx((1, 1))
        assert high <= 1


def test_clusters_are_matched_with_classes_so_that_most_are_right():
    random = np.random.default_rng(0)
    for _ in range(20):
        classes, clusters = random.integers(0, 4, 30), random.integers(0, 5, 30)
        # A match of five clusters with four classes and one that no image has.
        best = max(
            sum(match[cluster] == label for cluster, label in zip(clusters, classes))
            for match in permutations(range(5))
        )
        assert clustering.matched(classes, clusters).sum() == best
    assert clustering.matched(np.array([0, 0, 1]), np.array([1, 1, 0])).all()
    assert clustering.matched(np.array([0, 0, 0]), np.array([2, 1, 2])).tolist() == [True, False, True]
