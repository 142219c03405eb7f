"""How well clusters agree with classes."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment
from sklearn import metrics

from carp_eval.errors import UsageError
from carp_eval.metrics.bootstrap import Interval, halved_counts
from carp_eval.metrics.chance import expected_mutual_information


class Cells(NamedTuple):
    """The cells of a table of classes and clusters in which there are images.

    Attributes:
        classes: Row of each cell, in rising order; every row below the last is there.
        clusters: Column of each; every column below the last is there.
        counts: Images in each.
    """

    classes: Int64[np.ndarray, " cell"]
    clusters: Int64[np.ndarray, " cell"]
    counts: Int64[np.ndarray, " cell"]


class Sums(NamedTuple):
    """What the scores depend on, for each table.

    Attributes:
        classes: Images of each class.
        clusters: Images in each cluster.
        joint: Sum of n log n over the cells.
        pairs: Pairs of images in the same cell.
    """

    classes: Int64[np.ndarray, "table class"]
    clusters: Int64[np.ndarray, "table cluster"]
    joint: Float64[np.ndarray, " table"]
    pairs: Float64[np.ndarray, " table"]


def agreement(
    classes: Int64[np.ndarray, " image"], clusters: Int64[np.ndarray, " image"]
) -> dict[str, float]:
    """Compare two partitions of the same images.

    Returns:
        Scores by name, 1 for the same partition: `nmi` and `ami`, mutual information normalised by the mean entropy,
        the second corrected for chance; `ari`, the Rand index corrected for chance; `fms`, Fowlkes and Mallows;
        `homogeneity`, whether a cluster holds one class; `completeness`, whether a class is in one cluster; `v`, the
        harmonic mean of these two, which equals `nmi`. Those corrected for chance may be below 0.

    Raises:
        UsageError: If there are no images, or one has no class.
    """
    _check(classes)
    homogeneity, completeness, v = metrics.homogeneity_completeness_v_measure(classes, clusters)
    return {
        "nmi": float(metrics.normalized_mutual_info_score(classes, clusters)),
        "ami": float(metrics.adjusted_mutual_info_score(classes, clusters)),
        "ari": float(metrics.adjusted_rand_score(classes, clusters)),
        "fms": float(metrics.fowlkes_mallows_score(classes, clusters)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v": float(v),
    }


def intervals(
    classes: Int64[np.ndarray, " image"],
    clusters: Int64[np.ndarray, " image"],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return for each score of `agreement` how far it would move with other test images.

    These scores compare images with each other, and an image that is drawn twice agrees with itself: with replacement,
    all drawn scores are too high, by more than they spread where classes have few images for each cluster. So halves of
    the images are drawn, which are spread alike (see `bootstrap.halved_counts`); and as fewer images leave more cells
    of the table empty, which raises scores that are not corrected for chance, the interval is the halves' quantiles
    around their own mean, laid around the score. In simulations of 10 to 100 classes of 25 to 100 images, these
    intervals held the mean score of new test sets in 88 to 98 %, where the quantiles of draws with replacement held
    it in 0 to 80 %.

    Args:
        classes: Of each image.
        clusters: Of each image.
        seed: Of the resampling.
        resamples: Halves drawn.
        confidence: Share of the drawn scores that lie in the interval.

    Raises:
        UsageError: If there are no images, or one has no class.
    """
    _check(classes)
    cells = _cells(classes, clusters)
    halves = halved_counts(cells.counts, seed=seed, resamples=resamples)
    values, drawn = of_tables(cells, [cells.counts[None]]), of_tables(cells, halves)
    found: dict[str, Interval] = {}
    for name, scores in drawn.items():
        ends = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2]) - scores.mean()
        low, high = (min(float(values[name][0] + end), 1.0) for end in ends)
        found[name] = Interval(low, high)
    return found


