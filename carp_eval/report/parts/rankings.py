"""What was searched for: the queries of class retrieval that went best and worst, and copies and their originals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from carp_eval.cards import kinds
from carp_eval.cards.copydays import CopyDetectionCard
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.images import Images
from carp_eval.errors import BankError, CarpError
from carp_eval.evaluation import copies
from carp_eval.evaluation.job import Job, Settings
from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.parts import neighbours
from carp_eval.report.parts.neighbours import Asked
from carp_eval.report.parts.scores import data_of, model_of
from carp_eval.report.thumbnails import Shown, Thumbnails

# Lists of a page; queries of a list, half of them the worst; pairs of a list.
MOST, QUERIES, PAIRS = 4, 10, 12
IMPORTANCE = 85


@dataclass(frozen=True)
class Retrieved:
    """Queries of a retrieval.

    Attributes:
        title: Model and data set.
        asked: The worst queries, then the best.
        pictures: Whether there are any.
        kind: What was retrieved.
        how: How the queries were chosen.
        legend: What the marks mean.
    """

    title: str
    asked: list[Asked]
    pictures: bool
    kind: str = "Class retrieval"
    how: str = "The queries that least was found for, then those that most was found for."
    legend: str = neighbours.LEGEND


@dataclass(frozen=True)
class Copy:
    """A copy and what was found for it.

    Attributes:
        pictures: The copy, where it can be made again; its original; the nearest, where that is another.
        told: Where its original came, in words.
    """

    pictures: list[Shown]
    told: str


@dataclass(frozen=True)
class Copies:
    """Copies of a result.

    Attributes:
        title: Model and data set.
        how: Which copies, and how many of them were found at once.
        pairs: Those that were hardest to find, then some of those that were found at once.
    """

    title: str
    how: str
    pairs: list[Copy]


def retrieved(found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails) -> list[Retrieved]:
    """Show the queries that class retrieval found least and most for, with their neighbours."""

    def at_hand(each: Found) -> bool:
        evidence = shelf.evidence(each)
        if each.result.protocol != "retrieval" or evidence.bank is None or evidence.query_bank is None:
            return False
        return {"average_precision", "label", "index", "key"} <= evidence.columns.keys()

    shown: list[Retrieved] = []
    for each in newest_of_each(list(found), fits=at_hand, most=MOST):
        evidence = shelf.evidence(each)
        precision = evidence.columns["average_precision"].astype(np.float64)
        chosen = worst_and_best(precision, QUERIES)
        told = [f"average precision {precision[row]:.1%}" for row in chosen]
        try:
            asked = neighbours.ask(evidence, chosen, told, thumbnails)
        except BankError as error:
            shelf.missing.append(f"retrieval of {model_of(each.result)}: {error}")
            continue
        title = f"{model_of(each.result)} on {data_of(each.result)}"
        shown.append(Retrieved(title, asked, evidence.queries is not None))
    return shown


def worst_and_best(precision: Float64[np.ndarray, " query"], most: int) -> list[int]:
    """Return the queries of the lowest precision, then those of the highest, the extremes first; none twice.

    Args:
        precision: Of each query; NaN where it has nothing to be found.
        most: So many at most.
    """
    judged = np.flatnonzero(~np.isnan(precision))
    order = judged[np.argsort(precision[judged], kind="stable")].tolist()
    most = min(most, len(order))
    half = most // 2
    return order[:half] + order[::-1][: most - half]


def copied(
    found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails, *, settings: Settings
) -> list[Copies]:
    """Show copies, their originals, and what was taken for those.

    Args:
        found: The results.
        shelf: Is told what is missing.
        thumbnails: Takes the pictures.
        settings: Where data sets are.
    """

    def detected(each: Found) -> bool:
        return (
            each.result.protocol == "copydays"
            and {"index", "nearer", "nearest"} <= shelf.evidence(each).columns.keys()
        )

    shown = [
        _copies(shelf.evidence(each), shelf, thumbnails, settings)
        for each in newest_of_each(list(found), fits=detected, most=MOST)
    ]
    return [copies for copies in shown if copies is not None]


def _copies(evidence: Evidence, shelf: Shelf, thumbnails: Thumbnails, settings: Settings) -> Copies | None:
    result, columns = evidence.found.result, evidence.columns
    nearer = columns["nearer"]
    judged = np.flatnonzero(nearer >= 0)
    order = judged[np.argsort(-nearer[judged], kind="stable")]
    at_once = int((nearer[judged] == 0).sum())
    lost = order[: PAIRS // 2].tolist()
    chosen = lost + neighbours.spread(order[len(lost) :], PAIRS - len(lost))
    made = _images(evidence, shelf, settings)
    if made is None:
        return None
    originals, queries, others = made
    pairs = [_copy(columns, row, originals, queries, others, thumbnails) for row in chosen]
    block = result.query_split
    how = (
        f"copies by the edit {block}: {at_once:,} of {len(judged):,} find their original before all else. First those "
        "whose original came last, then some of the others"
    )
    return Copies(f"{model_of(result)} on {data_of(result)}", how, pairs)


def _images(
    evidence: Evidence, shelf: Shelf, settings: Settings
) -> tuple[Images, Images, Images | None] | None:
    """Return originals, copies and distractors: copies are made again as the protocol made them."""
    result = evidence.found.result
    try:
        card = kinds.KINDS["copydays"](result.card).model_validate(result.card)
        assert isinstance(card, CopyDetectionCard)
        # Copies are the data's and the seed's, whatever model they were shown to.
        job = Job(card, open_model("pixels:digits"), result.dataset, settings=settings, seed=result.seed)
        searched = copies.searched(job, card)
    except (CarpError, ValueError) as error:
        shelf.missing.append(f"copies of {model_of(result)}: {str(error).splitlines()[0]}")
        return None
    queries = searched.blocks.get(result.query_split)
    if queries is None or any(
        images.manifest_sha256 != result.data.get(name)
        for name, images in ((card.bank_split, searched.originals), (result.query_split, queries))
    ):
        shelf.missing.append(
            f"copies of {model_of(result)}: the images on this machine are not those that were judged"
        )
        return None
    return searched.originals, queries, searched.distractors


def _copy(
    columns: dict[str, np.ndarray],
    row: int,
    originals: Images,
    queries: Images,
    others: Images | None,
    thumbnails: Thumbnails,
) -> Copy:
    copy, nearer = int(columns["index"][row]), int(columns["nearer"][row])
    label = int(queries.labels[copy])
    original = next(number for number, own in enumerate(originals.labels.tolist()) if own == label)
    key = originals.key(original)
    pictures = [
        thumbnails.shown(queries, copy, alt=f"a copy of {key}", caption="copy", importance=IMPORTANCE),
        thumbnails.shown(
            originals,
            original,
            alt=f"its original {key}, {'the nearest' if not nearer else f'with {nearer} nearer images'}",
            caption="original",
            mark="right",
            importance=IMPORTANCE,
        ),
    ]
    nearest = str(columns["nearest"][row])
    if nearer:
        place = _place(nearest, originals, others)
        if place is not None:
            pictures.append(
                thumbnails.shown(
                    *place,
                    alt=f"the nearest: {nearest}",
                    caption="nearest",
                    mark="wrong",
                    importance=IMPORTANCE,
                )
            )
    told = "found at once" if not nearer else f"{nearer:,} other images are nearer; the nearest is {nearest}"
    return Copy(pictures, told)


def _place(key: str, originals: Images, others: Images | None) -> tuple[Images, int] | None:
    """Find an image by its key among what was searched."""
    for images in (originals, others):
        for number in range(0 if images is None else len(images)):
            assert images is not None
            if images.key(number) == key:
                return images, number
    return None
