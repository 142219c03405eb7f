"""How far a score would move with other test images: percentile intervals of the bootstrap."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from carp_eval.errors import UsageError

# To draw how often a value comes costs about as much as to draw so many images.
IMAGES_PER_VALUE = 16
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
    means: list[Float64[np.ndarray, " resample"]] = []
    for drawn in drawn_counts(cells, seed=seed, resamples=resamples):
        wrong, right = drawn[:, ::2], drawn[:, 1::2]
        images = wrong + right
        shares = np.divide(right, images, out=np.zeros(images.shape), where=images > 0)
        means.append(shares.sum(axis=1) / (images > 0).sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resampled_means(
    values: Float64[np.ndarray, " image"], *, seed: int, resamples: int
) -> Float64[np.ndarray, " resample"]:
    """Draw test sets with replacement and return the mean value of each.

    Where images share a few values, as with right and wrong, it is drawn how often each comes.
    """
    levels, counts = np.unique(values, return_counts=True)
    if _few(counts, len(values)):
        tables = drawn_counts(counts, seed=seed, resamples=resamples)
        return np.concatenate([table @ levels for table in tables]) / len(values)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    per_chunk = max(1, CHUNK_DRAWS // len(values))
    taken = np.empty((per_chunk, len(values)))
    for start in range(0, resamples, per_chunk):
        part = means[start : start + per_chunk]
        drawn = random.integers(len(values), size=(len(part), len(values)))
        # Into memory that is there: fresh pages for each chunk would cost twice as much as drawing.
        values.take(drawn, out=taken[: len(part)], mode="clip").mean(axis=1, out=part)
    return means


def drawn_counts(
    counts: Int64[np.ndarray, " value"], *, seed: int, resamples: int
) -> Iterator[Int64[np.ndarray, "resample value"]]:
    """Draw test sets with replacement and yield how many images of each has each value, some test sets at a time.

    The counts are multinomial: drawn as such where values are few, the same distribution at a thousandth of the cost,
    and else by drawing images.

    Args:
        counts: Images that have each value.
        seed: Of the resampling.
        resamples: Test sets drawn, each as large as this one.
    """
    random = np.random.default_rng(seed)
    images, values = int(counts.sum()), len(counts)
    few = _few(counts, images)
    value_of = np.repeat(np.arange(values), counts)
    per_chunk = max(1, CHUNK_DRAWS // (values if few else images))
    for start in range(0, resamples, per_chunk):
        size = min(per_chunk, resamples - start)
        if few:
            yield random.multinomial(images, counts / images, size=size)
            continue
        yield _counted(value_of.take(random.integers(images, size=(size, images))), values)


def halved_counts(
    counts: Int64[np.ndarray, " value"], *, seed: int, resamples: int
) -> Iterator[Int64[np.ndarray, "resample value"]]:
    """Draw halves of a test set and yield how many images of each has each value, some halves at a time.

    A half's mean is spread around the whole's as that of as many images as the whole has, drawn with replacement, is:
    (1 / m)(1 - m / n) is 1 / n for m = n / 2 (Shao and Wu, 1989). But no image is drawn twice: for scores that compare
    images with each other.

    Args:
        counts: Images that have each value.
        seed: Of the resampling.
        resamples: Halves drawn, each without replacement; of an odd number of images the smaller half.
    """
    random = np.random.default_rng(seed)
    images, values = int(counts.sum()), len(counts)
    half, few = max(1, images // 2), _few(counts, images)
    value_of = np.repeat(np.arange(values), counts)
    per_chunk = max(1, CHUNK_DRAWS // (values if few else images))
    for start in range(0, resamples, per_chunk):
        size = min(per_chunk, resamples - start)
        if few:
            yield random.multivariate_hypergeometric(counts, half, size=size)
            continue
        drawn = np.stack([random.permutation(value_of)[:half] for _ in range(size)])
        yield _counted(drawn, values)


def _counted(drawn: Int64[np.ndarray, "resample image"], values: int) -> Int64[np.ndarray, "resample value"]:
    """Count how often each value comes in each row; the rows are overwritten."""
    drawn += np.arange(len(drawn))[:, None] * values
    return np.bincount(drawn.ravel(), minlength=len(drawn) * values).reshape(-1, values)


def _few(counts: Int64[np.ndarray, " value"], images: int) -> bool:
    return len(counts) * IMAGES_PER_VALUE <= images
