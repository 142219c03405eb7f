"""A bank's rows where they lie on disk: read by number or block by block, never all at once."""

from collections.abc import Generator

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from carp_eval.features.bank import Bank
from carp_eval.features.rows import unit_rows


class MappedRows:
    """Rows of a bank as unit vectors in float32, converted when they are asked for.

    Nothing is read before that: a single query against a large bank must not wait for a look at every row.

    Attributes:
        shards: The features as they are stored, mapped into memory.
        starts: Number of the first row of each shard, and behind them the number of rows.
    """

    def __init__(self, bank: Bank) -> None:
        """Map a bank's shards.

        Raises:
            BankError: If a shard is missing, cut short or not readable.
        """
        self.shards = bank.shards()
        self.dim = bank.dim
        self.starts = torch.tensor([0, *map(len, self.shards)]).cumsum(dim=0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, rows: Int64[Tensor, " row"]) -> Float32[Tensor, "row dim"]:
        """Read rows by their numbers, in any order.

        Raises:
            BankError: If a value is not finite.
        """
        taken = torch.empty(len(rows), self.dim)
        # A file is read forwards, whatever the order of the numbers.
        ascending, order = rows.sort()
        ends = torch.searchsorted(ascending, self.starts).tolist()
        for shard, start, low, high in zip(
            self.shards, self.starts.tolist(), ends[:-1], ends[1:], strict=False
        ):
            if high > low:
                taken[order[low:high]] = shard.index_select(0, ascending[low:high] - start).float()
        return unit_rows([taken])

    def blocks(
        self, size: int, *, start: int, stop: int
    ) -> Generator[tuple[int, Float32[Tensor, "block dim"]]]:
        """Read rows from `start` to before `stop` in blocks, each with the number of its first.

        Raises:
            BankError: If a value is not finite.
        """
        for first, shard in zip(self.starts.tolist(), self.shards, strict=False):
            low, high = max(start - first, 0), min(stop - first, len(shard))
            for begin in range(low, high, size):
                yield first + begin, unit_rows([shard[begin : min(begin + size, high)]])
