"""Queries of landmarks and the database's images that were ranked first for them: found, wrong, or junk."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval.data.landmarks import LandmarkImages
from carp_eval.errors import BankError, CarpError
from carp_eval.evaluation.assignment import as_text
from carp_eval.features import whitening
from carp_eval.features.bank import Bank
from carp_eval.features.rows import unit_rows
from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.parts import neighbours
from carp_eval.report.parts.neighbours import Asked
from carp_eval.report.parts.rankings import IMPORTANCE, MOST, QUERIES, Retrieved, worst_and_best
from carp_eval.report.parts.scores import data_of, model_of
from carp_eval.report.thumbnails import Shown, Thumbnails

# Images that are shown of a ranking.
RANKED = 10
LEVEL = "average_precision_medium"
LEGEND = "queries and what was ranked first for them; ✓ shows the landmark, ✗ another, ○ junk, which counts neither way"
MARKS: dict[str, tuple[Literal["right", "wrong", "junk"], str]] = {
    "easy": ("right", "easy"),
    "hard": ("right", "hard"),
    "junk": ("junk", "junk"),
    "": ("wrong", "another"),
}


def retrieved(found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails) -> list[Retrieved]:
    """Show the queries of landmarks that least and most was found for, with what was ranked first.

    Args:
        found: The results.
        shelf: Opens banks and images; is told what is missing.
        thumbnails: Takes the pictures.
    """

    def at_hand(each: Found) -> bool:
        evidence = shelf.evidence(each)
        if each.result.protocol != "retrieval" or not {LEVEL, "index", "key"} <= evidence.columns.keys():
            return False
        there = evidence.bank is not None and evidence.query_bank is not None
        return there and isinstance(evidence.queries, LandmarkImages)

    shown: list[Retrieved] = []
    for each in newest_of_each(list(found), fits=at_hand, most=MOST):
        try:
            shown.append(_retrieved(shelf.evidence(each), shelf, thumbnails))
        except CarpError as error:
            shelf.missing.append(f"landmarks of {model_of(each.result)}: {str(error).splitlines()[0]}")
    return shown


def _retrieved(evidence: Evidence, shelf: Shelf, thumbnails: Thumbnails) -> Retrieved:
    result, columns = evidence.found.result, evidence.columns
    bank, query_bank, queries = evidence.bank, evidence.query_bank, evidence.queries
    assert bank is not None
    assert query_bank is not None
    assert isinstance(queries, LandmarkImages)
    seen = queries if result.card.get("crop_queries", True) else queries.whole()
    row_of = {index: row for row, index in enumerate(query_bank.index.tolist())}
    chosen = [
        row
        for row in worst_and_best(columns[LEVEL].astype(np.float64), QUERIES)
        if int(columns["index"][row]) in row_of
    ]
    rows = neighbours.rows_of(query_bank, [row_of[int(columns["index"][row])] for row in chosen])
    similarities, places = _nearest(evidence, shelf, bank, rows)
    asked = [
        _asked(evidence, row, seen, bank, similarities[place], places[place], thumbnails)
        for place, row in enumerate(chosen)
    ]
    return Retrieved(
        title=f"{model_of(result)} on {data_of(result)}",
        asked=asked,
        pictures=True,
        kind="Landmarks",
        how="The queries that least was found for, then those that most was found for, by average precision (medium). "
        "Junk shows too little of the landmark, or too much of what is beside it, to be judged.",
        legend=LEGEND,
    )


def _nearest(
    evidence: Evidence, shelf: Shelf, bank: Bank, rows: Float[Tensor, "query dim"]
) -> tuple[Float[Tensor, "query neighbour"], Int64[Tensor, "query neighbour"]]:
    """Rank as the protocol did: whitened, where it whitened."""
    card, k = evidence.found.result.card, min(RANKED, len(bank))
    if card.get("whitening") is None:
        return neighbours.nearest(bank, rows, k=k)
    sha256 = evidence.found.result.banks.get("whitening")
    learnt_on = None if sha256 is None else shelf.bank(sha256, of=f"{evidence.found.result.model}, whitening")
    if learnt_on is None:
        raise BankError("the bank that whitening was learnt on is not at hand")
    learnt = whitening.learn(unit_rows(learnt_on.shards()), components=card.get("whitening_components"))
    database = whitening.whiten(unit_rows(bank.shards()), learnt)
    similarities = whitening.whiten(rows.float(), learnt) @ database.T
    order = similarities.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return similarities.gather(1, order), order


def _asked(
    evidence: Evidence,
    row: int,
    queries: LandmarkImages,
    bank: Bank,
    similarities: Float[Tensor, " neighbour"],
    places: Int64[Tensor, " neighbour"],
    thumbnails: Thumbnails,
) -> Asked:
    number = int(evidence.columns["index"][row])
    query = queries.ground_truth.queries[number]
    relations = {
        int(image): name for name in ("easy", "hard", "junk") for image in getattr(query, name).tolist()
    }
    shown = [
        _shown(evidence, bank, int(place), rank, similarity, relations, thumbnails)
        for rank, (place, similarity) in enumerate(
            zip(places.tolist(), similarities.tolist(), strict=True), start=1
        )
    ]
    told = (
        f"to be found: {len(query.easy):,} easy and {len(query.hard):,} hard, beside {len(query.junk):,} junk"
    )
    precisions = [
        f"{level} {value:.1%}"
        for level in ("easy", "medium", "hard")
        if (values := evidence.columns.get(f"average_precision_{level}")) is not None
        and np.isfinite(value := float(values[row]))
    ]
    picture = thumbnails.shown(queries, number, alt=f"query {query.name}", importance=IMPORTANCE)
    return Asked(picture, query.name, f"average precision {', '.join(precisions)}", told, shown)


def _shown(
    evidence: Evidence,
    bank: Bank,
    place: int,
    rank: int,
    similarity: float,
    relations: dict[int, str],
    thumbnails: Thumbnails,
) -> Shown:
    number = int(bank.index[place])
    mark, word = MARKS[relations.get(number, "")]
    return thumbnails.shown(
        evidence.learnt,
        number,
        alt=f"rank {rank}, {word}: {as_text(bank.keys[place])}, similarity {similarity:.3f}",
        caption=f"{word} {similarity:.3f}",
        mark=mark,
        importance=IMPORTANCE,
    )
