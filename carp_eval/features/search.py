"""Exact nearest neighbours by inner product: as fast as float32, as right as float64.

FAISS finds candidates in float32, whose rounding depends on the order of a sum, hence on chunk size and code path, and
may swap near-equals. Here neighbours have one order: similarity in float64 descending, then row ascending. Float32
decides wherever it can; what it cannot tell apart is compared again in float64, for a few per cent of the search.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.features.exact import Exhaustive, dots, float32_error
from carp_eval.features.rows import lengths

CHUNK = 1024
# Fetched beyond the k-th neighbour, to see where float32 first tells two rows apart.
MARGIN = 8
# FAISS's GPU indexes return no more (facebookresearch/faiss#2103).
MOST_GPU_NEIGHBOURS = 2048
# FAISS's own 1,024 is too narrow for chunks of a few hundred queries: 5 to 10 % slower on 2 cores.
FAISS_BLOCK_ROWS = 2048

Find = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Neighbours(NamedTuple):
    """The nearest rows of each query, the nearest first.

    Attributes:
        similarities: Inner product with each, to float32's rounding, or to float64's among neighbours that are closer
            than that.
        indices: Row of each.
    """

    similarities: Float64[Tensor, "query neighbour"]
    indices: Int64[Tensor, "query neighbour"]


def search(
    bank: Float32[Tensor, "row dim"],
    queries: Float32[Tensor, "query width"],
    *,
    k: int,
    chunk: int = CHUNK,
    exclude_self: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Find the k rows of the bank with the largest inner product with each query.

    A query of zeros is equally near to every row: its neighbours are the first k.

    Args:
        bank: The rows to choose from.
        queries: What to find the neighbours of.
        k: Neighbours of each query.
        chunk: Queries in one pass over the bank: more is faster and takes more memory; it moves no neighbour.
        exclude_self: Whether query i is row i of the bank, and no neighbour of itself.
        progress: Is told of queries done, and of how many.

    Returns:
        The neighbours: similarity descending, then row ascending.

    Raises:
        UsageError: If there are fewer than k rows to choose from, or widths differ.
        BankError: If a value is not finite; the message numbers the rows.
    """
    _check(bank, queries, k=k, chunk=chunk, exclude_self=exclude_self)
    bank, queries = bank.contiguous(), queries.contiguous()
    longest = lengths(bank, "the bank").max()
    tolerance = lengths(queries, "the queries").double() * longest * float32_error(bank.shape[1])
    fetched = min(k + exclude_self + MARGIN, len(bank))
    nearest = partial(
        _nearest, bank, Exhaustive(bank), _finder(bank, fetched), fetched=fetched, k=k + exclude_self
    )
    parts: list[Neighbours] = []
    with _faiss_blocks():
        for start in range(0, len(queries), chunk):
            near = nearest(queries[start : start + chunk], tolerance[start : start + chunk].numpy())
            parts.append(_without_self(near, first=start) if exclude_self else near)
            if progress is not None:
                progress(min(start + chunk, len(queries)), len(queries))
    if not parts:
        return Neighbours(torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64))
    return Neighbours(
        torch.cat([part.similarities for part in parts]), torch.cat([part.indices for part in parts])
    )


def on_gpu(fetched: int) -> bool:
    """Tell whether a GPU index can serve a search for so many neighbours."""
    return (
        hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 and fetched <= MOST_GPU_NEIGHBOURS
    )


def _check(bank: Tensor, queries: Tensor, *, k: int, chunk: int, exclude_self: bool) -> None:
    candidates = len(bank) - exclude_self
    if not 1 <= k <= candidates:
        besides = " beside the query itself" if exclude_self else ""
        raise UsageError(
            f"k is {k}, but the bank has {candidates} rows{besides}: choose k from 1 to {candidates}"
        )
    if bank.shape[1] != queries.shape[1]:
        raise UsageError(f"the bank's features are {bank.shape[1]} wide, the queries' {queries.shape[1]}")
    if exclude_self and len(queries) != len(bank):
        raise UsageError(
            f"queries that leave themselves out must be the bank's {len(bank)} rows, got {len(queries)}"
        )
    if chunk < 1:
        raise UsageError(f"a chunk has at least one query, got {chunk}")


def _finder(bank: Float32[Tensor, "row dim"], fetched: int) -> Find:
    """Return the float32 search: FAISS on all GPUs where it can, else on the processor, without a copy of the bank."""
    if on_gpu(fetched):
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.IndexFlatIP(bank.shape[1])
        index.add(bank.numpy())
        return faiss.index_cpu_to_all_gpus(index, co=options).search
    return lambda queries, k: faiss.knn(queries, bank.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)


def _nearest(
    bank: Float32[Tensor, "row dim"],
    exhaustive: Exhaustive,
    find: Find,
    queries: Float32[Tensor, "query dim"],
    tolerance: Float64[np.ndarray, " query"],
    *,
    fetched: int,
    k: int,
) -> Neighbours:
    """Find one chunk's neighbours in float32, and decide in float64 what that leaves open."""
    rough, rows = find(queries.numpy(), fetched)
    similarities = rough.astype(np.float64)
    # Neighbours further apart than both their errors are in the right order; runs of closer ones are not yet.
    close = similarities[:, :-1] - similarities[:, 1:] <= 2 * tolerance[:, None]
    in_run = np.pad(close, ((0, 0), (0, 1))) | np.pad(close, ((0, 0), (1, 0)))
    doubtful = _settle(bank, queries, similarities, rows, in_run, tolerance)
    if fetched < len(bank):
        doubtful |= close[:, k - 1 :].all(axis=1)
    found = Neighbours(torch.from_numpy(similarities[:, :k]), torch.from_numpy(rows[:, :k]))
    if doubtful.any():
        again = torch.from_numpy(doubtful.nonzero()[0])
        found.similarities[again], found.indices[again] = exhaustive.nearest(queries[again], k=k)
    return found


def _settle(
    bank: Float32[Tensor, "row dim"],
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


def _without_self(near: Neighbours, *, first: int) -> Neighbours:
    """Take query i out of its own neighbours, or the last of them where it is not among them."""
    own = torch.arange(first, first + len(near.indices))
    keep = near.indices != own[:, None]
    keep[:, -1] &= ~keep.all(dim=1)
    shape = (len(keep), keep.shape[1] - 1)
    return Neighbours(near.similarities[keep].view(shape), near.indices[keep].view(shape))


@contextmanager
def _faiss_blocks() -> Generator[None]:
    """Multiply wider blocks for as long as a search takes: the setting is FAISS's, for the whole process."""
    before = faiss.cvar.distance_compute_blas_database_bs
    faiss.cvar.distance_compute_blas_database_bs = FAISS_BLOCK_ROWS
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_database_bs = before
