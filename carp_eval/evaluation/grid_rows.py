"""Where the linear grid's batches come from: a matrix in memory, or files, a window of them at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from carp_eval.evaluation.scaled import ScaledRows
from carp_eval.features.bank import Bank
from carp_eval.features.rows import PART_ROWS
from carp_eval.features.stored import ahead

# What is read in one piece, in the order in which it lies on disk.
BLOCK_BYTES = 2**18
# What freed memory and libraries' own may come to.
BESIDE = 100_000_000


class GridRows(ABC):
    """The rows that classifiers are trained on.

    Attributes:
        dim: Width of a row.
        dtype: Of the numbers that are given.
        notes: What the record of the result is to tell of the order of rows.
    """

    dim: int
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()

    @abstractmethod
    def order(self, rows: Int64[Tensor, " trained"], generator: torch.Generator) -> Int64[Tensor, " trained"]:
        """Draw the order in which an epoch takes some rows, which are given ascending."""

    @abstractmethod
    def batches(
        self, order: Int64[Tensor, " trained"], *, size: int, first: int
    ) -> Iterator[Float[Tensor, "batch dim"]]:
        """Give an epoch's whole batches from the `first` on; each is good until the next is asked for."""

    @abstractmethod
    def take(self, rows: Int64[Tensor, " row"]) -> Float[Tensor, "row dim"]:
        """Return rows by their numbers."""


class InMemory(GridRows):
    """All rows in memory, in any order: as they are trained on, or as the bank has them, half as large."""

    def __init__(self, features: Float[Tensor, "row dim"], scaled: ScaledRows | None = None) -> None:
        """Take a matrix.

        Args:
            features: All rows.
            scaled: What is to be done to them, where they are as the bank has them: a batch is then converted, and
                comes out to the bit as it would of the whole matrix.
        """
        self._features, self._scaled = features, scaled
        self.dim = features.shape[1]
        self.dtype = features.dtype if scaled is None else torch.float32

    @classmethod
    def as_stored(cls, bank: Bank, scaled: ScaledRows) -> "InMemory":
        """Read a bank's rows as they are stored."""
        shards = bank.shards()
        matrix = torch.empty(len(scaled), scaled.dim, dtype=shards[0].dtype)
        for part, shard in zip(matrix.split([len(shard) for shard in shards]), shards, strict=True):
            part.copy_(shard)
        return cls(matrix, scaled)

    @classmethod
    def as_trained(cls, scaled: ScaledRows) -> "InMemory":
        """Read a bank's rows as they are trained on."""
        matrix = torch.empty(len(scaled), scaled.dim)
        for start, part in ahead(scaled.slab, len(scaled), at_once=PART_ROWS):
            matrix[start : start + len(part)] = part
        return cls(matrix)

    def order(self, rows: Int64[Tensor, " trained"], generator: torch.Generator) -> Int64[Tensor, " trained"]:
        """Shuffle all rows."""
        return rows[torch.randperm(len(rows), generator=generator)]

    def batches(
        self, order: Int64[Tensor, " trained"], *, size: int, first: int
    ) -> Iterator[Float[Tensor, "batch dim"]]:
        """Gather each batch, into the same memory."""
        batch = torch.empty(size, self.dim, dtype=self.dtype)
        for chosen in order[first * size : len(order) // size * size].split(size):
            yield self._gather(chosen, batch)

    def take(self, rows: Int64[Tensor, " row"]) -> Float[Tensor, "row dim"]:
        """Return rows by their numbers."""
        return self._gather(rows, torch.empty(len(rows), self.dim, dtype=self.dtype))

    def _gather(self, rows: Int64[Tensor, " row"], batch: Shaped[Tensor, "row dim"]) -> Tensor:
        if self._scaled is None:
            return torch.index_select(self._features, 0, rows, out=batch)
        return self._scaled.finish(batch.copy_(self._features[rows]), rows)


class Windowed(GridRows):
    """Rows on disk: blocks of some consecutive rows are shuffled, and then the rows of many blocks, a window.

    A window is in memory, and the next one is read beside it. Every row is taken once an epoch, as of a shuffle of all,
    but a batch is of the blocks that chance has put into its window.
    """

    def __init__(self, scaled: ScaledRows, *, window: int, block: int) -> None:
        """Take a bank's rows.

        Args:
            scaled: The rows.
            window: How many are held at once, and shuffled among themselves.
            block: How many are read in one piece.
        """
        self._scaled, self._window, self._block = scaled, window, block
        self.dim = scaled.dim
        self.notes = (
            f"the features are larger than the memory that training may take: an epoch's order shuffles blocks of "
            f"{block} consecutive images, then the images of a window of {window:,}, not all {len(scaled):,} at once",
        )

    def order(self, rows: Int64[Tensor, " trained"], generator: torch.Generator) -> Int64[Tensor, " trained"]:
        """Shuffle blocks, cut them into windows, and shuffle each window."""
        blocks = rows.split(self._block)
        mixed = torch.cat([blocks[number] for number in torch.randperm(len(blocks), generator=generator)])
        windows = mixed.split(self._window)
        return torch.cat([window[torch.randperm(len(window), generator=generator)] for window in windows])

    def batches(
        self, order: Int64[Tensor, " trained"], *, size: int, first: int
    ) -> Iterator[Float[Tensor, "batch dim"]]:
        """Read window after window, each while the one before it is trained on; windows are whole batches."""
        whole, begun = order[: len(order) // size * size], first * size

        def read(start: int, stop: int) -> Float32[Tensor, "row dim"]:
            return self._scaled.take(whole[max(start, begun) : stop])

        at = begun // self._window * self._window
        for _, window in ahead(read, len(whole), at_once=self._window, first=at):
            yield from window.split(size)

    def take(self, rows: Int64[Tensor, " row"]) -> Float[Tensor, "row dim"]:
        """Return rows by their numbers."""
        return self._scaled.take(rows)


def least(scaled: ScaledRows, *, batch_size: int) -> int:
    """Return the bytes below which no rows can be held: those of windows of a batch."""
    return _beside(scaled) + 8 * scaled.dim * batch_size


def within(bank: Bank, scaled: ScaledRows, *, budget: int, batch_size: int) -> GridRows | None:
    """Hold a bank's rows in as many bytes as there are: in float32, as stored, or by windows.

    Args:
        bank: The bank.
        scaled: Its rows, as they are trained on.
        budget: Bytes that rows may take.
        batch_size: Rows in a step.

    Returns:
        The rows; None if not even windows of a batch fit.
    """
    shards = bank.shards()
    size = shards[0].element_size()
    parts = _beside(scaled)
    if 4 * len(scaled) * scaled.dim + parts <= budget:
        return InMemory.as_trained(scaled)
    if size < 4 and size * len(scaled) * scaled.dim + parts <= budget:
        return InMemory.as_stored(bank, scaled)
    window = (budget - parts) // (8 * scaled.dim) // batch_size * batch_size
    if window < batch_size:
        return None
    block = max(1, BLOCK_BYTES // (size * scaled.dim))
    return Windowed(scaled, window=window, block=block)


def _beside(scaled: ScaledRows) -> int:
    """Return what is read or converted at once, and what is there whatever is read."""
    return 16 * PART_ROWS * scaled.dim + BESIDE
