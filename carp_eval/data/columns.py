"""Which columns of a table hold its images and its classes, and what the classes are called."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import datasets
import pyarrow.compute

from carp_eval.errors import DataError

# A column of plain numbers or strings is taken for the label only under one of these names.
LABEL_NAMES = ("label", "labels", "cls", "class", "target")
MOST_CLASSES = 1_000_000

# Pyarrow makes these functions when it is imported, so no type checker knows them.
pc = cast(Any, pyarrow.compute)


def image_column(features: datasets.Features, asked: str | None, *, name: str) -> str:
    """Find the column of images.

    Args:
        features: The type of each column.
        asked: The column to take; left out, the only one of that type.
        name: The data set, for the message.

    Raises:
        DataError: If it is not there, not of images, or several could be meant.
    """
    images = [key for key in features if _holds_images(features[key])]
    column = _choose("image", asked, images, features, name)
    if not (column in images or _is_binary(features[column])):
        raise DataError(f"{name}: the column {column!r} is of type {_type(features[column])}, not of images")
    return column


def label_column(features: datasets.Features, asked: str | None, *, name: str) -> str | None:
    """Find the column of classes; None where there is none.

    Args:
        features: The type of each column.
        asked: The column to take; left out, the only one of that type, or of a name that says so.
        name: The data set, for the message.

    Raises:
        DataError: If it is not there, not of classes, or several could be meant.
    """
    labels = [key for key in features if isinstance(features[key], datasets.ClassLabel)]
    if not labels:
        labels = [key for key in features if key.lower() in LABEL_NAMES and _is_plain(features[key])]
    if asked is None and not labels:
        return None
    column = _choose("label", asked, labels, features, name)
    if not (isinstance(features[column], datasets.ClassLabel) or _is_plain(features[column])):
        raise DataError(
            f"{name}: the column {column!r} is of type {_type(features[column])}; classes are numbers or names"
        )
    return column


def class_names(
    label: str | None, features: datasets.Features, tables: Iterable[datasets.Dataset], *, name: str
) -> tuple[str, ...]:
    """Name the classes: as the column's type says, or by the values of all splits, so that splits agree.

    Args:
        label: The column of classes; None if there is none.
        features: The type of each column.
        tables: Every split.
        name: The data set, for the message.

    Raises:
        DataError: If the numbers in the column are too large to be classes.
    """
    if label is None:
        return ()
    if isinstance(features[label], datasets.ClassLabel):
        return tuple(features[label].names)
    values: set[Any] = set()
    for table in tables:
        values.update(pc.unique(table.data.column(label)).to_pylist())
    values.discard(None)
    if features[label].dtype == "string":
        return tuple(sorted(values))
    highest = max(values, default=-1)
    if highest >= MOST_CLASSES:
        raise DataError(
            f"{name}: the column {label!r} has numbers up to {highest}; those are not classes from 0 on"
        )
    return tuple(str(number) for number in range(highest + 1))


def _choose(
    what: str, asked: str | None, candidates: Sequence[str], features: datasets.Features, name: str
) -> str:
    """Return the column that was asked for, or the only candidate."""
    columns = ", ".join(f"{key} ({_type(feature)})" for key, feature in features.items())
    if asked is not None:
        if asked not in features:
            raise DataError(f"{name} has no column {asked!r}; it has {columns}")
        return asked
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        separator = "&" if "?" in name else "?"
        raise DataError(
            f"{name} has {len(candidates)} columns that could be the {what}: {', '.join(candidates)}; "
            f"say which, as in {name}{separator}{what}={candidates[0]}"
        )
    raise DataError(f"{name} has no column of type {what}, only {columns}")


def _holds_images(feature: Any) -> bool:
    # Tables that other tools wrote lack the type, but store images in the same two fields.
    stored_alike = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    return stored_alike or isinstance(feature, datasets.Image)


def _is_binary(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _is_plain(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("string", "int", "uint"))


def _type(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__
