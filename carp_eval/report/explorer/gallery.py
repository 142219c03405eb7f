"""The images to pick from: all, those of a class, those that their neighbours take for another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from carp_eval.report.explorer.side import Side

Only = Literal["all", "wrong", "right", "differ"]


@dataclass(frozen=True)
class Filter:
    """What images are wanted.

    Attributes:
        label: Of this class; None takes any.
        only: All; those whose neighbours vote for another class, or do not; those that one of two models has right.
        side: By which model's neighbours.
        words: What a key must contain, in any case.
    """

    label: int | None = None
    only: Only = "all"
    side: int = 0
    words: str = ""


def page(sides: Sequence[Side], wanted: Filter, *, start: int, count: int) -> dict[str, Any]:
    """Return some of the images that are wanted.

    Args:
        sides: The models.
        wanted: Which images.
        start: How many of them to leave out first.
        count: How many to return, at most.
    """
    exhibit = sides[0].exhibit
    rows = np.flatnonzero(_fitting(sides, wanted))
    shown = rows[start : start + count].tolist()
    return {
        "total": len(rows),
        "start": start,
        "images": [
            {
                "image": int(exhibit.numbers[row]),
                "key": exhibit.key(row),
                "label": int(exhibit.labels[row]),
                "class": exhibit.name_of(int(exhibit.labels[row])),
                "taken": [_taken(side, int(exhibit.numbers[row])) for side in sides],
            }
            for row in shown
        ],
        "judged": [
            {
                "done": side.votes.done,
                "of": len(side.votes.rows),
                "wrong": len(side.votes.wrong),
                "stopped": side.votes.stopped,
            }
            for side in sides
        ],
    }


def _fitting(sides: Sequence[Side], wanted: Filter) -> Bool[np.ndarray, " row"]:
    exhibit = sides[0].exhibit
    fits = np.ones(len(exhibit.labels), dtype=bool)
    if wanted.label is not None:
        fits &= exhibit.labels == wanted.label
    if wanted.only == "differ" and len(sides) > 1:
        first, second = (_by_first(sides, number) for number in (0, 1))
        fits &= (first >= 0) & (second >= 0) & ((first == exhibit.labels) != (second == exhibit.labels))
    elif wanted.only in ("wrong", "right"):
        taken = _by_first(sides, wanted.side)
        fits &= (taken >= 0) & ((taken == exhibit.labels) == (wanted.only == "right"))
    if wanted.words:
        # As they are in the bank: to make a million keys fit to be shown takes ten seconds.
        words, keys = wanted.words.lower(), exhibit.bank.keys
        fits &= np.fromiter(
            (bool(fit) and words in key.lower() for key, fit in zip(keys, fits, strict=True)), bool, len(fits)
        )
    return fits


def _by_first(sides: Sequence[Side], number: int) -> Any:
    """Return what a model's neighbours take each row of the first bank for: banks may have skipped other images."""
    if number == 0:
        return sides[0].votes.predicted
    numbers = sides[0].exhibit.numbers
    other = sides[number]
    table = np.full(max(int(numbers.max()), int(other.exhibit.numbers.max())) + 1, -1)
    table[other.exhibit.numbers] = other.votes.predicted
    return table[numbers]


def _taken(side: Side, number: int) -> str | None:
    """Return the class that an image's neighbours vote for; None where it is not counted."""
    exhibit = side.exhibit
    if not exhibit.has(number):
        return None
    label = int(side.votes.predicted[exhibit.row_of(number)])
    return exhibit.name_of(label) if label >= 0 else None
