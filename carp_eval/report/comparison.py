"""Two results on the same images: by how much they differ, whether by more than chance, and where.

Differences are the second's score less the first's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from carp_eval.errors import DataError, UnknownNameError, UsageError
from carp_eval.metrics import paired
from carp_eval.metrics.paired import Difference, Outcomes
from carp_eval.report import alike, multilabel_pairs, per_image
from carp_eval.report.found import SIDE_SCORES, Found
from carp_eval.report.per_image import Columns, Values
from carp_eval.results import Score

SEED = 0


@dataclass(frozen=True)
class Compared:
    """One score of both.

    Attributes:
        name: What it is called.
        first: In percent, on the images that both have.
        second: Likewise.
        difference: In percent, with its interval where images are paired; None where they cannot be.
        outcomes: How many images each has right, where they are right or wrong.
        p_value: Of McNemar's exact test, likewise.
        why: Why images are not paired; empty where they are.
    """

    name: str
    first: float
    second: float
    difference: Difference | None = None
    outcomes: Outcomes | None = None
    p_value: float | None = None
    why: str = ""


@dataclass(frozen=True)
class OfClass:
    """How both did on the images of one class.

    Attributes:
        label: The class; -1 where it is known by name alone.
        name: Its name, where the predictions tell it; empty elsewhere.
        images: How many of it were scored.
        first: In percent.
        second: Likewise.
    """

    label: int
    name: str
    images: int
    first: float
    second: float

    @property
    def gain(self) -> float:
        """By how much the second is better."""
        return self.second - self.first


@dataclass(frozen=True)
class Disagreement:
    """An image on which the two differ.

    Attributes:
        key: What the data set calls it.
        index: Its number in the split.
        label: Its class; -1 where it has none, or several.
        gain: By how much the second is better: 1 where it alone is right.
        taken_for: The class that each took it for; None where that is not told.
    """

    key: str
    index: int
    label: int
    gain: float
    taken_for: tuple[int, int] | None


@dataclass(frozen=True)
class Comparison:
    """Two results, compared.

    Attributes:
        first: One of them.
        second: The other.
        common: Images that both have.
        alone: How many each has that the other lacks.
        scores: All that both have.
        unshared: Names of scores that one alone has.
        looked_at: The score that the classes and the images below are about; empty where there is none.
        classes: How both did on each class, the largest losses first.
        first_better: Images on which the first is better; by how much, and then as they come.
        second_better: Likewise.
    """

    first: Found
    second: Found
    common: int
    alone: tuple[int, int]
    scores: tuple[Compared, ...]
    unshared: tuple[str, ...]
    looked_at: str
    classes: tuple[OfClass, ...]
    first_better: tuple[Disagreement, ...]
    second_better: tuple[Disagreement, ...]


@dataclass(frozen=True)
class _Sides:
    """The predictions of both, and the rows of the images that both have, in the order of the split."""

    first: Columns
    second: Columns
    rows: tuple[Int64[np.ndarray, " image"], Int64[np.ndarray, " image"]]

    @property
    def labels(self) -> Int64[np.ndarray, " image"]:
        if "label" not in self.first:
            return np.full(len(self.rows[0]), -1)
        return self.first["label"][self.rows[0]].astype(np.int64)


def compare(
    first: Found,
    second: Found,
    *,
    score: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Comparison:
    """Compare two results image by image.

    Args:
        first: One of them.
        second: The other.
        score: The score whose images and classes are looked at; None takes the first that tells of images.
        progress: Is told how many scores are compared, and of how many.

    Raises:
        UsageError: If the two are the same, were judged otherwise, or have no score or image in common.
        DataError: If predictions are missing, damaged, or of another result.
    """
    _check_alike(first, second)
    sides, alone = _paired(first, second)
    own = {each.name: each for each in first.result.scores}
    theirs = {each.name: each for each in second.result.scores}
    common = [name for name in own if name in theirs]
    if not common:
        raise UsageError(
            f"the two have no score in common: {', '.join(list(own)[:6])} and {', '.join(list(theirs)[:6])}"
        )
    if score is not None and score not in common:
        raise UnknownNameError("score that both have", score, common)
    compared: list[Compared] = []
    for number, name in enumerate(common):
        progress(number, len(common))
        compared.append(_score(name, own[name], theirs[name], first, second, sides))
    progress(len(common), len(common))
    looked_at = score or _first_that_tells_of_images(common, own, compared)
    values = None if not looked_at else _values(own[looked_at], theirs[looked_at], first, second, sides)
    images = [] if values is None else _disagreements(values, sides)
    by_class = multilabel_pairs.by_class(sides.first, sides.second, sides.rows, first.result)
    classes = [OfClass(-1, *each) for each in by_class] or ([] if values is None else _classes(values, sides))
    return Comparison(
        first=first,
        second=second,
        common=len(sides.rows[0]),
        alone=alone,
        scores=tuple(compared),
        unshared=tuple(sorted({*own, *theirs} - {*common})),
        looked_at=looked_at,
        classes=tuple(sorted(classes, key=lambda each: (each.gain, each.label, each.name))),
        first_better=tuple(sorted((each for each in images if each.gain < 0), key=lambda each: each.gain)),
        second_better=tuple(sorted((each for each in images if each.gain > 0), key=lambda each: -each.gain)),
    )


def _check_alike(first: Found, second: Found) -> None:
    if first.path.resolve() == second.path.resolve():
        raise UsageError(f"{first.path} is the same result twice: name two")
    differ = alike.differences(first.result, second.result)
    if differ:
        told = "\n".join(f"  {each}" for each in differ)
        raise UsageError(
            f"{first.path.name} of {first.result.model} and {second.path.name} of {second.result.model} cannot be "
            f"compared, they differ in more than the model:\n{told}\nJudge the second as the first was: "
            f"{alike.command_for(first, alike.spelling(second))}"
        )


def _paired(first: Found, second: Found) -> tuple[_Sides, tuple[int, int]]:
    columns = per_image.read(first), per_image.read(second)
    own, theirs = (per_image.rows(each) for each in columns)
    common = [key for key in own if key in theirs]
    if (own or theirs) and not common:
        raise UsageError(
            f"{first.path} and {second.path} have no image in common, by their keys: was all skipped?"
        )
    rows = (
        np.array([own[key] for key in common], dtype=np.int64),
        np.array([theirs[key] for key in common], dtype=np.int64),
    )
    sides = _Sides(*columns, rows)
    if "label" in columns[0] and "label" in columns[1]:
        other = columns[1]["label"][rows[1]]
        if not np.array_equal(columns[0]["label"][rows[0]], other):
            raise DataError(
                f"{first.path} and {second.path} give the same images other classes: one of them was changed, "
                "or is of another data set; evaluate again"
            )
    return sides, (len(own) - len(common), len(theirs) - len(common))


def _score(name: str, own: Score, theirs: Score, first: Found, second: Found, sides: _Sides) -> Compared:
    told = multilabel_pairs.compared(own, sides.first, sides.second, sides.rows, first.result, seed=SEED)
    if told is not None:
        value_of_first, difference = told
        return Compared(name, value_of_first, value_of_first + difference.value, difference)
    values = _values(own, theirs, first, second, sides)
    if isinstance(values, str):
        return Compared(name, own.value, theirs.value, why=values)
    one, other = (each.of_image[rows] for each, rows in zip(values, sides.rows, strict=True))
    counted = ~np.isnan(one) & ~np.isnan(other)
    one, other = one[counted], other[counted]
    if not len(one):
        return Compared(name, own.value, theirs.value, why="no image that both have counts for it")
    outcomes = None
    if all(each.are_hits for each in values):
        outcomes = paired.outcomes(one > 0, other > 0)
    if own.metric == "mean_per_class":
        labels = sides.labels[counted]
        found = paired.mean_per_class_difference(one > 0, other > 0, labels, seed=SEED)
        value = _mean_per_class(one, labels)
        return Compared(name, value, value + found.value * 100, _percent(found))
    found = paired.difference(one, other, seed=SEED)
    p_value = None if outcomes is None else paired.mcnemar(outcomes)
    return Compared(
        name, float(one.mean()) * 100, float(other.mean()) * 100, _percent(found), outcomes, p_value
    )


def _values(
    own: Score, theirs: Score, first: Found, second: Found, sides: _Sides
) -> tuple[Values, Values] | str:
    one = per_image.of(own, first.result, sides.first)
    other = per_image.of(theirs, second.result, sides.second)
    if isinstance(one, str):
        return one
    if isinstance(other, str):
        return other
    if own.metric != "mean_per_class":
        per_image.check(own, one, where=first.predictions)
        per_image.check(theirs, other, where=second.predictions)
    return one, other


def _first_that_tells_of_images(
    names: Sequence[str], scores: dict[str, Score], compared: Sequence[Compared]
) -> str:
    telling = [name for name, each in zip(names, compared, strict=True) if each.difference is not None]
    main = [name for name in telling if scores[name].metric not in SIDE_SCORES]
    return next(iter([*main, *telling]), "")


def _disagreements(values: tuple[Values, Values] | str, sides: _Sides) -> list[Disagreement]:
    if isinstance(values, str):
        return []
    one, other = (each.of_image[rows] for each, rows in zip(values, sides.rows, strict=True))
    keys, numbers = (sides.first[name][sides.rows[0]] for name in ("key", "index"))
    named = [each.predicted for each in values]
    labels, found = sides.labels, list[Disagreement]()
    for place in np.flatnonzero(np.nan_to_num(other - one)).tolist():
        taken_for = None
        if named[0] is not None and named[1] is not None:
            taken_for = (int(named[0][sides.rows[0][place]]), int(named[1][sides.rows[1][place]]))
        found.append(
            Disagreement(
                str(keys[place]),
                int(numbers[place]),
                int(labels[place]),
                float(other[place] - one[place]),
                taken_for,
            )
        )
    return found


def _classes(values: tuple[Values, Values] | str, sides: _Sides) -> list[OfClass]:
    if isinstance(values, str):
        return []
    one, other = (each.of_image[rows] for each, rows in zip(values, sides.rows, strict=True))
    counted = ~np.isnan(one) & ~np.isnan(other) & (sides.labels >= 0)
    labels, one, other = sides.labels[counted], one[counted] * 100, other[counted] * 100
    images = np.bincount(labels)
    sums = [np.bincount(labels, weights=each) for each in (one, other)]
    return [
        OfClass(label, "", int(images[label]), *(float(each[label] / images[label]) for each in sums))
        for label in np.flatnonzero(images).tolist()
    ]


def _mean_per_class(hits: Float64[np.ndarray, " image"], labels: Int64[np.ndarray, " image"]) -> float:
    images = np.bincount(labels)
    there = images > 0
    return float((np.bincount(labels, weights=hits)[there] / images[there]).mean()) * 100


def _percent(found: Difference) -> Difference:
    return Difference(found.value * 100, found.low * 100, found.high * 100)
