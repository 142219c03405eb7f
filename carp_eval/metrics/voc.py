"""Mean average precision over classes that an image may have several of, as PASCAL VOC's classification is scored."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int8, Int64

from carp_eval.metrics import ranking
from carp_eval.metrics.bootstrap import Interval

Difficult = Literal["negative", "ignored"]
# Numbers in one array of the bootstrap.
CHUNK_VALUES = 2**21


class Intervals(NamedTuple):
    """Where scores of resampled test sets lie, most of the time.

    Attributes:
        mean: Of the mean over classes.
        per_class: Of each class; NaN for a class that no image has.
    """

    mean: Interval
    per_class: list[Interval]


def average_precision(
    scores: Float64[np.ndarray, " image"], targets: Int8[np.ndarray, " image"], *, difficult: Difficult
) -> float:
    """Return one class's average precision at all points; NaN if no image has the class.

    Images whose scores tie are taken in one step.

    Args:
        scores: The higher, the surer that the image has the class.
        targets: 1 where it has, -1 where it has not, 0 where that is hard to tell.
        difficult: Whether what is hard to tell counts as not having the class, or is left out.
    """
    scores, targets = _judged(scores, targets, difficult)
    relevant = targets > 0
    if not relevant.any():
        return float("nan")
    return ranking.all_points_average_precision(ranking.ranked(scores, relevant))


def intervals(
    scores: Float64[np.ndarray, "image class"],
    targets: Int8[np.ndarray, "image class"],
    *,
    difficult: Difficult,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Intervals:
    """Return percentile intervals of average precision and its mean, test images drawn with replacement (Efron, 1979).

    One draw of images serves all classes. A class that is drawn no image of does not count in the mean of that draw.

    Args:
        scores: Of each image for each class.
        targets: As `average_precision` has them.
        difficult: Likewise.
        seed: Of the resampling.
        resamples: Test sets drawn, each as large as this one.
        confidence: Share of the resampled scores that lie in an interval.
    """
    found = _resampled(scores, targets, difficult=difficult, seed=seed, resamples=resamples)
    return Intervals(
        _interval(_mean(found), confidence), [_interval(column, confidence) for column in found.T]
    )


def resampled_means(
    scores: Float64[np.ndarray, "image class"],
    targets: Int8[np.ndarray, "image class"],
    *,
    difficult: Difficult,
    seed: int,
    resamples: int = 1000,
) -> Float64[np.ndarray, " resample"]:
    """Draw test sets as `intervals` does, and return the mean over classes in each; the same sets for the same seed.

    Args:
        scores: Of each image for each class.
        targets: As `average_precision` has them.
        difficult: Likewise.
        seed: Of the resampling.
        resamples: Test sets drawn, each as large as this one.
    """
    return _mean(_resampled(scores, targets, difficult=difficult, seed=seed, resamples=resamples))


def _resampled(
    scores: Float64[np.ndarray, "image class"],
    targets: Int8[np.ndarray, "image class"],
    *,
    difficult: Difficult,
    seed: int,
    resamples: int,
) -> Float64[np.ndarray, "resample class"]:
    random = np.random.default_rng(seed)
    images, classes = scores.shape
    levels = [_Levels.of(scores[:, number], targets[:, number], difficult) for number in range(classes)]
    found = np.full((resamples, classes), np.nan)
    per_chunk = max(1, CHUNK_VALUES // images)
    for start in range(0, resamples, per_chunk):
        part = found[start : start + per_chunk]
        drawn = random.integers(images, size=(len(part), images))
        times = np.stack([np.bincount(row, minlength=images) for row in drawn])
        for number, of_class in enumerate(levels):
            if of_class is not None:
                part[:, number] = of_class.average_precision(times)
    return found


class _Levels(NamedTuple):
    """One class's ranking, made ready for images that count several times or not at all.

    Attributes:
        order: Images from the highest score to the lowest that a hit has.
        starts: Where in it the images begin that a level with a hit has more than the one above.
        hits: Images that have the class, from the highest score on.
        hit_starts: Where in these each level begins.
    """

    order: Int64[np.ndarray, " item"]
    starts: Int64[np.ndarray, " level"]
    hits: Int64[np.ndarray, " hit"]
    hit_starts: Int64[np.ndarray, " level"]

    @classmethod
    def of(
        cls, scores: Float64[np.ndarray, " image"], targets: Int8[np.ndarray, " image"], difficult: Difficult
    ) -> "_Levels | None":
        """Rank the images of a class; None if none has it."""
        counted = np.arange(len(targets)) if difficult == "negative" else np.flatnonzero(targets)
        order = counted[np.argsort(-scores[counted], kind="stable")]
        hits = order[targets[order] > 0]
        if not len(hits):
            return None
        levels, hit_starts = np.unique(-scores[hits], return_index=True)
        ends = np.searchsorted(-scores[order], levels, side="right")
        return cls(order[: ends[-1]], np.concatenate([[0], ends[:-1]]), hits, hit_starts)

    def average_precision(
        self, times: Int64[np.ndarray, "resample image"]
    ) -> Float64[np.ndarray, " resample"]:
        """Score resampled test sets, told how often each image was drawn."""
        looked_at = np.add.reduceat(times[:, self.order], self.starts, axis=1).cumsum(axis=1)
        right = np.add.reduceat(times[:, self.hits], self.hit_starts, axis=1)
        found = right.cumsum(axis=1)
        precision = np.divide(found, looked_at, out=np.zeros(found.shape), where=looked_at > 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        return _divided((best * right).sum(axis=1), found[:, -1])


def _judged(
    scores: Float64[np.ndarray, " image"], targets: Int8[np.ndarray, " image"], difficult: Difficult
) -> tuple[Float64[np.ndarray, " judged"], Int8[np.ndarray, " judged"]]:
    if difficult == "negative":
        return scores, targets
    told = targets != 0
    return scores[told], targets[told]


def _mean(found: Float64[np.ndarray, "resample class"]) -> Float64[np.ndarray, " resample"]:
    there = ~np.isnan(found)
    return _divided(np.where(there, found, 0.0).sum(axis=1), there.sum(axis=1))


def _divided(
    sums: Float64[np.ndarray, " resample"], counts: Int64[np.ndarray, " resample"]
) -> Float64[np.ndarray, " resample"]:
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _interval(values: Float64[np.ndarray, " resample"], confidence: float) -> Interval:
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
