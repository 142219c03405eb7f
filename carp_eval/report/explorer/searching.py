"""What is nearest to a query: by an index where a bank has one, else exactly, in memory or from the disk."""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.errors import BankError
from carp_eval.features import memory as memory_of
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes.index import Index
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.in_memory import search
from carp_eval.features.search.neighbours import Neighbours, without_self
from carp_eval.features.search.streamed import search_bank
from carp_eval.report.parts.neighbours import rows_of

BYTES_OF_FLOAT32 = 4


@dataclass(frozen=True)
class Answer:
    """What a search found.

    Attributes:
        near: The neighbours of each query.
        milliseconds: How long it took.
    """

    near: Neighbours
    milliseconds: float


class Searcher:
    """Searches one bank.

    Attributes:
        bank: The bank.
        kind: How it is searched, in words.
        is_streamed: Whether every search reads the whole bank from the disk, however few its queries.
    """

    def __init__(self, bank: Bank, *, memory: int | None = None, approximate: bool = True) -> None:
        """Choose how to search.

        Args:
            bank: The bank.
            memory: Bytes that a search may take; None is a quarter of this machine's.
            approximate: Whether to use the bank's index, where it has one.
        """
        self.bank = bank
        self._memory = memory_of.default_budget() if memory is None else memory
        self._index = _index_of(bank) if approximate else None
        in_memory = len(bank) * bank.dim * BYTES_OF_FLOAT32 <= self._memory
        self.is_streamed = self._index is None and not in_memory
        if self._index is not None:
            record = self._index.record
            self.kind = (
                f"approximate, by the bank's {record.design.kind} index (recall {record.recall.value:.1%})"
            )
        elif in_memory:
            self.kind = "exact, in memory"
        else:
            self.kind = "exact, streamed from the disk"

    def near(
        self, queries: Float32[Tensor, "query dim"], *, k: int, progress: Progress | None = None
    ) -> Answer:
        """Find the nearest rows.

        Args:
            queries: Of any length.
            k: Neighbours of each; fewer where there are fewer rows.
            progress: Is told how far it is, in queries, and of how many.

        Raises:
            BankError: If a shard is missing or cut short, or a value is not finite.
        """
        began = time.perf_counter()
        k = min(k, len(self.bank))
        if self._index is not None:
            near = self._index.search(queries, k=k, memory=self._memory, progress=progress)
        else:
            near = self._exact(queries, k=k, progress=progress)
        return Answer(near, (time.perf_counter() - began) * 1000)

    def others(self, rows: list[int], *, k: int, progress: Progress | None = None) -> Answer:
        """Find the rows nearest to some of the bank's own, themselves left out.

        Args:
            rows: Their numbers.
            k: Neighbours of each; fewer where there are fewer other rows.
            progress: Is told how far it is, in queries, and of how many.

        Raises:
            BankError: If a shard is missing or cut short, or a value is not finite.
        """
        began = time.perf_counter()
        k, own = min(k, len(self.bank) - 1), torch.tensor(rows)
        queries = rows_of(self.bank, rows)
        if self._index is not None:
            near = self._index.search(queries, k=k, own=own, memory=self._memory, progress=progress)
        else:
            near = without_self(self._exact(queries, k=k + 1, progress=progress), own)
        return Answer(near, (time.perf_counter() - began) * 1000)

    def _exact(
        self, queries: Float32[Tensor, "query dim"], *, k: int, progress: Progress | None
    ) -> Neighbours:
        asked = unit_rows([queries])
        if self.is_streamed:
            return search_bank(self.bank, asked, k=k, memory=self._memory, progress=progress)
        # The bank is read once, where memory holds it, and kept for the next query.
        rows, longest = self.bank.held_rows()
        return search(rows, asked, k=k, longest=longest, progress=progress)


def _index_of(bank: Bank) -> Index | None:
    """Open a bank's index, where it has one that is whole and says that its answers are not exact."""
    try:
        index = Index.open(bank)
    except BankError:
        return None
    return None if index.record.design.kind == "flat" else index
