"""The table of scores: each with its interval drawn, what was published, and how far that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from carp_eval.report import svg
from carp_eval.report.chosen import NO_SHARES, is_surface
from carp_eval.report.found import Found, main_scores
from carp_eval.results import Published, Result, Score

WIDTH, HEIGHT = 230.0, 26.0
LEFT, RIGHT = 8.0, 222.0
MIDDLE = 10.0


@dataclass(frozen=True)
class Row:
    """A score.

    Attributes:
        result: Number of its result among those of the page.
        model: The model, with its branch where it has two.
        protocol: Kind and variant.
        dataset: The data set that was scored, and that which was learnt from where it is another.
        name: What was measured, and the settings that tell it from others.
        value: As a number, to sort by.
        told: As it is read.
        interval: In words; empty where there is none.
        drawn: The interval, and what was published, on a line that all scores of the metric and data set share.
        published: Each with its source.
        delta: Of the first, to sort by; None where there is none.
        main: Whether it stands in the table before all are asked for.
    """

    result: int
    model: str
    protocol: str
    dataset: str
    name: str
    value: float
    told: str
    interval: str
    drawn: Markup
    published: tuple[Published, ...]
    delta: float | None
    main: bool


@dataclass(frozen=True)
class Scores:
    """The table.

    Attributes:
        rows: The scores, in the order of their results.
        models: To choose from.
        protocols: Likewise.
        datasets: Likewise.
        surfaces: Scores of surfaces that stand in a heat map instead.
    """

    rows: list[Row]
    models: list[str]
    protocols: list[str]
    datasets: list[str]
    surfaces: int


def part(found: Sequence[Found]) -> Scores | None:
    """Return the scores of results; None where there is none."""
    shown = [
        (number, each.result, score)
        for number, each in enumerate(found)
        for score in each.result.scores
        if math.isfinite(score.value) and not is_surface(each.result.scores)
    ]
    on_maps = sum(len(each.result.scores) for each in found if is_surface(each.result.scores))
    scales: dict[tuple[str, str], tuple[float, float]] = {}
    for _, result, score in shown:
        key = _scale_of(result, score)
        ends = [score.value, score.low, score.high, *(known.value for known in score.published)]
        there = [end for end in ends if end is not None and math.isfinite(end)]
        low, high = scales.get(key, (math.inf, -math.inf))
        scales[key] = min(low, *there), max(high, *there)
    main = {id(score) for each in found for score in main_scores(each.result)}
    rows = [
        _row(number, result, score, scales[_scale_of(result, score)], main=id(score) in main)
        for number, result, score in shown
    ]
    if not rows and not on_maps:
        return None
    return Scores(
        rows=rows,
        models=sorted({row.model for row in rows}),
        protocols=sorted({row.protocol for row in rows}),
        datasets=sorted({row.dataset for row in rows}),
        surfaces=on_maps,
    )


def model_of(result: Result) -> str:
    """Return what a result's model is called, with its branch where it has two."""
    return f"{result.model} ({result.branch})" if result.branch else result.model


def data_of(result: Result) -> str:
    """Return what a result's data set is called: of a folder its own name, not where it lies."""
    scored, learnt = short(result.query_dataset), short(result.dataset)
    return scored if result.query_dataset == result.dataset else f"{scored}, learnt from {learnt}"


def short(dataset: str) -> str:
    """Return a data set's name without the folders above it."""
    kind, colon, rest = dataset.partition(":")
    return f"{kind}:{rest.rstrip('/').rpartition('/')[2]}" if colon else dataset


def _row(number: int, result: Result, score: Score, scale: tuple[float, float], *, main: bool) -> Row:
    share = score.metric not in NO_SHARES
    interval = "" if score.low is None or score.high is None else f"{score.low:.2f} to {score.high:.2f}"
    told = f"{score.value:.2f}{' %' if share else ''}"
    return Row(
        result=number,
        model=model_of(result),
        protocol=f"{result.protocol}@{result.variant}",
        dataset=data_of(result),
        name=score.name,
        value=score.value,
        told=told,
        interval=interval,
        drawn=_draw(score, scale, label=f"{told}{f', 95 % interval {interval}' if interval else ''}"),
        published=score.published,
        delta=score.published[0].delta if score.published else None,
        main=main,
    )


def _scale_of(result: Result, score: Score) -> tuple[str, str]:
    return data_of(result), score.metric


def _draw(score: Score, scale: tuple[float, float], *, label: str) -> Markup:
    """Draw a score as a dot on its interval; a published number as a diamond, or a cross if of another variant."""
    low, high = scale
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    margin = (high - low) * 0.04
    low, high = low - margin, high + margin
    if score.metric not in NO_SHARES:
        low, high = max(0.0, low), min(100.0, high)

    def at(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (RIGHT - LEFT)

    drawn = [svg.line(LEFT, MIDDLE, RIGHT, MIDDLE, "axis")]
    if score.low is not None and score.high is not None:
        ends = at(score.low), at(score.high)
        drawn.append(svg.line(ends[0], MIDDLE, ends[1], MIDDLE, "whisker"))
        drawn += [svg.line(end, MIDDLE - 5, end, MIDDLE + 5, "whisker") for end in ends]
    drawn.append(svg.element("circle", svg.hint(label), cx=at(score.value), cy=MIDDLE, r=4, class_="dot"))
    for known in score.published:
        x = at(known.value)
        shape = (
            f"M{x:.2f} {MIDDLE - 6}l5 6l-5 6l-5 -6z"
            if known.same_variant
            else f"M{x - 4:.2f} {MIDDLE - 4}l8 8m0 -8l-8 8"
        )
        told = f"published {known.value:.1f}, {known.document}, {known.table}"
        drawn.append(svg.element("path", svg.hint(told), d=shape, class_="published"))
        label += f"; {told}"
    drawn.append(svg.text(f"{low:.4g}", LEFT, HEIGHT - 1, class_="tick"))
    drawn.append(svg.text(f"{high:.4g}", RIGHT, HEIGHT - 1, anchor="end", class_="tick"))
    return svg.drawing(*drawn, width=WIDTH, height=HEIGHT, label=label, class_="whiskers")
