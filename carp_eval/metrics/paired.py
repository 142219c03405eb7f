"""Two models on the same images: which of them is better, and whether more than by chance.

What is compared are values of the same image, so that hard images, which are hard for both, cancel out: an interval of
the difference is mostly much narrower than those of the two scores let one think. Differences are the second's value
less the first's.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64
from scipy.stats import binomtest

from carp_eval.metrics import voc
from carp_eval.metrics.bootstrap import drawn_counts, mean_interval


class Outcomes(NamedTuple):
    """How many images each of two models has right."""

    both: int
    only_first: int
    only_second: int
    neither: int


class Difference(NamedTuple):
    """By how much the second is above the first.

    Attributes:
        value: On the images that were scored.
        low: Lower end of its percentile interval, images being drawn with replacement.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def outcomes(first: Bool[np.ndarray, " image"], second: Bool[np.ndarray, " image"]) -> Outcomes:
    """Count the images that both, one or none of two models has right."""
    return Outcomes(
        int((first & second).sum()),
        int((first & ~second).sum()),
        int((~first & second).sum()),
        int((~first & ~second).sum()),
    )


def mcnemar(counts: Outcomes) -> float:
    """Return the two-sided p-value of McNemar's exact test: of models that are equally often right.

    Where they are, an image that one alone has right is as likely the first's as the second's (McNemar, Psychometrika
    1947); images that both or none have right say nothing. 1 where the two never disagree.
    """
    disagreed = counts.only_first + counts.only_second
    return float(binomtest(counts.only_first, disagreed).pvalue) if disagreed else 1.0


def difference(
    first: Float64[np.ndarray, " image"],
    second: Float64[np.ndarray, " image"],
    *,
    seed: int,
    resamples: int = 1000,
) -> Difference:
    """Return by how much the mean of the second's values is higher, with its paired bootstrap interval.

    Args:
        first: A value of each image.
        second: Another of each, in the same order.
        seed: Of the resampling.
        resamples: Test sets drawn.

    Raises:
        UsageError: If there is no image, or a value is not finite.
    """
    low, high = mean_interval(second - first, seed=seed, resamples=resamples)
    return Difference(float((second - first).mean()), low, high)


def mean_per_class_difference(
    first: Bool[np.ndarray, " image"],
    second: Bool[np.ndarray, " image"],
    labels: Int64[np.ndarray, " image"],
    *,
    seed: int,
    resamples: int = 1000,
) -> Difference:
    """Return by how much the second's mean of the classes' accuracies is higher, with its paired bootstrap interval.

    A class that is drawn no image of does not count in that draw.

    Args:
        first: Whether the first model has each image right.
        second: Whether the second has.
        labels: The class of each, 0 or more.
        seed: Of the resampling.
        resamples: Test sets drawn.
    """
    # All that a draw's score depends on: for each class, on how many of its images one alone is right.
    gains = second.astype(np.int64) - first.astype(np.int64)
    cells = np.bincount(labels * 3 + gains + 1, minlength=3 * (int(labels.max()) + 1))
    drawn = np.concatenate(list(drawn_counts(cells, seed=seed, resamples=resamples)))
    low, high = np.quantile(_mean_gain(drawn), [0.025, 0.975])
    return Difference(float(_mean_gain(cells[None])[0]), float(low), float(high))


def mean_average_precision_difference(
    first: Float64[np.ndarray, "image class"],
    second: Float64[np.ndarray, "image class"],
    targets: Int8[np.ndarray, "image class"],
    *,
    difficult: voc.Difficult,
    seed: int,
    resamples: int = 1000,
) -> Difference:
    """Return by how much the second's mean average precision is higher, with its paired bootstrap interval.

    Args:
        first: What the first model scores each image by, for each class.
        second: What the second does.
        targets: 1 where an image has the class, -1 where it has not, 0 where that is hard to tell.
        difficult: Whether what is hard to tell counts as not having the class, or is left out.
        seed: Of the resampling.
        resamples: Test sets drawn, the same ones for both.
    """
    values: list[float] = []
    draws: list[Float64[np.ndarray, " resample"]] = []
    for scores in (first, second):
        by_class = [
            voc.average_precision(scores[:, number], targets[:, number], difficult=difficult)
            for number in range(targets.shape[1])
        ]
        values.append(float(np.nanmean(by_class)))
        draws.append(
            voc.resampled_means(scores, targets, difficult=difficult, seed=seed, resamples=resamples)
        )
    gains = draws[1] - draws[0]
    low, high = np.quantile(gains[~np.isnan(gains)], [0.025, 0.975])
    return Difference(values[1] - values[0], float(low), float(high))


def _mean_gain(cells: Int64[np.ndarray, "resample cell"]) -> Float64[np.ndarray, " resample"]:
    lost, same, gained = cells[:, ::3], cells[:, 1::3], cells[:, 2::3]
    images = lost + same + gained
    gain = np.divide(gained - lost, images, out=np.zeros(images.shape), where=images > 0)
    return gain.sum(axis=1) / (images > 0).sum(axis=1)
