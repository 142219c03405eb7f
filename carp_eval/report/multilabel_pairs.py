"""Two results on images that show several classes: the average precision of each class, and the mean."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int8, Int64

from carp_eval.metrics import paired, voc
from carp_eval.metrics.paired import Difference
from carp_eval.report.per_image import Columns
from carp_eval.results import Result, Score

TARGET, DECISION = "target_", "decision_"

Rows = tuple[Int64[np.ndarray, " image"], Int64[np.ndarray, " image"]]


def compared(
    score: Score, first: Columns, second: Columns, rows: Rows, result: Result, *, seed: int
) -> tuple[float, Difference] | None:
    """Return the first's mean average precision, and by how much the second's is higher; None of other scores.

    Args:
        score: What is compared.
        first: The first's predictions.
        second: The second's.
        rows: Where in each the images are that both have.
        result: One of the two.
        seed: Of the resampling.
    """
    names = _classes(first, second)
    if score.metric != "map" or not names:
        return None
    difficult = _difficult(result)
    targets: Int8[np.ndarray, "image class"] = np.stack(
        [first[f"{TARGET}{name}"][rows[0]] for name in names], axis=1
    ).astype(np.int8)
    one, other = (_decided(columns, at, names) for columns, at in zip((first, second), rows, strict=True))
    found = paired.mean_average_precision_difference(one, other, targets, difficult=difficult, seed=seed)
    mean = np.nanmean([each for _, _, each, _ in by_class(first, second, rows, result)])
    return float(mean), Difference(*(end * 100 for end in found))


def by_class(
    first: Columns, second: Columns, rows: Rows, result: Result
) -> Iterator[tuple[str, int, float, float]]:
    """Yield each class's name, how many images show it, and its average precision for both, in percent."""
    for name in _classes(first, second):
        targets = first[f"{TARGET}{name}"][rows[0]].astype(np.int8)
        if not (targets > 0).any():
            continue
        values = [
            voc.average_precision(
                columns[f"{DECISION}{name}"][at].astype(np.float64), targets, difficult=_difficult(result)
            )
            for columns, at in zip((first, second), rows, strict=True)
        ]
        yield name, int((targets > 0).sum()), values[0] * 100, values[1] * 100


def _decided(
    columns: Columns, rows: Int64[np.ndarray, " image"], names: Sequence[str]
) -> Float64[np.ndarray, "image class"]:
    return np.stack([columns[f"{DECISION}{name}"][rows] for name in names], axis=1).astype(np.float64)


def _classes(first: Columns, second: Columns) -> list[str]:
    names = [name.removeprefix(DECISION) for name in first if name.startswith(DECISION)]
    return [name for name in names if f"{DECISION}{name}" in second and f"{TARGET}{name}" in first]


def _difficult(result: Result) -> voc.Difficult:
    return "ignored" if result.card.get("difficult_in_test") == "ignored" else "negative"