def of_tables(
    cells: Cells, counts: Iterable[Int64[np.ndarray, "_ cell"]]
) -> dict[str, Float64[np.ndarray, " table"]]:
    """Return the scores of `agreement` for many tables of classes and clusters with the same number of images.

    Args:
        cells: Which cells may hold images.
        counts: Images in each of them, a row for each table, some tables at a time.
    """
    sums = [_sums(cells, chunk) for chunk in counts]
    class_sizes, cluster_sizes, joint, in_both = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    images = int(class_sizes[0].sum())
    of_class, of_cluster, of_both = (
        np.log(images) - sum_ / images
        for sum_ in (_n_log_n(class_sizes).sum(axis=1), _n_log_n(cluster_sizes).sum(axis=1), joint)
    )
    mutual = np.maximum(of_class + of_cluster - of_both, 0)
    mean = (of_class + of_cluster) / 2
    chance = expected_mutual_information(class_sizes, cluster_sizes, images=images)
    in_class, in_cluster = _pairs(class_sizes).sum(axis=1), _pairs(cluster_sizes).sum(axis=1)
    by_chance = in_class * in_cluster / max(images * (images - 1) / 2, 1)
    nmi = _ratio(mutual, mean)
    return {
        "nmi": nmi,
        "ami": _ratio(mutual - chance, mean - chance),
        "ari": _ratio(in_both - by_chance, (in_class + in_cluster) / 2 - by_chance),
        "fms": _ratio(in_both, np.sqrt(in_class * in_cluster), otherwise=0.0),
        "homogeneity": _ratio(mutual, of_class),
        "completeness": _ratio(mutual, of_cluster),
        "v": nmi,
    }


def matched(
    classes: Int64[np.ndarray, " image"], clusters: Int64[np.ndarray, " image"]
) -> Bool[np.ndarray, " image"]:
    """Tell for each image whether its cluster is the one that its class is matched with; their share is the accuracy.

    Each cluster is matched with one class at most and the other way round, so that most images are right (Kuhn, 1955).

    Raises:
        UsageError: If there are no images, or one has no class.
    """
    _check(classes)
    count = int(max(classes.max(), clusters.max())) + 1
    table = np.bincount(clusters * count + classes, minlength=count**2).reshape(count, count)
    _, class_of = linear_sum_assignment(table, maximize=True)
    return class_of[clusters] == classes


def _cells(classes: Int64[np.ndarray, " image"], clusters: Int64[np.ndarray, " image"]) -> Cells:
    _, row = np.unique(classes, return_inverse=True)
    _, column = np.unique(clusters, return_inverse=True)
    width = int(column.max()) + 1
    cell, counts = np.unique(row * width + column, return_counts=True)
    return Cells(cell // width, cell % width, counts)


def _sums(cells: Cells, counts: Int64[np.ndarray, "table cell"]) -> Sums:
    by_cluster = np.argsort(cells.clusters, kind="stable")
    return Sums(
        np.add.reduceat(counts, _starts(cells.classes), axis=1),
        np.add.reduceat(counts[:, by_cluster], _starts(cells.clusters[by_cluster]), axis=1),
        _n_log_n(counts).sum(axis=1),
        _pairs(counts).sum(axis=1),
    )


def _n_log_n(counts: Int64[np.ndarray, "table part"]) -> Float64[np.ndarray, "table part"]:
    # Looked up, as counts are small and many: a logarithm each would take several times as long.
    numbers = np.arange(int(counts.max()) + 1)
    return (numbers * np.log(np.maximum(numbers, 1)))[counts]


def _pairs(counts: Int64[np.ndarray, "table part"]) -> Float64[np.ndarray, "table part"]:
    return counts * (counts - 1) / 2


def _starts(numbers: Int64[np.ndarray, " cell"]) -> Int64[np.ndarray, " group"]:
    return np.flatnonzero(np.diff(numbers, prepend=-1))


def _ratio(
    part: Float64[np.ndarray, " table"], whole: Float64[np.ndarray, " table"], *, otherwise: float = 1.0
) -> Float64[np.ndarray, " table"]:
    """Divide where there is something to divide by: partitions of one part agree, and share no pair by merit."""
    return np.divide(part, whole, out=np.full(len(part), otherwise), where=np.abs(whole) > 1e-12)


def _check(classes: Int64[np.ndarray, " image"]) -> None:
    unlabelled = int((classes < 0).sum())
    if unlabelled or not len(classes):
        raise UsageError(f"{unlabelled} of {len(classes)} images have no class to hold their cluster against")
