"""How well a ranking puts the right ones first: average precision in its three forms, and what is read off beside it.

Scores that tie have no order among themselves, and none is made up: what stands first in a bank, often one class, would
gain. Average precision takes equals in one step, as a threshold does; what looks at the first k takes the mean over
every order of the equals.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from carp_eval.errors import UsageError

Difficulty = Literal["easy", "medium", "hard"]


class Ranked(NamedTuple):
    """What all scores of one query (or one class) are read off.

    Attributes:
        scores: Of everything, ascending.
        hits: Of what is relevant, ascending.
        tolerance: Scores no further apart than this are equal.
    """

    scores: Float64[np.ndarray, " item"]
    hits: Float64[np.ndarray, " hit"]
    tolerance: float


def ranked(
    scores: Float64[np.ndarray, " item"], relevant: Bool[np.ndarray, " item"], *, tolerance: float = 0.0
) -> Ranked:
    """Sort one query's scores.

    Args:
        scores: The higher, the earlier; finite.
        relevant: Which items are right.
        tolerance: Scores no further apart than this are equal.

    Raises:
        UsageError: If a score is not finite, or nothing is relevant.
    """
    if not np.isfinite(scores).all():
        raise UsageError("scores that are NaN or infinite cannot be ranked: look at what gave them")
    if not relevant.any():
        raise UsageError(f"none of {len(relevant)} items is relevant: there is nothing to find")
    return Ranked(np.sort(scores), np.sort(scores[relevant]), tolerance)


def average_precision(query: Ranked) -> float:
    """Return the mean, over what is relevant, of the precision among all that scores as high or higher.

    The area under the steps of precision over recall, as scikit-learn's `average_precision_score`.
    """
    return float(_precisions(query).mean())


def all_points_average_precision(query: Ranked) -> float:
    """Return PASCAL VOC's average precision at all points: each precision is the best at its recall or a higher one.

    Everingham et al., VOC devkit since 2010; VISSL's and PCL's VOC07 mAP. Never below `average_precision`.
    """
    # The lower a hit's score, the higher the recall it is found at: the best so far from the lowest score on.
    return float(np.maximum.accumulate(_precisions(query)).mean())


def r_precision(query: Ranked) -> float:
    """Return the share of relevant items among the first R, where R is how many are relevant."""
    count = len(query.hits)
    above, level, hits_above, hits_level = _cut(query, count)
    return (hits_above + hits_level * (count - above) / level) / count


def recall_at(query: Ranked, k: int) -> float:
    """Tell whether a relevant item is among the first k: 1 or 0, or a chance where equals straddle the k-th place.

    The recall@k of metric learning (Jégou et al., 2011), which is not the share of the relevant that is found.

    Raises:
        UsageError: If there are fewer than k items.
    """
    if not 1 <= k <= len(query.scores):
        raise UsageError(f"k is {k}, but {len(query.scores)} items are ranked")
    above, level, hits_above, hits_level = _cut(query, k)
    if hits_above:
        return 1.0
    # No hit in k - above draws from the equals, without replacement.
    return 1.0 - math.prod((level - hits_level - drawn) / (level - drawn) for drawn in range(k - above))


def trapezoid_average_precision(places: Int64[np.ndarray, " hit"], *, positives: int) -> float:
    """Return average precision as Oxford, Paris and Copydays have it: trapezoids between the ends of each step.

    The mean, over the positives, of the mean of the precision just before one is found and with it; before the first
    place precision is 1. So one positive at the second place gives 1/4, where the area under steps would give 1/2.

    Args:
        places: Where the found positives stand, ascending, the first place being 0.
        positives: How many there are; those that were not ranked add nothing.

    Raises:
        UsageError: If more positives were found than there are, or there are none.
    """
    if not 1 <= positives >= len(places):
        raise UsageError(f"{len(places)} positives were found of {positives}")
    found = np.arange(len(places))
    before = np.where(places > 0, found / np.maximum(places, 1), 1.0)
    return float((before + (found + 1) / (places + 1)).sum() / 2 / positives)


def revisited_precision(places: Int64[np.ndarray, " hit"], k: int) -> float:
    """Return the share of positives among the first k, or among all up to the last positive if that comes sooner.

    Radenović et al., CVPR 2018: a query with few positives, all found at once, is not held to be half wrong at k = 10.
    The authors' code stops at a query whose positives were all left out of the ranking; here it scores 0.

    Args:
        places: Where the found positives stand, ascending, the first place being 0.
        k: How many of the first count.
    """
    if not len(places):
        return 0.0
    looked_at = min(int(places[-1]) + 1, k)
    return float((places < looked_at).sum()) / looked_at


class Revisited(NamedTuple):
    """Each query's scores; NaN for a query without positives.

    Attributes:
        average_precision: By trapezoids.
        precision: At each k.
    """

    average_precision: Float64[np.ndarray, " query"]
    precision: Float64[np.ndarray, "query k"]

    @property
    def judged(self) -> Bool[np.ndarray, " query"]:
        """Which queries have positives."""
        return ~np.isnan(self.average_precision)

    def mean(self) -> tuple[float, list[float]]:
        """Return mAP and mP@k over the queries that have positives.

        Raises:
            UsageError: If none has.
        """
        judged = self.judged
        if not judged.any():
            raise UsageError(f"none of {len(judged)} queries has a positive image: there is nothing to find")
        return float(self.average_precision[judged].mean()), self.precision[judged].mean(axis=0).tolist()


def revisited(
    ranking: Int64[np.ndarray, "query place"],
    positives: Sequence[Int64[np.ndarray, "_"]],
    junk: Sequence[Int64[np.ndarray, "_"]],
    *,
    k: Sequence[int] = (1, 5, 10),
) -> Revisited:
    """Score rankings as the Revisited Oxford and Paris benchmark does; Copydays has no junk and is scored the same.

    Args:
        ranking: Numbers of the database's images, the nearest first; no number twice.
        positives: Of each query, the images that show the same.
        junk: Of each query, images that are taken out of its ranking first.
        k: Where precision is looked at.

    Raises:
        UsageError: If there is not one list for each query, or an image is positive and junk at once.
    """
    if not len(ranking) == len(positives) == len(junk):
        raise UsageError(
            f"{len(ranking)} rankings need as many lists of positives and junk, got {len(positives)} and {len(junk)}"
        )
    averages = np.full(len(ranking), np.nan)
    precision = np.full((len(ranking), len(k)), np.nan)
    for query, (order, right, ignored) in enumerate(zip(ranking, positives, junk, strict=True)):
        both = np.intersect1d(right, ignored)
        if len(both):
            raise UsageError(f"query {query} has images that are positive and junk at once: {both.tolist()}")
        if not len(right):
            continue
        left = order[~np.isin(order, ignored)]
        places = np.flatnonzero(np.isin(left, right))
        averages[query] = trapezoid_average_precision(places, positives=len(right))
        precision[query] = [revisited_precision(places, number) for number in k]
    return Revisited(averages, precision)


def by_difficulty(
    difficulty: Difficulty,
    *,
    easy: Int64[np.ndarray, "_"],
    hard: Int64[np.ndarray, "_"],
    junk: Int64[np.ndarray, "_"],
) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Return what is positive and what is junk for a query at a difficulty (Radenović et al., CVPR 2018).

    Easy looks for the easy and ignores the hard, hard the other way round; medium looks for both.
    """
    if difficulty == "medium":
        return np.concatenate([easy, hard]), junk
    right, ignored = (easy, hard) if difficulty == "easy" else (hard, easy)
    return right, np.concatenate([junk, ignored])


def _precisions(query: Ranked) -> Float64[np.ndarray, " hit"]:
    """Return the precision among all that scores as each hit or higher."""
    lowest = query.hits - query.tolerance
    hits = len(query.hits) - np.searchsorted(query.hits, lowest)
    return hits / (len(query.scores) - np.searchsorted(query.scores, lowest))


def _cut(query: Ranked, k: int) -> tuple[int, int, int, int]:
    """Count what stands above the k-th place's score and what equals it: of everything, then of the hits."""
    score = query.scores[-k]
    counts: list[int] = []
    for ordered in (query.scores, query.hits):
        start = np.searchsorted(ordered, score - query.tolerance)
        stop = np.searchsorted(ordered, score + query.tolerance, side="right")
        counts += [len(ordered) - int(stop), int(stop - start)]
    return counts[0], counts[1], counts[2], counts[3]
