"""The nearest rows of each query, and their one order: what float32 leaves open is settled in float64."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from carp_eval.features.search.exact import Exhaustive, Rows, dots


class Neighbours(NamedTuple):
    """The nearest rows of each query, the nearest first.

    Attributes:
        similarities: Inner product with each, to float32's rounding, or to float64's among neighbours that are closer
            than that.
        indices: Row of each.
    """

    similarities: Float64[Tensor, "query neighbour"]
    indices: Int64[Tensor, "query neighbour"]


def settle(
    bank: Rows,
    exhaustive: Exhaustive,
    queries: Float32[Tensor, "query dim"],
    rough: Float32[np.ndarray, "query fetched"],
    rows: Int64[np.ndarray, "query fetched"],
    tolerance: Float64[np.ndarray, " query"],
    *,
    k: int,
) -> Neighbours:
    """Bring what float32 found to the order of float64: similarity descending, then row ascending.

    Args:
        bank: The rows.
        exhaustive: Searches the bank where float32 could not tell what to fetch.
        queries: The queries.
        rough: The highest similarities in float32, descending.
        rows: Rows they are of.
        tolerance: How far each query's float32 similarities may be off.
        k: How many to keep of those that were fetched.
    """
    found, close, doubtful = in_order(bank, queries, rough, rows, tolerance)
    if rows.shape[1] < len(bank):
        doubtful |= close[:, k - 1 :].all(axis=1)
    found = Neighbours(found.similarities[:, :k], found.indices[:, :k])
    if doubtful.any():
        again = torch.from_numpy(doubtful.nonzero()[0])
        found.similarities[again], found.indices[again] = exhaustive.nearest(queries[again], k=k)
    return found


def in_order(
    bank: Rows,
    queries: Float32[Tensor, "query dim"],
    rough: Float32[np.ndarray, "query fetched"],
    rows: Int64[np.ndarray, "query fetched"],
    tolerance: Float64[np.ndarray, " query"],
) -> tuple[Neighbours, Bool[np.ndarray, "query gap"], Bool[np.ndarray, " query"]]:
    """Bring what was fetched to the order of float64.

    Args:
        bank: The rows.
        queries: The queries.
        rough: Similarities in float32, descending.
        rows: Rows they are of; they are put in order here.
        tolerance: How far each query's float32 similarities may be off.

    Returns:
        All that was fetched, in order; which of them float32 did not tell from the next one; and which queries had a
        similarity further off than assumed: nothing about them can be trusted.
    """
    similarities = rough.astype(np.float64)
    # Neighbours further apart than both their errors are in the right order; runs of closer ones are not yet.
    close = similarities[:, :-1] - similarities[:, 1:] <= 2 * tolerance[:, None]
    in_run = np.pad(close, ((0, 0), (0, 1))) | np.pad(close, ((0, 0), (1, 0)))
    doubtful = _sort_runs(bank, queries, similarities, rows, in_run, tolerance)
    return Neighbours(torch.from_numpy(similarities), torch.from_numpy(rows)), close, doubtful


def without_self(near: Neighbours, own: Int64[Tensor, " query"]) -> Neighbours:
    """Take each query's own row out of its neighbours, or the last of them where it is not among them.

    Args:
        near: One neighbour more than is wanted.
        own: Each query's row.
    """
    keep = near.indices != own[:, None]
    keep[:, -1] &= ~keep.all(dim=1)
    shape = (len(keep), keep.shape[1] - 1)
    return Neighbours(near.similarities[keep].view(shape), near.indices[keep].view(shape))


def joined(parts: list[Neighbours], *, k: int) -> Neighbours:
    """Put the neighbours of consecutive queries together."""
    if not parts:
        return Neighbours(torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64))
    return Neighbours(
        torch.cat([part.similarities for part in parts]), torch.cat([part.indices for part in parts])
    )


def _sort_runs(
    bank: Rows,
    queries: Float32[Tensor, "query dim"],
    similarities: Float64[np.ndarray, "query fetched"],
    rows: Int64[np.ndarray, "query fetched"],
    in_run: Bool[np.ndarray, "query fetched"],
    tolerance: Float64[np.ndarray, " query"],
) -> Bool[np.ndarray, " query"]:
    """Sort the runs, in place, by float64 similarity, then row.

    A run's values all lie above those of the next, so sorting a query's runs together puts each into its own places.

    Returns:
        Which queries had a float32 similarity further off than assumed: nothing about them can be trusted.
    """
    numbers = in_run.nonzero()[0]
    run_rows = rows[in_run]
    exact = dots(bank, queries, torch.from_numpy(run_rows), torch.from_numpy(numbers)).numpy()
    doubtful = np.zeros(len(rows), dtype=bool)
    doubtful[numbers[np.abs(exact - similarities[in_run]) > tolerance[numbers]]] = True
    order = np.lexsort((run_rows, -exact, numbers))
    similarities[in_run], rows[in_run] = exact[order], run_rows[order]
    return doubtful
