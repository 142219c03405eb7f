"""Candidates compared exactly: true similarities, and one order."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from carp_eval.errors import BankError
from carp_eval.features.bank import Bank
from carp_eval.features.indexes.mapped import MappedRows
from carp_eval.features.memory import default_budget
from carp_eval.features.search.exact import dots
from carp_eval.features.search.in_memory import search
from carp_eval.features.search.neighbours import Neighbours
from carp_eval.features.search.search_plan import fits
from carp_eval.features.search.streamed import search_bank

# Rows read for one step: 256 MiB of them at 2,048 dimensions.
STEP_ROWS = 32_768

Propose = Callable[[Float32[np.ndarray, "query dim"]], Int64[np.ndarray, "query candidate"]]


def nearest(
    rows: MappedRows,
    queries: Float32[Tensor, "query dim"],
    propose: Propose,
    *,
    k: int,
    candidates: int,
    own: Int64[Tensor, " query"] | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Neighbours, Bool[Tensor, " query"]]:
    """Find the k best of the rows that are proposed for each query.

    Args:
        rows: The bank.
        queries: Unit rows.
        propose: Names rows for some queries; -1 is none.
        k: Neighbours of each query.
        candidates: About how many rows it names for each.
        own: For each query a row that is not to be its neighbour.
        progress: Is told of queries done, and of how many.

    Returns:
        The neighbours, similarity descending, then row ascending; and the queries for which fewer than k were named,
        whose neighbours are to be looked for otherwise.

    Raises:
        BankError: If a row is named that there is not, or has a value that is not finite.
    """
    similarities = torch.zeros(len(queries), k, dtype=torch.float64)
    indices = torch.zeros(len(queries), k, dtype=torch.int64)
    short = torch.zeros(len(queries), dtype=torch.bool)
    step = max(1, STEP_ROWS // max(1, candidates))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        named = torch.from_numpy(propose(queries[part].numpy()))
        if own is not None:
            named = named.masked_fill(named == own[part, None], -1)
        # Ascending, so that a stable sort by similarity leaves equals in the order of their rows.
        named = named.sort(dim=1).values
        numbers, places = (named >= 0).nonzero(as_tuple=True)
        distinct, which = named[numbers, places].unique(return_inverse=True)
        if len(distinct) and int(distinct[-1]) >= len(rows):
            raise BankError(
                f"the index names row {int(distinct[-1])} of a bank of {len(rows)}: it is damaged; run `carp bank "
                "index` again"
            )
        exact = torch.full(named.shape, -torch.inf, dtype=torch.float64)
        # A single query may name more rows than are to be in memory.
        for first in range(0, len(distinct), STEP_ROWS):
            own_step = (which >= first) & (which < first + STEP_ROWS)
            query, place = numbers[own_step], places[own_step]
            taken = rows.take(distinct[first : first + STEP_ROWS])
            exact[query, place] = dots(taken, queries[part], which[own_step] - first, query)
        best, order = exact.sort(dim=1, descending=True, stable=True)
        short[part] = (named >= 0).sum(dim=1) < k
        width = min(k, named.shape[1])
        similarities[part, :width] = best[:, :width]
        indices[part, :width] = named.gather(1, order)[:, :width]
        if progress is not None:
            progress(min(start + step, len(queries)), len(queries))
    return Neighbours(similarities, indices), short


def exhaustive(
    bank: Bank,
    rows: MappedRows,
    queries: Float32[Tensor, "query dim"],
    *,
    k: int,
    own: Int64[Tensor, " query"] | None = None,
    memory: int | None = None,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Find the k nearest rows by the exact search, and their similarities in float64, comparable across banks.

    Args:
        bank: The bank.
        rows: Its rows.
        queries: Unit rows.
        k: Neighbours of each query.
        own: For each query a row that is not to be its neighbour.
        memory: Bytes that the search may take; None is a quarter of what there is.
        keep: Whether a bank that fits that memory stays there for the next search, which is then much sooner done.
        progress: Is told of queries done, and of how many.
    """
    wanted = k if own is None else k + 1
    budget = default_budget() if memory is None else memory
    if keep and fits(bank, queries, budget):
        held, longest = bank.held_rows()
        found = search(held, queries, k=wanted, longest=longest, progress=progress)
    else:
        found = search_bank(bank, queries, k=wanted, memory=budget, progress=progress)
    near = found.indices.numpy()
    done = 0

    def next_rows(part: Float32[np.ndarray, "query dim"]) -> Int64[np.ndarray, "query candidate"]:
        nonlocal done
        done += len(part)
        return near[done - len(part) : done]

    return nearest(
        rows, queries, next_rows, k=k, candidates=near.shape[1] if len(near) else k, own=own, progress=None
    )[0]
