"""How far a score would move with other test images: percentile intervals of the bootstrap."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from carp_eval.errors import UsageError

# Beyond so many different values, drawing images is cheaper than drawing how often each value comes.
FEW_VALUES = 256
CHUNK_DRAWS = 2**19


class Interval(NamedTuple):
    """Where the score of a resampled test set lies, most of the time."""

    low: float
    high: float


def mean_interval(
    values: Shaped[np.ndarray, " image"], *, seed: int, resamples: int = 1000, confidence: float = 0.95
) -> Interval:
    """Return a percentile interval of the mean of per-image values (Efron, 1979).

    Args:
        values: One for each image: 1 where it was right and 0 where it was not, or a difference of two models.
        seed: Of the resampling.
        resamples: Test sets drawn, each as large as this one, with replacement.
        confidence: Share of the resampled means that lie in the interval.

    Raises:
        UsageError: If there are no values, or one is not finite.
    """
    if not len(values) or not np.isfinite(values).all():
        raise UsageError(f"an interval needs one finite value or more, got {len(values)} values")
    means = resampled_means(values.astype(np.float64), seed=seed, resamples=resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def mean_per_class_interval(
    predicted: Int64[np.ndarray, " image"],
    labels: Int64[np.ndarray, " image"],
    *,
    num_classes: int,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Return a percentile interval of the mean per-class accuracy, test images drawn with replacement.

    The score depends on a draw only by how many images of each class were right and wrong, which is multinomial. A
    class that is drawn no image of does not count, as in the score.
    """
    cells = np.bincount(labels * 2 + (predicted == labels), minlength=2 * num_classes)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(labels), cells / len(labels), size=resamples).reshape(resamples, -1, 2)
    images = drawn.sum(axis=2)
    shares = np.divide(drawn[:, :, 1], images, out=np.full(images.shape, np.nan), where=images > 0)
    low, high = np.quantile(np.nanmean(shares, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resampled_means(
    values: Float64[np.ndarray, " image"], *, seed: int, resamples: int
) -> Float64[np.ndarray, " resample"]:
    """Draw test sets with replacement and return the mean value of each.

    Where images share a few values, as with right and wrong, how often each value is drawn is multinomial: drawn as
    such, it is the same distribution at a thousandth of the cost.
    """
    random = np.random.default_rng(seed)
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) <= FEW_VALUES:
        drawn: Int64[np.ndarray, "resample level"] = random.multinomial(
            len(values), counts / len(values), size=resamples
        )
        return drawn @ levels / len(values)
    per_chunk = max(1, CHUNK_DRAWS // len(values))
    means = np.empty(resamples)
    for start in range(0, resamples, per_chunk):
        part = means[start : start + per_chunk]
        drawn = random.integers(len(values), size=(len(part), len(values)), dtype=np.int32)
        np.mean(values.take(drawn), axis=1, out=part)
    return means
