"""Accuracy by number of neighbours and temperature, as a heat map."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from carp_eval.report import svg
from carp_eval.report.chosen import is_surface
from carp_eval.report.found import Found
from carp_eval.results import Result, Score

CELL_WIDTH, CELL_HEIGHT = 74.0, 30.0
LEFT, TOP = 64.0, 44.0
# Of the tint; more, and the number on it would be hard to read.
DARKEST = 0.42


@dataclass(frozen=True)
class Surface:
    """A heat map.

    Attributes:
        result: Number of its result among those of the page.
        drawn: The map.
        best: The highest of it, in words.
    """

    result: int
    drawn: Markup
    best: str


def part(found: Sequence[Found]) -> list[Surface]:
    """Draw every result that is a surface."""
    return [
        _surface(number, each.result) for number, each in enumerate(found) if is_surface(each.result.scores)
    ]


def _surface(number: int, result: Result) -> Surface:
    metric = "top1" if any(score.metric == "top1" for score in result.scores) else result.scores[0].metric
    cells = {
        (score.settings["k"], score.settings["temperature"]): score
        for score in result.scores
        if score.metric == metric
    }
    rows = sorted({k for k, _ in cells}, key=float)
    columns = sorted({temperature for _, temperature in cells}, key=float)
    values = [score.value for score in cells.values()]
    low, high = min(values), max(values)
    drawn = [
        svg.text("T, the temperature", LEFT, 14, class_="tick"),
        svg.text("k", 8, TOP - 8, class_="tick"),
    ]
    for place, temperature in enumerate(columns):
        x = LEFT + (place + 0.5) * CELL_WIDTH
        drawn.append(svg.text(f"{temperature:.4g}", x, TOP - 8, anchor="middle", class_="tick"))
    for level, k in enumerate(rows):
        y = TOP + level * CELL_HEIGHT
        drawn.append(svg.text(f"{k}", LEFT - 8, y + 19, anchor="end", class_="tick"))
        for place, temperature in enumerate(columns):
            score = cells.get((k, temperature))
            if score is not None:
                share = 1.0 if high == low else (score.value - low) / (high - low)
                drawn.append(_cell(score, LEFT + place * CELL_WIDTH, y, share, best=score.value == high))
    first = next(score for score in cells.values() if score.value == high)
    best = f"{high:.2f} at k = {first.settings['k']}, T = {first.settings['temperature']:.4g}"
    picture = svg.drawing(
        *drawn,
        width=LEFT + len(columns) * CELL_WIDTH + 8,
        height=TOP + len(rows) * CELL_HEIGHT + 8,
        label=f"{metric} by k, {_list(rows)}, and temperature, {_list(columns)}: from {low:.2f} to {best}",
    )
    return Surface(number, picture, best)


def _cell(score: Score, x: float, y: float, share: float, *, best: bool) -> Markup:
    interval = "" if score.low is None else f", 95 % interval {score.low:.2f} to {score.high:.2f}"
    says = f"k = {score.settings['k']}, T = {score.settings['temperature']:.4g}: {score.value:.2f}{interval}"
    field = svg.rectangle(
        x, y, CELL_WIDTH - 2, CELL_HEIGHT - 2, "heat", says=says, fill_opacity=0.03 + share * (DARKEST - 0.03)
    )
    told = f"{score.value:.2f}{' ★' if best else ''}"
    number = svg.text(told, x + CELL_WIDTH / 2 - 1, y + 19, anchor="middle", class_="best" if best else None)
    return Markup("").join((field, number))


def _list(values: Sequence[str | int | float]) -> str:
    return ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
