"""Exact nearest neighbours by inner product: as fast as float32, as right as float64.

FAISS finds candidates in float32, whose rounding depends on the order of a sum, hence on chunk size and code path, and
may swap near-equals. Here neighbours have one order: similarity in float64 descending, then row ascending. Float32
decides wherever it can; what it cannot tell apart is compared again in float64, for a few per cent of the search.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import faiss
import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.features.rows import lengths
from carp_eval.features.search.exact import Exhaustive, float32_error
from carp_eval.features.search.neighbours import Neighbours, joined, settle, without_self

CHUNK = 1024
# Fetched beyond the k-th neighbour, to see where float32 first tells two rows apart.
MARGIN = 8
# FAISS's GPU indexes return no more (facebookresearch/faiss#2103).
MOST_GPU_NEIGHBOURS = 2048
# FAISS's own 1,024 is too narrow for chunks of a few hundred queries: 5 to 10 % slower on 2 cores.
FAISS_BLOCK_ROWS = 2048

Find = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def search(
    bank: Float32[Tensor, "row dim"],
    queries: Float32[Tensor, "query width"],
    *,
    k: int,
    chunk: int = CHUNK,
    exclude_self: bool = False,
    longest: Float32[Tensor, ""] | None = None,
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
        longest: Length of the bank's longest row, from whoever has searched it before; the bank is then not read
            through once more, which for a single query is most of the time.
        progress: Is told of queries done, and of how many.

    Returns:
        The neighbours: similarity descending, then row ascending.

    Raises:
        UsageError: If there are fewer than k rows to choose from, or widths differ.
        BankError: If a value is not finite; the message numbers the rows.
    """
    check_fits(len(bank), bank.shape[1], queries, k=k, exclude_self=exclude_self)
    if chunk < 1:
        raise UsageError(f"a chunk has at least one query, got {chunk}")
    bank, queries = bank.contiguous(), queries.contiguous()
    if longest is None:
        longest = lengths(bank, "the bank").max()
    tolerance = lengths(queries, "the queries").double() * longest * float32_error(bank.shape[1])
    fetched = min(k + exclude_self + MARGIN, len(bank))
    nearest = partial(
        _nearest, bank, Exhaustive(bank), _finder(bank, fetched), fetched=fetched, k=k + exclude_self
    )
    parts: list[Neighbours] = []
    with faiss_blocks():
        for start in range(0, len(queries), chunk):
            near = nearest(queries[start : start + chunk], tolerance[start : start + chunk].numpy())
            parts.append(
                without_self(near, torch.arange(start, start + len(near.indices))) if exclude_self else near
            )
            if progress is not None:
                progress(min(start + chunk, len(queries)), len(queries))
    return joined(parts, k=k)


def on_gpu(fetched: int) -> bool:
    """Tell whether a GPU index can serve a search for so many neighbours."""
    return (
        hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 and fetched <= MOST_GPU_NEIGHBOURS
    )


def check_fits(
    rows: int, dim: int, queries: Float32[Tensor, "query width"], *, k: int, exclude_self: bool
) -> None:
    """Make sure that a bank can be searched for so many neighbours of such queries.

    Args:
        rows: The bank's rows.
        dim: Their width.
        queries: The queries.
        k: Neighbours of each.
        exclude_self: Whether the queries are the bank's rows.

    Raises:
        UsageError: If there are fewer than k rows to choose from, or widths differ.
    """
    candidates = rows - exclude_self
    if not 1 <= k <= candidates:
        besides = " beside the query itself" if exclude_self else ""
        raise UsageError(
            f"k is {k}, but the bank has {candidates} rows{besides}: choose k from 1 to {candidates}"
        )
    if dim != queries.shape[1]:
        raise UsageError(f"the bank's features are {dim} wide, the queries' {queries.shape[1]}")
    if exclude_self and len(queries) != rows:
        raise UsageError(
            f"queries that leave themselves out must be the bank's {rows} rows, got {len(queries)}"
        )


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
    return settle(bank, exhaustive, queries, rough, rows, tolerance, k=k)


@contextmanager
def faiss_blocks() -> Generator[None]:
    """Have FAISS multiply wider blocks for as long as a search takes: the setting is FAISS's, for the whole process."""
    before = faiss.cvar.distance_compute_blas_database_bs
    faiss.cvar.distance_compute_blas_database_bs = FAISS_BLOCK_ROWS
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_database_bs = before
