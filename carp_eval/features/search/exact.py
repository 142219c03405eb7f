"""Inner products and their order in float64: what the fast search is checked against, and falls back on."""

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from carp_eval.features.stored import StoredRows

FLOAT32_ROUNDING = 2.0**-24
# Pairs are multiplied in slabs whose float64 copies stay in a core's cache.
SLAB_VALUES = 2**18
# Threads are worth their start where each has more slabs than this.
FEWEST_SLABS = 8
# What is looked at together of a bank: 32 MB in float64.
BLOCK_VALUES = 2**22
BLOCK_QUERIES = 256

# A float32 matrix, in memory or on disk.
Rows = Float32[Tensor, "row dim"] | StoredRows


def float32_error(dim: int) -> float:
    """Bound the error of a float32 inner product of two unit vectors, whatever the order of its sum.

    Rounding errors add up like a random walk, to sqrt(dim) roundings, not to the dim of the worst case (Higham and
    Mary, 2019). Seen at 2,048 dimensions: 0.02 to 0.5 of this bound, the most on heavy-tailed features.
    """
    return (math.sqrt(dim) + 4) * FLOAT32_ROUNDING


def dots(
    bank: Rows,
    queries: Float32[Tensor, "query dim"],
    rows: Int64[Tensor, " pair"],
    numbers: Int64[Tensor, " pair"],
    *,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, " pair"]:
    """Return the inner product of each pair of a row and a query.

    Each pair is added up in the same way, wherever it stands: equal vectors give equal bits, which no matrix product
    promises. (Products of float32 values are exact in float64; only the sum rounds.)

    Args:
        bank: The rows.
        queries: The queries.
        rows: The row of each pair.
        numbers: Its query.
        dtype: In which it is multiplied and added up; in float32 it takes a third of the time.
    """
    # From one end of the files to the other: rows that lie together are read together.
    order = rows.argsort()
    rows, numbers = rows[order], numbers[order]
    products = torch.empty(len(rows), dtype=dtype)
    step = max(1, SLAB_VALUES // queries.shape[1])

    def multiply(starts: Sequence[int]) -> None:
        for start in starts:
            slab = slice(start, start + step)
            left = (
                bank.index_select(0, rows[slab]) if isinstance(bank, Tensor) else bank.ascending(rows[slab])
            )
            right = queries.index_select(0, numbers[slab])
            torch.sum(left.to(dtype).mul_(right), dim=1, out=products[slab])

    starts = range(0, len(rows), step)
    lanes = min(torch.get_num_threads(), len(starts) // FEWEST_SLABS)
    if lanes > 1:
        # Slabs are too small to keep several threads busy each.
        with ThreadPoolExecutor(lanes, initializer=partial(torch.set_num_threads, 1)) as pool:
            deque(pool.map(multiply, [starts[number::lanes] for number in range(lanes)]), maxlen=0)
    else:
        multiply(starts)
    return torch.empty_like(products).index_copy_(0, order, products)


class Exhaustive:
    """Nearest neighbours by comparing everything with everything in float64.

    For queries that float32 cannot serve: more rows within its rounding of the k-th than were fetched, as
    when many images are the same or a network has collapsed. Equal rows are compared once.
    """

    def __init__(self, bank: Rows) -> None:
        self.bank = bank
        self._block = max(1, BLOCK_VALUES // (bank.shape[1] if isinstance(bank, Tensor) else bank.dim))

    @cached_property
    def groups(self) -> tuple[Int64[Tensor, " group"], list[Int64[np.ndarray, "_"]] | None]:
        """The first row of each group of equal rows, and each group's rows; None if no two are equal."""
        numbers: dict[bytes, int] = {}
        group = np.empty(len(self.bank), dtype=np.int64)
        for start in range(0, len(self.bank), self._block):
            block = self._rows(torch.arange(start, min(start + self._block, len(self.bank))))
            for row, values in enumerate(block.numpy(), start=start):
                digest = hashlib.blake2b(values.data, digest_size=16).digest()
                group[row] = numbers.setdefault(digest, len(numbers))
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(len(numbers)))
        members = np.split(order, starts[1:]) if len(numbers) < len(self.bank) else None
        return torch.from_numpy(order[starts]), members

    def _rows(self, numbers: Int64[Tensor, " row"]) -> Float32[Tensor, "row dim"]:
        return (
            self.bank.index_select(0, numbers) if isinstance(self.bank, Tensor) else self.bank.take(numbers)
        )

    def nearest(
        self, queries: Float32[Tensor, "query dim"], *, k: int
    ) -> tuple[Float64[Tensor, "query neighbour"], Int64[Tensor, "query neighbour"]]:
        """Return similarities and rows of the k nearest: similarity descending, then row ascending."""
        parts = [self._slab(slab, k) for slab in queries.split(BLOCK_QUERIES)]
        similarities, rows = zip(*parts, strict=True)
        return torch.cat(similarities), torch.cat(rows)

    def _slab(
        self, queries: Float32[Tensor, "query dim"], k: int
    ) -> tuple[Float64[Tensor, "query neighbour"], Int64[Tensor, "query neighbour"]]:
        firsts, members = self.groups
        wide = queries.double()
        best = torch.empty(len(queries), 0, dtype=torch.float64)
        rows = torch.empty(len(queries), 0, dtype=torch.int64)
        for block in firsts.split(self._block):
            similarities = torch.cat([best, wide @ self._rows(block).double().T], dim=1)
            among = torch.cat([rows, block.expand(len(queries), -1)], dim=1)
            # Stable, and earlier rows stand first: of equals, the lower row stays.
            best, order = similarities.sort(dim=1, descending=True, stable=True)
            best, rows = best[:, :k], among.gather(1, order[:, :k])
        # The k best groups hold the k best rows: the first row of each comes before all rows of any other group.
        numbers = torch.arange(len(queries)).repeat_interleave(rows.shape[1])
        best = dots(self.bank, queries, rows.flatten(), numbers).view_as(best)
        if members is None:
            return _ordered(best, rows, k)
        number_of = {int(first): number for number, first in enumerate(firsts)}
        expanded = [_with_equals(b, r, members, number_of, k) for b, r in zip(best, rows, strict=True)]
        return torch.cat([similarity for similarity, _ in expanded]), torch.cat([row for _, row in expanded])


def _with_equals(
    best: Float64[Tensor, " group"],
    firsts: Int64[Tensor, " group"],
    members: list[Int64[np.ndarray, "_"]],
    number_of: dict[int, int],
    k: int,
) -> tuple[Float64[Tensor, "1 neighbour"], Int64[Tensor, "1 neighbour"]]:
    """Put each group's rows in the place of its first, and keep the k nearest."""
    equals = [members[number_of[first]][:k] for first in firsts.tolist()]
    counts = torch.tensor([len(rows) for rows in equals])
    rows = torch.from_numpy(np.concatenate(equals))
    return _ordered(best.repeat_interleave(counts)[None], rows[None], k)


def _ordered(
    similarities: Float64[Tensor, "query candidate"], rows: Int64[Tensor, "query candidate"], k: int
) -> tuple[Float64[Tensor, "query neighbour"], Int64[Tensor, "query neighbour"]]:
    """Sort by similarity descending, then row ascending, and keep the first k."""
    rows, by_row = rows.sort(dim=1)
    similarities, order = similarities.gather(1, by_row).sort(dim=1, descending=True, stable=True)
    return similarities[:, :k], rows.gather(1, order)[:, :k]
