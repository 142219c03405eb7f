"""How an exact search of a bank is cut to the memory it may take, and by what products."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.features.bank import Bank
from carp_eval.features.search import bf16
from carp_eval.features.search.exact import BLOCK_VALUES
from carp_eval.features.search.in_memory import MARGIN

SearchPrecision = Literal["exact", "bf16"]
Products = Literal["float32", "bf16"]

# More rows at once are no faster; fewer are less to do again after a kill.
MOST_SLAB_ROWS = 32768
FEWEST_SLAB_ROWS = 256
# Queries that look at a slab together: more are no faster, fewer tell more often how far it is.
QUERIES_AT_ONCE = 4096
# Fetched beyond the k-th neighbour, and beyond half of k more, where bf16 chooses: it reorders more than float32 does.
BF16_MARGIN = 64
# What is fetched is compared again: one row costs what bf16 saves on some 400.
ROWS_A_CANDIDATE = 1000
# Fewer queries cost less than the reading of the bank.
FEWEST_QUERIES = 1024
# Of a query and a row that was fetched for it, until they are in order: numbers and similarities, sorted and not.
SETTLED_BYTES = 100


@dataclass(frozen=True)
class Plan:
    """How a search is cut to fit into memory.

    Attributes:
        fetched: Rows that are kept of each query until float64 has settled their order.
        slab_rows: Rows of the bank that are held in float32, twice.
        products: What chooses them.
        settled: Queries that are put in order at once.
    """

    fetched: int
    slab_rows: int
    products: Products = "float32"
    settled: int = 1024


def fits(bank: Bank, queries: Float32[Tensor, "query dim"], budget: int) -> bool:
    """Tell whether a bank can be searched in memory, as a float32 matrix beside the queries."""
    return 4 * bank.dim * (len(bank) + len(queries)) <= budget


def by_bf16(
    bank: Bank, queries: Float32[Tensor, "query dim"], *, k: int, budget: int, device: torch.device
) -> bool:
    """Tell whether an exact search is sooner done if bf16 chooses what float64 puts in order."""
    return (
        len(bank) >= ROWS_A_CANDIDATE * _fetched(k, "bf16")
        and len(queries) >= FEWEST_QUERIES
        and _least(bank, *_sizes(bank, queries, k, "bf16")) <= budget
        and bf16.is_faster(device, bank.dim)
    )


def plan_for(
    bank: Bank,
    queries: Float32[Tensor, "query dim"],
    *,
    k: int,
    budget: int,
    products: Products = "float32",
) -> Plan:
    """Cut a search to the memory it may take.

    Args:
        bank: The rows to choose from.
        queries: The queries.
        k: Neighbours of each, itself included.
        budget: Bytes that the search may take.
        products: What chooses candidates.

    Raises:
        UsageError: If that is too little for queries, running neighbours and the smallest slab.
    """
    beside, of_row = _sizes(bank, queries, k, products)
    least = _least(bank, beside, of_row)
    if budget < least:
        raise UsageError(
            f"{budget / 1e6:,.1f} MB of memory are too little to search for {k} neighbours of {len(queries)} queries "
            f"of {bank.dim} dimensions: give {math.ceil(least / 1e5) / 10:,.1f} MB or more (--memory)"
        )
    fetched = min(_fetched(k, products), len(bank))
    slab_rows = min((budget - beside) // of_row, MOST_SLAB_ROWS, len(bank))
    # Slabs in float32 are gone by then. The more at once, the less often the bank is read again.
    settled = max(1, 8 * bank.dim * slab_rows // (SETTLED_BYTES * fetched))
    return Plan(fetched, slab_rows, products, settled)


def _fetched(k: int, products: Products) -> int:
    return k + MARGIN if products == "float32" else k + BF16_MARGIN + k // 2


def _sizes(bank: Bank, queries: Float32[Tensor, "query dim"], k: int, products: Products) -> tuple[int, int]:
    """Return the bytes that a search takes beside its slabs, and those of a slab's row."""
    fetched = min(_fetched(k, products), len(bank))
    wide = 4 if products == "float32" else 6
    # Of each query: its features; what was found so far, twice while more is added; its neighbours at last.
    together = min(len(queries), QUERIES_AT_ONCE)
    of_queries = len(queries) * (wide * bank.dim + 12 * fetched + 16 * k) + 60 * fetched * together
    # Two slabs, one of which may be a third time in bf16; what is converted or settled at once.
    return of_queries + 20 * BLOCK_VALUES, (wide + 4) * bank.dim


def _least(bank: Bank, beside: int, of_row: int) -> int:
    return beside + min(FEWEST_SLAB_ROWS, len(bank)) * of_row
