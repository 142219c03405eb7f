"""The nearest rows of each query so far, while a bank passes by slab by slab.

What finds them need not be right to the last bit: it keeps more than are wanted, which are then put in order in
float64 (`neighbours`).
"""

from abc import ABC, abstractmethod

import faiss
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor
from torch.nn import functional

# Rows that are multiplied together where no library fuses the product with the choice: 64 MB of bf16 products.
BLOCK_ROWS = 8192
# Rows that are looked at together.
GROUP = 64


class Best:
    """The rows of the highest similarity that each query has met, the highest first.

    Attributes:
        similarities: Of each row to the query; minus infinity where no row was met yet.
        rows: Their numbers.
    """

    def __init__(
        self, similarities: Float32[Tensor, "query fetched"], rows: Int64[Tensor, "query fetched"]
    ) -> None:
        self.similarities = similarities
        self.rows = rows

    @classmethod
    def none_yet(cls, queries: int, fetched: int, *, device: torch.device) -> "Best":
        """Begin without a row."""
        return cls(
            torch.full((queries, fetched), -torch.inf, device=device),
            torch.full((queries, fetched), -1, dtype=torch.int64, device=device),
        )

    def part(self, queries: slice) -> "Best":
        """Return those of some queries: what is added to them is added here."""
        return Best(self.similarities[queries], self.rows[queries])

    def add(self, similarities: Float[Tensor, "query found"], rows: Int64[Tensor, "query found"]) -> None:
        """Look at more rows of each query, and keep the best of all."""
        width = self.rows.shape[1]
        among = torch.cat([self.similarities, similarities.float()], dim=1)
        torch.topk(among, width, dim=1, out=(self.similarities, order := torch.empty_like(self.rows)))
        self.rows.copy_(torch.cat([self.rows, rows], dim=1).gather(1, order))

    def above(
        self, products: Float[Tensor, "query row"], *, first: int
    ) -> tuple[Float[Tensor, "query found"], Int64[Tensor, "query found"]]:
        """Return those of a block of consecutive rows that may be among the best: a few, once some blocks have passed.

        Args:
            products: Similarity of every query to every row of the block.
            first: The first row's number.

        Returns:
            Similarities, minus infinity where a query has no more; and rows.
        """
        worst = self.similarities[:, -1:].to(products.dtype)
        rest = -products.shape[1] % GROUP
        padded = functional.pad(products, (0, rest), value=-torch.inf) if rest else products
        grouped = padded.unflatten(1, (-1, GROUP))
        # Most groups of rows have none: their highest tells, at a fraction of the cost of looking at each.
        query, group = (grouped.amax(dim=2) > worst).nonzero(as_tuple=True)
        if 2 * GROUP * len(query) <= products.numel():
            within, place = (grouped[query, group] > worst[query]).nonzero(as_tuple=True)
            query, row = query[within], group[within] * GROUP + place
            counts = torch.bincount(query, minlength=len(products))
            most = int(counts.max())
            if most <= self.rows.shape[1]:
                place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
                found = torch.full((len(products), most), -torch.inf, device=products.device)
                rows = torch.full_like(found, -1, dtype=torch.int64)
                found[query, place], rows[query, place] = products[query, row].float(), row + first
                return found, rows
        found, places = products.topk(min(self.rows.shape[1], products.shape[1]), dim=1)
        return found.float(), places + first


class Finder(ABC):
    """Multiplies queries with a slab of the bank, and keeps the best.

    Attributes:
        device: Where it works, and where the best must be.
        learnt: What it must know of all slabs, those included that it met before it was stopped.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.learnt: dict[str, Tensor] = {}

    @abstractmethod
    def load(self, slab: Float32[Tensor, "row dim"], *, first: int) -> None:
        """Make the next slab ready, whose first row has this number; it may be written over."""

    @abstractmethod
    def look(self, queries: slice, best: Best) -> None:
        """Show some queries the slab; `best` are theirs."""


class FaissFinder(Finder):
    """In float32 on the processor, by FAISS, which chooses from each block of products while a cache holds it."""

    def __init__(self, queries: Float32[Tensor, "query dim"]) -> None:
        super().__init__(torch.device("cpu"))
        self._queries = queries
        self._slab, self._first = queries[:0], 0

    def load(self, slab: Float32[Tensor, "row dim"], *, first: int) -> None:
        """Make the next slab ready."""
        self._slab, self._first = slab, first

    def look(self, queries: slice, best: Best) -> None:
        """Show some queries the slab."""
        found, rows = faiss.knn(
            self._queries[queries].numpy(),
            self._slab.numpy(),
            min(best.rows.shape[1], len(self._slab)),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        best.add(torch.from_numpy(found), torch.from_numpy(rows) + self._first)


class TorchFinder(Finder):
    """By torch, whose products are chosen from block by block."""

    def __init__(
        self, queries: Float32[Tensor, "query dim"], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(device)
        self._queries = queries.to(device, dtype)
        self._slab: Shaped[Tensor, "row dim"] = self._queries[:0]
        self._first = 0
        # New memory for each block would be cleared by the system each time.
        self._products = torch.empty(0, device=device, dtype=dtype)

    def load(self, slab: Float32[Tensor, "row dim"], *, first: int) -> None:
        """Make the next slab ready."""
        # The last one goes before the next comes: there is memory for one.
        self._slab = self._queries[:0]
        self._slab = slab.to(self.device, self._queries.dtype, non_blocking=True)
        self._first = first

    def look(self, queries: slice, best: Best) -> None:
        """Show some queries the slab."""
        asked = self._queries[queries]
        met: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(self._slab), BLOCK_ROWS):
            rows = self._slab[start : start + BLOCK_ROWS]
            if self._products.numel() < len(asked) * len(rows):
                self._products = self._products.new_empty(len(asked) * len(rows))
            products = self._products[: len(asked) * len(rows)].view(len(asked), len(rows))
            torch.mm(asked, rows.T, out=products)
            met.append(best.above(products, first=self._first + start))
            # To put them in order is dear, and best done for many.
            if sum(found.shape[1] for found, _ in met) >= best.rows.shape[1]:
                best.add(*_beside(met))
                met.clear()
        if met:
            best.add(*_beside(met))


def _beside(met: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([found for found, _ in met], dim=1), torch.cat([rows for _, rows in met], dim=1)
