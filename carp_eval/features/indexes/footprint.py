"""The memory that making an index takes, told before any work is done.

Pages of files, which the system may drop at any time, do not count, nor does the program itself. The figures are upper
bounds: what builds took, which `benchmarks/index.py` prints, lay 10 to 40 % below.
"""

from typing import TYPE_CHECKING, Literal

import torch

from carp_eval.errors import UsageError
from carp_eval.features.bank import Bank
from carp_eval.features.search.search_plan import fits, plan_for

if TYPE_CHECKING:
    from carp_eval.features.indexes.choice import Design

GRAPH_LINKS = 32
# FAISS keeps the products of lists and codes, for quick sums, up to so many bytes.
MOST_TABLE_BYTES = 2**31
# Rows that are added at once.
BLOCK_ROWS = 8192
# Buffers of threads, and what goes between C++ and Python.
BESIDE = 2**24
# Of the memory, a part of the lists that grows in it takes a quarter at most, and so does the table.
SHARE = 4
# Largest budget that is looked at.
_MOST = 2**50


def graph_row(width: int) -> int:
    """Return the bytes of a row in a graph: its code, and its links."""
    # Twice the links at the bottom, of four bytes, and a share of those above.
    return width + 2 * GRAPH_LINKS * 4 + 16


def table_of_list(codes: int, bits: int) -> int:
    """Return the bytes of a list's products with all codes."""
    return 4 * codes * 2**bits


def training_row(dim: int, width: int, *, quantised: bool) -> int:
    """Return the bytes that a row takes while it is trained on.

    Args:
        dim: Its width.
        width: That of its principal components.
        quantised: Whether product quantisers are fitted on what is left of it, too.
    """
    # As it is read and scaled; later in principal components, and what the centres leave of them.
    return max(8 * dim, 4 * dim + 12 * width) if quantised else 8 * dim


def training_beside(dim: int, width: int) -> int:
    """Return the bytes that training takes for any number of rows: a covariance and its eigenvectors."""
    return BESIDE + (20 * dim * dim if width < dim else 0)


def ready(design: "Design", rows: int, dim: int) -> int:
    """Return the bytes of memory that a finished index takes to be asked."""
    if design.kind == "flat":
        return 0
    fixed = 4 * design.width * design.lists + (4 * dim * design.width if design.width < dim else 0)
    if design.kind == "hnsw":
        return fixed + rows * design.code_bytes
    table = design.lists * table_of_list(design.codes, design.code_bits) if design.codes else 0
    return fixed + (table if table <= MOST_TABLE_BYTES else 0)


def least_to_fill(kind: Literal["hnsw", "ivf", "ivf-pq"], rows: int, dim: int, width: int) -> int:
    """Return the bytes that adding rows takes at least."""
    block = BESIDE + min(rows, BLOCK_ROWS) * (8 * dim + (8 * width if width < dim else 0))
    if kind == "hnsw":
        # While what it grows in is moved to where there is more room, both are there.
        return block + 2 * rows * graph_row(width)
    return _beside(block, quarters=1 if kind == "ivf" else 2)


def least_to_ask(bank: Bank, *, k: int, queries: int, named: int, beside: int, kind: str) -> int:
    """Return the bytes that finding the recall takes at least.

    Args:
        bank: The bank.
        k: Neighbours of each query, itself included.
        queries: Rows that are asked for.
        named: Candidates of each, at most.
        beside: Bytes of the index itself, but for its table.
        kind: Which sort of index.
    """
    # Numbers and distances of candidates, and which of them are right; those of one query are compared exactly.
    found = queries * 14 * named + 8 * bank.dim * named if kind != "flat" else 8 * bank.dim * k
    least = max(exact_search(bank, k=k, queries=queries), found) + beside
    return _beside(least, quarters=1) if kind == "ivf-pq" else least


def exact_search(bank: Bank, *, k: int, queries: int) -> int:
    """Return the bytes that an exact search takes at least."""
    # Its own plan tells whether a budget does: no second formula that may differ.
    asked = torch.empty(queries, bank.dim, device="meta")
    low, high = 0, _MOST
    while high - low > 1:
        budget = (low + high) // 2
        if _is_enough(bank, asked, k=k, budget=budget):
            high = budget
        else:
            low = budget
    return high


def _is_enough(bank: Bank, asked: torch.Tensor, *, k: int, budget: int) -> bool:
    if fits(bank, asked, budget):
        return True
    try:
        plan_for(bank, asked, k=k, budget=budget)
    except UsageError:
        return False
    return True


def _beside(others: int, *, quarters: int) -> int:
    """Return what leaves so much where some quarters are kept for something else."""
    return -(-others * SHARE // (SHARE - quarters))
