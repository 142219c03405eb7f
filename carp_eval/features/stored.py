"""A bank's rows in float32, read from its files as they are asked for, never all at once."""

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from carp_eval.features.rows import lengths

# What is converted at once: 4 MB in float32, which a cache holds.
PART_VALUES = 2**20

# Reads rows from one number to before another.
Read = Callable[[int, int], Float32[Tensor, "row wide"]]


class StoredRows:
    """The float32 matrix of a bank whose shards are mapped from disk: to the bit the rows that `unit_rows` gives.

    Attributes:
        lengths: Each row's length as it is stored.
        normalise: Whether rows are scaled to length one; zeros stay zero.
    """

    def __init__(self, shards: Sequence[Float[Tensor, "_ dim"]], *, normalise: bool) -> None:
        """Look at every row once.

        Raises:
            BankError: If a value is not finite; the message numbers the rows.
        """
        self._shards = [shard for shard in shards if len(shard)]
        self._starts = [0, *np.cumsum([len(shard) for shard in self._shards]).tolist()]
        self._dim = shards[0].shape[1]
        self.normalise = normalise
        step = max(1, PART_VALUES // self._dim)
        found: list[Tensor] = []
        for shard, start in zip(self._shards, self._starts, strict=False):
            for first in range(0, len(shard), step):
                part = shard[first : first + step].float()
                found.append(lengths(part, "features", first=start + first))
        self.lengths: Float32[Tensor, " row"] = torch.cat(found) if found else torch.empty(0)

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self._dim

    @property
    def longest(self) -> float:
        """A bound of the rows' lengths, as they are given."""
        # A row that was divided by its length has length one but for float32's rounding.
        return 1 + 1e-5 if self.normalise else float(self.lengths.max())

    def slab(
        self, start: int, stop: int, *, into: Float32[Tensor, "_ dim"] | None = None
    ) -> Float32[Tensor, "row dim"]:
        """Return consecutive rows.

        Args:
            start: The first.
            stop: The one after the last.
            into: Is filled from its beginning, in place of new memory.
        """
        matrix = torch.empty(stop - start, self._dim) if into is None else into[: stop - start]
        filled = 0
        while filled < len(matrix):
            number = bisect_right(self._starts, start + filled) - 1
            first = start + filled - self._starts[number]
            part = self._shards[number][first : first + len(matrix) - filled]
            matrix[filled : filled + len(part)] = part
            filled += len(part)
        return self._scaled(matrix, self.lengths[start:stop])

    def take(self, rows: Int64[Tensor, " row"]) -> Float32[Tensor, "row dim"]:
        """Return rows by their numbers; ascending ones are read fastest."""
        ascending, order = rows.sort()
        matrix = torch.empty(len(rows), self._dim)
        # Each shard's straight to their places: a window of gigabytes is in memory once.
        for taken, part in self._parts(ascending):
            matrix.index_copy_(0, order[taken], part.float())
        return self._scaled(matrix, self.lengths.index_select(0, rows))

    def ascending(self, rows: Int64[Tensor, " row"]) -> Float32[Tensor, "row dim"]:
        """Return rows by their numbers, which must ascend."""
        if not len(rows):
            return torch.empty(0, self._dim)
        parts = [part for _, part in self._parts(rows)]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._scaled(joined.float(), self.lengths.index_select(0, rows))

    def _parts(self, rows: Int64[Tensor, " row"]) -> Iterator[tuple[slice, Float[Tensor, "part dim"]]]:
        """Yield those of some ascending rows that are of one shard, as they are stored, and which of them they are."""
        if not len(rows):
            return
        first, last = (bisect_right(self._starts, int(row)) - 1 for row in (rows[0], rows[-1]))
        ends = torch.searchsorted(rows, torch.tensor(self._starts[first : last + 2])).tolist()
        for number, (begin, end) in enumerate(pairwise(ends), start=first):
            if begin < end:
                own = rows[begin:end] - self._starts[number]
                yield slice(begin, end), self._shards[number].index_select(0, own)

    def _scaled(
        self, matrix: Float32[Tensor, "row dim"], length: Float32[Tensor, " row"]
    ) -> Float32[Tensor, "row dim"]:
        return matrix.div_(length.where(length > 0, 1)[:, None]) if self.normalise else matrix


def ahead(
    read: Read, count: int, *, at_once: int, first: int = 0
) -> Generator[tuple[int, Float32[Tensor, "row wide"]]]:
    """Read rows slab by slab, each while the one before it is worked on; three are there at most.

    A slab may be read into the place of the one before the last: nobody works on that any more.

    Args:
        read: Reads a slab.
        count: Rows there are.
        at_once: Rows of a slab.
        first: The first row that is read.

    Yields:
        The number of a slab's first row, and the slab.
    """
    starts = range(first, count, at_once)
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(read, first, min(first + at_once, count)) if starts else None
        for start in starts:
            assert coming is not None
            slab = coming.result()
            after = start + at_once
            coming = reader.submit(read, after, min(after + at_once, count)) if after < count else None
            yield start, slab
