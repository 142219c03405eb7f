"""Class retrieval: the bank ranked by similarity to each query; an image of the query's class is a right one."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from carp_eval.cards.retrieval import RetrievalCard
from carp_eval.errors import UsageError
from carp_eval.evaluation.job import Bar, no_bar
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.rows import lengths, plain_rows, unit_rows
from carp_eval.metrics import bootstrap, ranking
from carp_eval.results import Score

# Similarities held at once, in float64, and rows of the bank widened to float64 for a product.
CHUNK_VALUES = 2**24
BLOCK_ROWS = 4096
# Of the product of lengths. Above float64's rounding at any width in use, far below what two images differ by: images
# that are the same tie, whatever order their products were added up in.
TOLERANCE = 1e-12


class Retrieved(NamedTuple):
    """Each query's scores, in [0, 1]; NaN where the bank has no image of its class.

    Attributes:
        average_precision: The area under precision over recall.
        r_precision: Share of right images among as many as there are right ones.
        recall: For each k, whether a right image is among the first k.
    """

    average_precision: Float64[np.ndarray, " query"]
    r_precision: Float64[np.ndarray, " query"]
    recall: dict[int, Float64[np.ndarray, " query"]]

    @property
    def judged(self) -> Bool[np.ndarray, " query"]:
        """Which queries have a right image in the bank."""
        return ~np.isnan(self.average_precision)


def retrieve(
    bank: Float32[Tensor, "row dim"],
    labels: Int64[Tensor, " row"],
    queries: Float32[Tensor, "query dim"],
    query_labels: Int64[Tensor, " query"],
    *,
    k: Iterable[int],
    chunk: int | None = None,
    exclude_self: bool = False,
    progress: Progress | None = None,
) -> Retrieved:
    """Rank the whole bank for each query and score the ranking.

    Similarities are float64's: an average over whole rankings would show float32's swaps.

    Args:
        bank: The features that are ranked.
        labels: Their classes.
        queries: What they are ranked for.
        query_labels: Their classes.
        k: Where recall is looked at.
        chunk: Queries compared with the bank at a time; None is from the memory that takes. It moves no score.
        exclude_self: Whether query i is row i of the bank, and left out of its own ranking.
        progress: Is told of queries done, and of how many.

    Raises:
        UsageError: If there are fewer than k rows, a row or query has no label, or no query has a right image.
        BankError: If a feature is not finite.
    """
    numbers = sorted(set(k))
    _check(labels, query_labels, largest=numbers[-1], exclude_self=exclude_self)
    tolerance = lengths(queries, "the queries").double() * lengths(bank, "the bank").max() * TOLERANCE
    found = np.full((len(queries), 2 + len(numbers)), np.nan)
    classes, wanted = labels.numpy(), query_labels.numpy()
    step = chunk or max(1, CHUNK_VALUES // len(bank))
    for start in range(0, len(queries), step):
        for offset, scores in enumerate(_similarities(bank, queries[start : start + step]).numpy()):
            query = start + offset
            relevant = classes == wanted[query]
            if exclude_self:
                scores, relevant = np.delete(scores, query), np.delete(relevant, query)
            if relevant.any():
                ranked = ranking.ranked(scores, relevant, tolerance=float(tolerance[query]))
                found[query] = [
                    ranking.average_precision(ranked),
                    ranking.r_precision(ranked),
                    *(ranking.recall_at(ranked, number) for number in numbers),
                ]
        if progress is not None:
            progress(min(start + step, len(queries)), len(queries))
    if np.isnan(found).all():
        raise UsageError(
            f"none of {len(queries)} queries has an image of its class in the bank: there is nothing to find"
        )
    return Retrieved(found[:, 0], found[:, 1], dict(zip(numbers, found.T[2:], strict=True)))


def run(card: RetrievalCard, bank: Bank, queries: Bank, seed: int, *, bar: Bar = no_bar) -> Outcome:
    """Retrieve images of each query's class.

    Args:
        card: The protocol.
        bank: Labelled images that are ranked.
        queries: Labelled images to rank them for; where they are the bank itself, no image is ranked for itself.
        seed: Of the bootstrap.
        bar: Is told of queries done.

    Raises:
        UsageError: If there are fewer rows than the largest k, images lack labels, or there is nothing to find.
        BankError: If the banks are of different models or settings, or a feature is not finite.
    """
    bank.check_comparable(queries)
    same = bank.fingerprint == queries.fingerprint
    rows = unit_rows if card.normalise else plain_rows
    found = retrieve(
        rows(bank.shards()),
        bank.labels,
        rows(queries.shards()),
        queries.labels,
        k=card.k,
        exclude_self=same,
        progress=bar("rankings"),
    )
    judged = found.judged
    scores = [
        _score("map", found.average_precision[judged], seed=seed),
        _score("r_precision", found.r_precision[judged], seed=seed),
        *(_score("recall", hits[judged], seed=seed, k=k) for k, hits in found.recall.items()),
    ]
    predictions = {
        "average_precision": found.average_precision,
        "r_precision": found.r_precision,
        **{f"recall_k{k}": hits for k, hits in found.recall.items()},
    }
    without = int((~judged).sum())
    return Outcome(
        scores=tuple(scores),
        predictions=predictions,
        notes=tuple(_notes(without, len(queries), same=same)),
        counts={"queries_without_class": without},
    )


def _check(
    labels: Int64[Tensor, " row"], query_labels: Int64[Tensor, " query"], *, largest: int, exclude_self: bool
) -> None:
    for what, given in (("rows of the bank", labels), ("queries", query_labels)):
        unlabelled = int((given < 0).sum())
        if unlabelled:
            raise UsageError(
                f"{unlabelled} of {len(given)} {what} have no label: whether they belong together cannot be told"
            )
    if exclude_self and len(labels) != len(query_labels):
        raise UsageError(
            f"queries that leave themselves out must be the bank's {len(labels)} rows, got {len(query_labels)}"
        )
    candidates = len(labels) - exclude_self
    if largest > candidates:
        besides = " beside the query itself" if exclude_self else ""
        raise UsageError(
            f"k is {largest}, but the bank has {candidates} rows{besides}: choose k from 1 to {candidates}"
        )


def _similarities(
    bank: Float32[Tensor, "row dim"], queries: Float32[Tensor, "query dim"]
) -> Float64[Tensor, "query row"]:
    """Return all inner products in float64, without a float64 copy of the bank."""
    wide = queries.double()
    similarities = torch.empty(len(queries), len(bank), dtype=torch.float64)
    for start in range(0, len(bank), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        similarities[:, block] = wide @ bank[block].double().T
    return similarities


def _score(metric: str, values: Float64[np.ndarray, " query"], *, seed: int, k: int | None = None) -> Score:
    low, high = bootstrap.mean_interval(values, seed=seed)
    return Score(
        metric=metric,
        value=float(values.mean()) * 100,
        low=low * 100,
        high=high * 100,
        settings={} if k is None else {"k": k},
    )


def _notes(without: int, count: int, *, same: bool) -> Sequence[str]:
    notes: list[str] = []
    if same:
        notes.append("bank and queries are the same images: no image was ranked for itself")
    if without:
        notes.append(
            f"{without} of {count} queries have no image of their class in the bank, and were left out"
        )
    return notes
