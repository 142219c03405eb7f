"""A bank on a plane: near what is near, by UMAP where it is installed, else by principal components."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from carp_eval.errors import BadImageError, BankError
from carp_eval.evaluation.assignment import as_text
from carp_eval.evaluation.job import Bar, no_bar
from carp_eval.features.bank import Bank
from carp_eval.report import plane, svg, thumbnails
from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.parts.neighbours import rows_of, spread
from carp_eval.report.parts.scores import data_of, model_of

# Maps of a page, points of a map, and of all of them.
MOST, POINTS, POINTS_OF_ALL = 4, 20_000, 40_000
# Pictures of points: their side, how many stand in a row and on a sheet, and the bytes that all maps may take.
SIDE, COLUMNS, ON_SHEET = 32, 32, 1024
LONGEST_KEY = 48


@dataclass(frozen=True)
class Map:
    """A bank on a plane.

    Attributes:
        title: Model and data set.
        how: How it was drawn, and of how many rows.
        label: What it shows, in words.
        data: What the page's script draws: coordinates, classes, keys.
        sheets: The pictures of its points, so many on each.
    """

    title: str
    how: str
    label: str
    data: dict[str, Any]
    sheets: list[str]


def part(
    found: Sequence[Found],
    shelf: Shelf,
    *,
    points: int = POINTS,
    umap: bool = True,
    bytes_for_pictures: int,
    bar: Bar = no_bar,
) -> list[Map]:
    """Draw the bank of the scored images for each model and data set that have one at hand.

    Args:
        found: The results.
        shelf: Opens banks and images.
        points: Points of a map, at most.
        umap: Whether by UMAP where it is installed; else by principal components.
        bytes_for_pictures: What the pictures of all maps may take.
        bar: Is told of images read.
    """

    def at_hand(each: Found) -> bool:
        bank = shelf.evidence(each).query_bank
        return bank is not None and len(bank) > 2

    ordered = sorted(found, key=lambda each: not shelf.evidence(each).is_classified)
    chosen = newest_of_each(ordered, fits=at_hand, most=MOST)
    points = min(points, POINTS_OF_ALL // max(1, len(chosen)))
    maps: list[Map] = []
    drawn: set[str] = set()
    for each in chosen:
        evidence = shelf.evidence(each)
        bank = evidence.query_bank
        assert bank is not None
        if bank.fingerprint.sha256 in drawn:
            continue
        drawn.add(bank.fingerprint.sha256)
        try:
            maps.append(_map(evidence, bank, points, bytes_for_pictures // len(chosen), bar, umap=umap))
        except BankError as error:
            shelf.missing.append(f"map of {model_of(each.result)}: {error}")
    return maps


def _map(evidence: Evidence, bank: Bank, points: int, size: int, bar: Bar, *, umap: bool) -> Map:
    result = evidence.found.result
    rows = spread(np.arange(len(bank)), points)
    laid = plane.draw(rows_of(bank, rows), umap=umap and plane.umap_is_there(), seed=result.seed)
    labels = bank.labels[torch.tensor(rows)].numpy()
    classes = np.unique(labels)
    wrong = _wrong(evidence, bank.index[torch.tensor(rows)].numpy())
    sheets, pictured = _sheets(evidence, bank, rows, size, bar)
    of_all = f"{len(rows):,} of {len(bank):,} images" if len(rows) < len(bank) else f"{len(bank):,} images"
    title = f"{model_of(result)} on {data_of(result)}"
    data = {
        "x": laid.cells[:, 0].tolist(),
        "y": laid.cells[:, 1].tolist(),
        "label": np.searchsorted(classes, labels).tolist(),
        "classes": [svg.plain(evidence.name_of(int(label))) for label in classes],
        "keys": [svg.plain(as_text(bank.keys[row]))[-LONGEST_KEY:] for row in rows],
        "wrong": wrong,
        "pictured": pictured,
        "side": SIDE,
        "columns": COLUMNS,
        "on_sheet": ON_SHEET,
    }
    return Map(
        title=title,
        how=f"{of_all} of {bank.record.split}, {laid.how}",
        label=f"Map of {title}: {of_all} in {len(classes)} classes. The arrow keys move from image to image",
        data=data,
        sheets=sheets,
    )


def _wrong(evidence: Evidence, numbers: Int64[np.ndarray, " row"]) -> list[int]:
    """Return the places of the images that were answered wrong."""
    best = evidence.best_answers
    if best is None:
        return []
    answered = evidence.columns["index"][~best.right]
    return np.flatnonzero(np.isin(numbers, answered)).tolist()


def _sheets(
    evidence: Evidence, bank: Bank, rows: Sequence[int], size: int, bar: Bar
) -> tuple[list[str], list[int]]:
    """Make the pictures of points, as many as there is room for, evenly taken; and tell whose they are."""
    images = evidence.queries
    if images is None or not rows:
        return [], []
    tell = bar("pictures of the map")

    def made(chosen: Sequence[int], done: int, total: int) -> tuple[str, list[int]]:
        pictures: list[Any] = []
        whose: list[int] = []
        for place in chosen:
            try:
                pictures.append(thumbnails.shrunk(images.image(int(bank.index[rows[place]])), SIDE))
                whose.append(place)
            except BadImageError:
                continue
            tell(min(done + len(whose), total), total)
        return (thumbnails.sheet(pictures, side=SIDE, columns=COLUMNS) if pictures else "", whose)

    # The first sheet, of points from everywhere, tells how many there is room for.
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    first, whose = made(order[:ON_SHEET], 0, len(rows))
    if not first or len(first) > size:
        return [], []
    count = min(len(rows), ON_SHEET * max(1, int(size / (len(first) * 1.1))))
    sheets, pictured, used = [first], whose, len(first)
    # Pictures are found by their place: a sheet that is not full, for images that could not be read, is the last.
    waiting = order[ON_SHEET:count]
    while waiting and len(pictured) == ON_SHEET * len(sheets):
        more, whose = made(waiting[:ON_SHEET], len(pictured), count)
        if not more or used + len(more) > size:
            break
        sheets, pictured, used, waiting = (
            [*sheets, more],
            [*pictured, *whose],
            used + len(more),
            waiting[ON_SHEET:],
        )
    tell(len(rows), len(rows))
    return sheets, pictured
