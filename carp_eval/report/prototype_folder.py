"""A folder that shows what prototypes have gathered: pictures, and the numbers behind them."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from carp_eval import files
from carp_eval.data.decoding import with_channels
from carp_eval.data.images import Images
from carp_eval.data.preview import TILE, contact_sheet
from carp_eval.evaluation.assignment import as_text
from carp_eval.evaluation.gathered import Gathered
from carp_eval.report import pictures

LETTERS_IN_A_LINE = 20


def write(found: Gathered, splits: Sequence[Images], folder: Path, *, most: int, nearest: int) -> list[Path]:
    """Write `nearest.png`, `prototypes.parquet`, `prototypes.json` and, where it can be drawn, `usage.png`.

    Args:
        found: The prototypes and what they have gathered.
        splits: The images, in the order of the splits there.
        folder: Where the files go.
        most: So many of the most used prototypes.
        nearest: So many images of each.

    Returns:
        The files.

    Raises:
        BadImageError: If an image can no more be read.
        StorageError: If the disk is full, read-only or closed to us.
    """
    shown = [
        {**row, "nearest": _nearest(found, splits, row["prototype"], nearest)} for row in found.rows(most)
    ]
    sheet, table, record = folder / "nearest.png", folder / "prototypes.parquet", folder / "prototypes.json"
    with files.replacing(sheet) as beside:
        _sheet(found, splits, most=most, nearest=nearest).save(beside, format="PNG")
    with files.replacing(table) as beside:
        pq.write_table(_table(found), beside)
    files.write_text(record, json.dumps(found.describe() | {"most_used": shown}, indent=2) + "\n")
    drawn = pictures.usage(found.columns["images"].tolist(), folder / "usage.png")
    return [sheet, table, record, *([] if drawn is None else [drawn])]


def _nearest(
    found: Gathered, splits: Sequence[Images], prototype: int, most: int
) -> list[dict[str, str | float]]:
    return [
        {
            "split": splits[place.split].split,
            "key": as_text(splits[place.split].key(place.index)),
            "confidence": confidence,
        }
        for place, confidence in found.surest(prototype, most)
    ]


def _table(found: Gathered) -> pa.Table:
    columns = found.columns
    labels = columns["label"]
    names = [found.class_names[label] if label >= 0 else None for label in labels.tolist()]
    plain = {name: pa.array(column, mask=_missing(column)) for name, column in columns.items()}
    plain["label"] = pa.array(labels, mask=labels < 0)
    return pa.table({**plain, "class_name": pa.array(names, pa.string())})


def _missing(column: np.ndarray) -> np.ndarray:
    """Tell which values are none: the mean of no images."""
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)


def _sheet(found: Gathered, splits: Sequence[Images], *, most: int, nearest: int) -> Image.Image:
    """Draw a row for each prototype: what it is, and its images, the surest first."""
    blank = Image.new("RGB", (TILE, TILE), "white")
    rows: list[list[Image.Image]] = []
    for row in found.rows(most):
        images = [
            with_channels(splits[place.split].image(place.index), 3)
            for place, _ in found.surest(row["prototype"], nearest)
        ]
        rows.append([_label(row), *images, *[blank] * (nearest - len(images))])
    return contact_sheet(rows, headings=["prototype", *(f"{place + 1}" for place in range(nearest))])


def _label(row: dict[str, str | int | float | None]) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), "white")
    lines = [
        f"prototype {row['prototype']}",
        f"{row['images']:,} images",
        f"confidence {row['confidence']:.2f}",
    ]
    if row["class_name"] is not None:
        told = f"{row['purity']:.0%} of class {row['class_name']}"
        lines += textwrap.wrap(told, LETTERS_IN_A_LINE)[:4]
    ImageDraw.Draw(tile).multiline_text(
        (4, 8), "\n".join(lines), fill="black", font=ImageFont.load_default(size=13), spacing=5
    )
    return tile
