"""How trainings went: loss, scores and signs of collapse over the epochs, several runs on one picture."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from carp_eval.cards.carp import CarpRecipe
from carp_eval.checkpoints import runs
from carp_eval.errors import CardError
from carp_eval.pretrain import journal, signs
from carp_eval.report import chosen, svg
from carp_eval.report.chosen import Curve

# Runs on one picture: as many as lines can be told apart.
MOST = 6
WIDTH, HEIGHT = 620.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 610.0, 12.0, 176.0
TICKS = 4


@dataclass(frozen=True)
class Line:
    """A curve as the legend tells it.

    Attributes:
        run: Number of its run on this page.
        name: What it shows.
        first: Its first value.
        last: Its last.
        drawn: The line as it looks.
    """

    run: int
    name: str
    first: float
    last: float
    drawn: Markup


@dataclass(frozen=True)
class Panel:
    """A picture of curves.

    Attributes:
        title: What they measure.
        drawn: The picture.
        lines: Its legend.
    """

    title: str
    drawn: Markup
    lines: list[Line]


@dataclass(frozen=True)
class Training:
    """A run whose curves are shown.

    Attributes:
        name: Of its folder.
        warnings: What looks wrong at its end.
    """

    name: str
    warnings: list[str]


@dataclass(frozen=True)
class Curves:
    """All trainings.

    Attributes:
        trainings: The runs, in the order of their colours.
        panels: The pictures.
        left_out: How many more runs there are.
    """

    trainings: list[Training]
    panels: list[Panel]
    left_out: int


def part(folders: Sequence[Path]) -> Curves | None:
    """Draw the logs of runs; None where none has anything to draw.

    Args:
        folders: The runs, the newest first.
    """
    logged = [(folder, _entries(folder)) for folder in folders]
    drawn = [
        (folder, entries, panels)
        for folder, entries in logged
        if (panels := {**chosen.panels(entries), **chosen.signs(entries)})
    ]
    if not drawn:
        return None
    shown = drawn[:MOST]
    titles = dict.fromkeys(title for _, _, panels in shown for title in panels)
    panels = [
        _panel(
            title, [(number, panels[title]) for number, (_, _, panels) in enumerate(shown) if title in panels]
        )
        for title in titles
    ]
    trainings = [Training(folder.name, _warnings(folder, entries)) for folder, entries, _ in shown]
    return Curves(trainings, panels, len(drawn) - len(shown))


def _entries(folder: Path) -> list[dict[str, Any]]:
    """Read a run's log; one that is no log is none."""
    try:
        entries: list[Any] = journal.entries(folder)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return []
    return [
        entry
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("step"), int)
        and isinstance(entry.get("epoch", 0.0), int | float)
    ]


def _warnings(folder: Path, entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what looks wrong by the last of each number."""
    seen = {
        name: float(value)
        for entry in entries
        for name, value in entry.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    try:
        recipe = runs.read_recipe(folder)
    except CardError:
        recipe = None
    if isinstance(recipe, CarpRecipe):
        return list(signs.warnings(recipe, signs=seen).values())
    return list(signs.few_directions(seen, advice="See the run's own warnings for what to change").values())


def _panel(title: str, curves: Sequence[tuple[int, Mapping[str, Curve]]]) -> Panel:
    every = [curve for _, named in curves for curve in named.values()]
    across = _ends([epoch for curve in every for epoch in curve.epochs])
    up = _ends([value for curve in every for value in curve.values])
    drawn: list[Markup] = []
    for value in _ticks(*up):
        y = _at(value, up, BOTTOM, TOP)
        drawn += [svg.line(LEFT, y, RIGHT, y, "axis"), _number(value, LEFT - 6, y + 4, "end")]
    for epoch in _ticks(*across):
        drawn.append(_number(epoch, _at(epoch, across, LEFT, RIGHT), BOTTOM + 16, "middle"))
    drawn.append(svg.text("epoch", (LEFT + RIGHT) / 2, HEIGHT - 4, anchor="middle", class_="tick"))
    lines: list[Line] = []
    for run, named in curves:
        for place, (name, curve) in enumerate(named.items()):
            look = f"line run{run} dash{place % 3}"
            points = " ".join(
                f"{_at(epoch, across, LEFT, RIGHT):.1f},{_at(value, up, BOTTOM, TOP):.1f}"
                for epoch, value in zip(curve.epochs, curve.values, strict=True)
            )
            if len(curve.epochs) == 1:
                x, y = points.split(",")
                drawn.append(svg.element("circle", svg.hint(name), cx=x, cy=y, r=4, class_=f"point run{run}"))
            else:
                drawn.append(svg.element("polyline", svg.hint(name), points=points, class_=look))
            sample = svg.drawing(
                svg.line(0, 5, 28, 5, look), width=28, height=10, label="its line", class_="sample"
            )
            lines.append(Line(run, name, curve.values[0], curve.values[-1], sample))
    told = "; ".join(f"{line.name} from {line.first:.4g} to {line.last:.4g}" for line in lines)
    picture = svg.drawing(
        *drawn, width=WIDTH, height=HEIGHT, label=f"{title} by epoch: {told}", class_="curves"
    )
    return Panel(title, picture, lines)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.03 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _at(value: float, ends: tuple[float, float], start: float, stop: float) -> float:
    return start + (value - ends[0]) / (ends[1] - ends[0]) * (stop - start)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _number(value: float, x: float, y: float, anchor: str) -> Markup:
    return svg.text(f"{value:.4g}", x, y, anchor=anchor, class_="tick")
