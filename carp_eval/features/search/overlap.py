"""How many of the neighbours that a faster search found are those of the exact one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.features.bank import Bank
from carp_eval.features.search.neighbours import Neighbours, without_self
from carp_eval.features.search.streamed import search_bank

SAMPLE = 100


class Overlap(NamedTuple):
    """A measured share.

    Attributes:
        right: Of the neighbours, those that the exact search finds too.
        queries: How many queries were looked at.
    """

    right: float
    queries: int


def measured_overlap(
    bank: Bank,
    queries: Float32[Tensor, "query dim"],
    found: Neighbours,
    *,
    normalise: bool = True,
    memory: int | None = None,
    exclude_self: bool = False,
    bar: Callable[[int, int], None] | None = None,
) -> Overlap:
    """Hold the neighbours of a sample of the queries, evenly spaced, against the exact ones.

    Args:
        bank: What was searched.
        queries: All queries.
        found: Their neighbours.
        normalise: Whether the bank's rows are scaled to length one.
        memory: Bytes that the exact search may take; None is a quarter of what there is.
        exclude_self: Whether query i is row i of the bank, and no neighbour of itself.
        bar: Is told how far the exact search is.

    Raises:
        UsageError: If the memory is too little.
    """
    numbers = torch.arange(0, len(queries), max(1, len(queries) // SAMPLE))
    k = found.indices.shape[1]
    exact = search_bank(
        bank, queries[numbers], k=k + exclude_self, normalise=normalise, memory=memory, progress=bar
    )
    if exclude_self:
        exact = without_self(exact, numbers)
    pairs = zip(exact.indices, found.indices[numbers], strict=True)
    right = sum(int(torch.isin(wanted, got).sum()) for wanted, got in pairs)
    return Overlap(right / exact.indices.numel(), len(numbers))
