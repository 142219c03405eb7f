"""Images and what a bank holds nearest to them, right and wrong marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval.errors import BankError
from carp_eval.evaluation.assignment import as_text
from carp_eval.features.bank import Bank
from carp_eval.features.rows import unit_rows
from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.parts.scores import data_of, model_of
from carp_eval.report.thumbnails import Shown, Thumbnails

# Lists of a page, queries of a list, half of them wrong where there are so many, and neighbours of a query.
MOST, QUERIES, NEIGHBOURS = 6, 16, 8
IMPORTANCE_QUERY, IMPORTANCE = 100, 90
LEGEND = "images and their neighbours, the nearest first; ✓ of the same class, ✗ of another"


@dataclass(frozen=True)
class Asked:
    """A query and its neighbours.

    Attributes:
        query: The image.
        key: Its key.
        label: Its class.
        told: What was made of it, in words.
        neighbours: The nearest, the nearest first.
    """

    query: Shown
    key: str
    label: str
    told: str
    neighbours: list[Shown]


@dataclass(frozen=True)
class Neighbours:
    """Queries of a result and their neighbours.

    Attributes:
        result: Number of the result among those of the page.
        title: Model and data set.
        how: How the queries were chosen.
        asked: The queries.
        pictures: Whether there are any.
    """

    result: int
    title: str
    how: str
    asked: list[Asked]
    pictures: bool


def part(found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails) -> list[Neighbours]:
    """Show neighbours for each model on each data set whose banks are at hand, k-NN's before others'."""
    shown: list[Neighbours] = []
    number_of = {id(each): number for number, each in enumerate(found)}

    def at_hand(each: Found) -> bool:
        evidence = shelf.evidence(each)
        if not evidence.is_classified or evidence.bank is None or evidence.query_bank is None:
            return False
        return evidence.best_answers is not None

    ordered = sorted(found, key=lambda each: each.result.protocol != "knn")
    for each in newest_of_each(ordered, fits=at_hand, most=MOST):
        try:
            shown.append(_neighbours(number_of[id(each)], shelf.evidence(each), thumbnails))
        except BankError as error:
            shelf.missing.append(f"neighbours of {model_of(each.result)}: {error}")
    return shown


def nearest(
    bank: Bank, queries: Float[Tensor, "query dim"], *, k: int
) -> tuple[Float[Tensor, "query neighbour"], Int64[Tensor, "query neighbour"]]:
    """Find the rows nearest to a few queries by cosine similarity, shard by shard: a bank need not fit into memory.

    Args:
        bank: The rows to choose from.
        queries: Of unit length.
        k: Neighbours of each; fewer where there are fewer rows.

    Returns:
        Similarities, the highest first, and rows; of equals the first row comes first.

    Raises:
        BankError: If a shard is missing or cut short, or a value is not finite.
    """
    values, rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    start = 0
    for shard in bank.shards():
        similarities = queries @ unit_rows([shard]).T
        numbers = torch.arange(start, start + len(shard)).expand(len(queries), -1)
        values, rows = torch.cat([values, similarities], dim=1), torch.cat([rows, numbers], dim=1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
        values, rows = values.gather(1, order), rows.gather(1, order)
        start += len(shard)
    return values, rows


def rows_of(bank: Bank, numbers: Sequence[int]) -> Float[Tensor, "row dim"]:
    """Return some rows of a bank, of unit length.

    Args:
        bank: The bank.
        numbers: Which, in any order.

    Raises:
        BankError: If a shard is missing or cut short, or a value is not finite.
    """
    wanted, start, found = (
        torch.tensor(list(numbers), dtype=torch.int64),
        0,
        torch.empty(len(numbers), bank.dim),
    )
    for shard in bank.shards():
        here = (wanted >= start) & (wanted < start + len(shard))
        if here.any():
            found[here] = unit_rows([shard[wanted[here] - start]])
        start += len(shard)
    return found


def spread(rows: Int64[np.ndarray, " row"], most: int) -> list[int]:
    """Return some of many, evenly taken."""
    if len(rows) <= most:
        return rows.tolist()
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)].tolist()


def _neighbours(number: int, evidence: Evidence, thumbnails: Thumbnails) -> Neighbours:
    best, result = evidence.best_answers, evidence.found.result
    assert best is not None
    wrong, right = np.flatnonzero(~best.right), np.flatnonzero(best.right)
    half = QUERIES // 2
    mistakes = spread(wrong, max(half, QUERIES - len(right)))
    chosen = mistakes + spread(right, QUERIES - len(mistakes))
    told = [
        f"taken for {evidence.name_of(int(best.predicted[row]))}"
        + (f" ({best.name})" if best.name else "")
        + (": right" if best.right[row] else ": wrong")
        for row in chosen
    ]
    return Neighbours(
        result=number,
        title=f"{model_of(result)} on {data_of(result)}",
        how=f"{len(mistakes)} of {len(wrong):,} images that were answered wrong, then {len(chosen) - len(mistakes)} of "
        f"{len(right):,} that were answered right, each evenly taken; the {NEIGHBOURS} nearest of the bank",
        asked=ask(evidence, chosen, told, thumbnails),
        pictures=evidence.queries is not None,
    )


def ask(
    evidence: Evidence, chosen: Sequence[int], told: Sequence[str], thumbnails: Thumbnails
) -> list[Asked]:
    """Find the neighbours of some of a result's images.

    Args:
        evidence: The result; both of its banks must be at hand.
        chosen: Rows of its predictions.
        told: What was made of each, in words.
        thumbnails: Takes the pictures.

    Raises:
        BankError: If a bank is damaged.
    """
    bank, query_bank, columns = evidence.bank, evidence.query_bank, evidence.columns
    assert bank is not None
    assert query_bank is not None
    row_of = {index: row for row, index in enumerate(query_bank.index.tolist())}
    there = [
        (row, row_of[int(columns["index"][row])], words)
        for row, words in zip(chosen, told, strict=True)
        if int(columns["index"][row]) in row_of
    ]
    same = bank.fingerprint == query_bank.fingerprint
    rows = [row for _, row, _ in there]
    similarities, found = nearest(bank, rows_of(query_bank, rows), k=NEIGHBOURS + same)
    return [
        _asked(evidence, row, words, similarities[place], found[place], own if same else None, thumbnails)
        for place, (row, own, words) in enumerate(there)
    ]


def _asked(
    evidence: Evidence,
    row: int,
    told: str,
    similarities: Float[Tensor, " neighbour"],
    rows: Int64[Tensor, " neighbour"],
    own: int | None,
    thumbnails: Thumbnails,
) -> Asked:
    columns, bank = evidence.columns, evidence.bank
    assert bank is not None
    label, index = int(columns["label"][row]), int(columns["index"][row])
    key = as_text(str(columns["key"][row]))
    shown: list[Shown] = []
    for similarity, place in zip(similarities.tolist(), rows.tolist(), strict=True):
        if place == own or len(shown) == NEIGHBOURS:
            continue
        same = int(bank.labels[place]) == label
        name = evidence.name_of(int(bank.labels[place]))
        shown.append(
            thumbnails.shown(
                evidence.learnt,
                int(bank.index[place]),
                alt=f"neighbour {len(shown) + 1}, {'right' if same else 'wrong'}: {name}, {as_text(bank.keys[place])}, "
                f"similarity {similarity:.3f}",
                caption=f"{name} {similarity:.3f}",
                mark="right" if same else "wrong",
                importance=IMPORTANCE,
            )
        )
    name = evidence.name_of(label)
    query = thumbnails.shown(evidence.queries, index, alt=f"{name}: {key}", importance=IMPORTANCE_QUERY)
    return Asked(query, key, name, told, shown)
