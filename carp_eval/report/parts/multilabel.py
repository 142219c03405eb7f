"""Images that show several classes: of each class, what was scored high without showing it, and the other way round."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.multilabel_pairs import DECISION, TARGET
from carp_eval.report.parts.scores import data_of, model_of
from carp_eval.report.thumbnails import Mark, Shown, Thumbnails

# Results of a page, classes of a result, those of the lowest average precision, and pictures of either kind.
MOST, CLASSES, PICTURES = 4, 30, 5
IMPORTANCE = 75


@dataclass(frozen=True)
class OfClass:
    """The mistakes of one class's classifier.

    Attributes:
        name: The class.
        precision: Its average precision in percent, as the result has it; None where it does not tell.
        images: How many images show it.
        taken: Images of the highest scores that do not show it.
        missed: Images of the lowest scores that do.
    """

    name: str
    precision: float | None
    images: int
    taken: list[Shown]
    missed: list[Shown]


@dataclass(frozen=True)
class Multilabel:
    """What a model takes for what, where an image shows several classes.

    Attributes:
        result: Number of the result among those of the page.
        title: Model and data set.
        told: Which classes are shown, in words.
        classes: Those of the lowest average precision first.
    """

    result: int
    title: str
    told: str
    classes: list[OfClass]


def part(found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails) -> list[Multilabel]:
    """Show the mistakes of each model on each data set whose images show several classes.

    Args:
        found: The results.
        shelf: Opens images.
        thumbnails: Takes the pictures.
    """

    def decided(each: Found) -> bool:
        columns = shelf.evidence(each).columns
        return {"index", "key"} <= columns.keys() and bool(_classes(columns))

    number_of = {id(each): number for number, each in enumerate(found)}
    # Found by their names alone before predictions are read.
    multilabel = [each for each in found if {"map", "ap"} & {score.metric for score in each.result.scores}]
    return [
        _multilabel(number_of[id(each)], shelf.evidence(each), thumbnails)
        for each in newest_of_each(multilabel, fits=decided, most=MOST)
    ]


def _classes(columns: dict[str, np.ndarray]) -> list[str]:
    names = [name.removeprefix(DECISION) for name in columns if name.startswith(DECISION)]
    return [name for name in names if f"{TARGET}{name}" in columns]


def _multilabel(number: int, evidence: Evidence, thumbnails: Thumbnails) -> Multilabel:
    result, columns = evidence.found.result, evidence.columns
    precision = {
        str(score.settings.get("class")): score.value for score in result.scores if score.metric == "ap"
    }
    names = sorted(_classes(columns), key=lambda name: precision.get(name, 0.0))
    shown = names[:CLASSES]
    told = f"{len(shown)} of {len(names)} classes, those" if len(shown) < len(names) else "All classes, those"
    return Multilabel(
        result=number,
        title=f"{model_of(result)} on {data_of(result)}",
        told=f"{told} of the lowest average precision first",
        classes=[_of_class(name, precision.get(name), evidence, thumbnails) for name in shown],
    )


def _of_class(name: str, precision: float | None, evidence: Evidence, thumbnails: Thumbnails) -> OfClass:
    columns = evidence.columns
    targets = columns[f"{TARGET}{name}"].astype(np.int64)
    decided = columns[f"{DECISION}{name}"].astype(np.float64)
    order: Int64[np.ndarray, " image"] = np.argsort(-decided, kind="stable")
    # What is difficult, 0, is no mistake either way.
    absent = order[targets[order] < 0][:PICTURES]
    present = order[targets[order] > 0][::-1][:PICTURES]
    return OfClass(
        name,
        precision,
        int((targets > 0).sum()),
        _pictures(evidence, absent, decided, f"does not show {name}", "wrong", thumbnails),
        _pictures(evidence, present, decided, f"shows {name}", "", thumbnails),
    )


def _pictures(
    evidence: Evidence,
    rows: Int64[np.ndarray, " shown"],
    decided: Float64[np.ndarray, " image"],
    what: str,
    mark: Mark,
    thumbnails: Thumbnails,
) -> list[Shown]:
    columns = evidence.columns
    return [
        thumbnails.shown(
            evidence.queries,
            int(columns["index"][row]),
            alt=f"{columns['key'][row]} {what}, score {decided[row]:+.2f}",
            caption=f"{decided[row]:+.2f}",
            mark=mark,
            importance=IMPORTANCE,
        )
        for row in rows.tolist()
    ]
