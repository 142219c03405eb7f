"""What a result's predictions say of each image, in the terms of one of its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64

from carp_eval.errors import DataError
from carp_eval.report.found import Found
from carp_eval.results import Result, Score

# Of percent: how far the mean over images may be from the score that was written down.
TOLERANCE = 0.01
PARTITIONS = frozenset({"nmi", "ami", "ari", "fms", "homogeneity", "completeness", "v"})
COLUMNS = {"cluster_accuracy": "matched", "r_precision": "r_precision"}

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Values:
    """What each image adds to a score.

    Attributes:
        of_image: 1 where it was right and 0 where not, or a query's average precision; NaN where it does not count.
        are_hits: Whether they are right or wrong, and nothing between.
        predicted: Which class each image was taken for; None where that is not told.
    """

    of_image: Float64[np.ndarray, " image"]
    are_hits: bool
    predicted: Int64[np.ndarray, " image"] | None = None


def read(found: Found) -> Columns:
    """Return the columns of a result's predictions; none where the protocol keeps nothing of single images.

    Raises:
        DataError: If the file is not there or is damaged.
    """
    path: Path = found.predictions
    again = "evaluate the model again"
    if not path.is_file():
        raise DataError(
            f"{path} is not there: images are compared by the predictions beside a result; {again}"
        )
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as predictions: {error}; {again}") from error
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def rows(columns: Columns) -> dict[tuple[str, int], int]:
    """Return the row of each image, by its key; of a key that is there several times, by which of them it is.

    Their order is that of the split, and not of the file.
    """
    if not {"key", "index"} <= columns.keys():
        return {}
    found: dict[tuple[str, int], int] = {}
    seen: dict[str, int] = {}
    for row in np.argsort(columns["index"], kind="stable").tolist():
        key = str(columns["key"][row])
        found[key, seen.get(key, 0)] = row
        seen[key] = seen.get(key, 0) + 1
    return found


def of(score: Score, result: Result, columns: Columns) -> Values | str:
    """Return what each image adds to a score, or why that cannot be said."""
    metric, suffix = score.metric, _suffix(score)
    if metric in PARTITIONS:
        return "is of all images at once: no image has a share of it"
    if metric in ("top1", "mean_per_class"):
        return _named(columns, suffix)
    if metric == "top5":
        return _taken(columns, f"in_top5{suffix}")
    if metric in COLUMNS:
        return _taken(columns, COLUMNS[metric])
    if metric == "recall":
        return _taken(columns, f"recall{suffix}")
    if metric == "map" and score.settings.get("block", result.query_split) == result.query_split:
        return _taken(columns, "average_precision")
    kind, _, level = metric.partition("_")
    if kind == "map":
        return _taken(columns, f"average_precision_{level}")
    if kind == "mp":
        return _taken(columns, f"precision_{level}{suffix}")
    return NOT_KEPT


def check(score: Score, values: Values, *, where: Path) -> None:
    """Make sure that predictions are those that gave a score.

    Raises:
        DataError: If they give another one.
    """
    counted = values.of_image[~np.isnan(values.of_image)]
    mean = float(counted.mean()) * 100 if len(counted) else float("nan")
    # Also where it is no number.
    if not abs(mean - score.value) <= TOLERANCE:
        raise DataError(
            f"{where} gives {score.metric} {mean:.2f} and the result beside it says {score.value:.2f}: the two do not "
            "belong together; evaluate the model again"
        )


NOT_KEPT = "the record keeps nothing of single images that it is made of"


def _named(columns: Columns, suffix: str) -> Values | str:
    predicted, right = columns.get(f"predicted{suffix}"), columns.get(f"right{suffix}")
    if predicted is None or (right is None and "label" not in columns):
        return NOT_KEPT
    hits = (predicted == columns["label"]) if right is None else right
    return Values(hits.astype(np.float64), are_hits=True, predicted=predicted.astype(np.int64))


def _taken(columns: Columns, name: str) -> Values | str:
    if name not in columns or columns[name].dtype.kind not in "bfiu":
        return NOT_KEPT
    values = columns[name].astype(np.float64)
    counted: Bool[np.ndarray, " image"] = ~np.isnan(values)
    return Values(values, are_hits=bool(np.isin(values[counted], (0, 1)).all()))


def _suffix(score: Score) -> str:
    """Return how the columns of a score's settings end, as runners name them."""
    settings, told = score.settings, ""
    if "k" in settings:
        told += f"_k{settings['k']}"
    if isinstance(temperature := settings.get("temperature"), int | float):
        told += f"_t{temperature:g}"
    if "n" in settings:
        told += f"_n{settings['n']}"
    return told
