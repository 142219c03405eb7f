"""Which classes are taken for which: a matrix, and the worst pairs with their images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from markupsafe import Markup

from carp_eval.report import svg
from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.parts.scores import data_of, model_of
from carp_eval.report.thumbnails import Shown, Thumbnails

# Matrices of a page, classes of a matrix, pairs that are named, and pictures of each pair.
MOST, CLASSES, PAIRS, PICTURES = 6, 30, 12, 6
CELL, LETTER, LETTERS = 22.0, 6.5, 18
IMPORTANCE = 80
# Room for the words in the corner; the share of a turned name that is its height.
LEAST_ROOM, TURNED = 100.0, 0.87
DARKEST = 0.42


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another.

    Attributes:
        true: The class they are of.
        taken: The class they were taken for.
        count: How many.
        share: Of the images of their class.
        pictures: Some of them.
    """

    true: str
    taken: str
    count: int
    share: float
    pictures: list[Shown]


@dataclass(frozen=True)
class Confusion:
    """What a model confuses on a data set.

    Attributes:
        result: Number of the result among those of the page.
        title: Model and data set.
        answers: Which answers of the result: `k20`; empty where it has one.
        right: How many images were right.
        images: Of how many.
        drawn: The matrix.
        classes: How many of how many classes it shows, where not all; empty elsewhere.
        pairs: The pairs that were confused most often.
    """

    result: int
    title: str
    answers: str
    right: int
    images: int
    drawn: Markup
    classes: str
    pairs: list[Pair]


def part(found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails) -> list[Confusion]:
    """Show what each model confuses on each data set, by the answers that are right most often."""

    def classified(each: Found) -> bool:
        evidence = shelf.evidence(each)
        best = evidence.best_answers
        return best is not None and len(best.predicted) > 0 and bool((evidence.columns["label"] >= 0).all())

    ordered = sorted(found, key=_top1, reverse=True)
    chosen = newest_of_each(ordered, fits=classified, most=MOST)
    number_of = {id(each): number for number, each in enumerate(found)}
    return [_confusion(number_of[id(each)], shelf.evidence(each), thumbnails) for each in chosen]


def _top1(each: Found) -> float:
    return max((score.value for score in each.result.scores if score.metric == "top1"), default=0.0)


def _confusion(number: int, evidence: Evidence, thumbnails: Thumbnails) -> Confusion:
    best = evidence.best_answers
    assert best is not None
    labels = evidence.columns["label"].astype(np.int64)
    pairs, counts = np.unique(np.stack([labels, best.predicted]), axis=1, return_counts=True)
    of_class = dict(zip(*(values.tolist() for values in np.unique(labels, return_counts=True)), strict=True))
    wrong = pairs[0] != pairs[1]
    order = np.lexsort((pairs[1][wrong], pairs[0][wrong], -counts[wrong]))[:PAIRS]
    worst = [
        _pair(evidence, thumbnails, best.predicted, int(true), int(taken), int(count), of_class[int(true)])
        for true, taken, count in zip(
            pairs[0][wrong][order], pairs[1][wrong][order], counts[wrong][order], strict=True
        )
    ]
    shown, classes = _classes(pairs, counts)
    result = evidence.found.result
    told = f"{len(shown)} of {classes} classes: those with the most errors" if len(shown) < classes else ""
    return Confusion(
        result=number,
        title=f"{model_of(result)} on {data_of(result)}",
        answers=best.name,
        right=int(best.right.sum()),
        images=len(labels),
        drawn=_draw(evidence, shown, pairs, counts, of_class),
        classes=told,
        pairs=worst,
    )


def _classes(
    pairs: Int64[np.ndarray, "two pair"], counts: Int64[np.ndarray, " pair"]
) -> tuple[list[int], int]:
    """Return the classes to show, ascending, and how many there are."""
    every = np.unique(pairs)
    if len(every) <= CLASSES:
        return every.tolist(), len(every)
    wrong = pairs[0] != pairs[1]
    errors = np.zeros(int(every.max()) + 1, dtype=np.int64)
    np.add.at(errors, pairs[0][wrong], counts[wrong])
    return sorted(np.argsort(-errors, kind="stable")[:CLASSES].tolist()), len(every)


def _pair(
    evidence: Evidence,
    thumbnails: Thumbnails,
    predicted: Int64[np.ndarray, " query"],
    true: int,
    taken: int,
    count: int,
    size: int,
) -> Pair:
    names = evidence.name_of(true), evidence.name_of(taken)
    columns = evidence.columns
    rows = np.flatnonzero((columns["label"] == true) & (predicted == taken))[:PICTURES]
    pictures = [
        thumbnails.shown(
            evidence.queries,
            int(columns["index"][row]),
            alt=f"an image of {names[0]} that was taken for {names[1]}: {columns['key'][row]}",
            importance=IMPORTANCE,
        )
        for row in rows
        if evidence.queries is not None
    ]
    return Pair(*names, count=count, share=count / size, pictures=pictures)


def _draw(
    evidence: Evidence,
    classes: Sequence[int],
    pairs: Int64[np.ndarray, "two pair"],
    counts: Int64[np.ndarray, " pair"],
    of_class: dict[int, int],
) -> Markup:
    """Draw the matrix: a row for what images are, a column for what they were taken for."""
    count_of = {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, counts, strict=True)}
    names = [evidence.name_of(label) for label in classes]
    short = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in names]
    # Room for names beside and, turned, above the matrix; and for the words in its corner.
    longest = LETTER * max(map(len, short))
    room, above = max(LEAST_ROOM, 20 + longest), 24 + TURNED * longest
    drawn = [svg.text("is ↓ taken for →", 2, above - 6, class_="tick")]
    for place, told in enumerate(short):
        middle = room + (place + 0.5) * CELL
        drawn.append(svg.text(told, room - 6, middle + above - room + 4, anchor="end", class_="tick"))
        turn = f"rotate(-60 {middle:g} {above - 6:g})"
        drawn.append(svg.text(told, middle, above - 6, class_="tick", turn=turn))
    for level, true in enumerate(classes):
        for place, taken in enumerate(classes):
            count = count_of.get((true, taken), 0)
            if not count and true != taken:
                continue
            size = of_class.get(true, 0)
            share = count / size if size else 0.0
            x, y = room + place * CELL, above + level * CELL
            says = f"{names[level]} taken for {names[place]}: {count} of {size}"
            kind = "heat" if true == taken else "wrongheat"
            tint = DARKEST * min(1.0, share if true == taken else 0.15 + 3 * share)
            drawn.append(svg.rectangle(x, y, CELL - 1, CELL - 1, kind, says=says, fill_opacity=tint))
            drawn.append(svg.text(str(count), x + CELL / 2, y + 15, anchor="middle", class_="count"))
    result = evidence.found.result
    return svg.drawing(
        *drawn,
        width=room + len(classes) * CELL + longest / 2 + 10,
        height=above + len(classes) * CELL + 6,
        label=f"Confusion matrix of {model_of(result)} on {data_of(result)}, {len(classes)} classes; the pairs "
        "confused most often are listed below it",
        class_="matrix",
    )
