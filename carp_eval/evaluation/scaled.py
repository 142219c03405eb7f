"""A bank's rows as a protocol learns from them: in float32, scaled, read from disk as they are asked for."""

import hashlib
from typing import Literal

import psutil
from jaxtyping import Float32, Int64
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.features import memory as memory_of
from carp_eval.features.bank import Bank
from carp_eval.features.rows import PART_ROWS, Scaling, standardising
from carp_eval.features.stored import StoredRows, ahead

How = Literal["plain", "unit", "standardised"]


class ScaledRows:
    """A bank's rows, each scaled, to the bit, as the whole matrix would be.

    Attributes:
        stored: The rows as the bank has them, or of length one.
        scaling: What is done to them then; None is nothing.
    """

    def __init__(self, stored: StoredRows, scaling: Scaling | None = None) -> None:
        self.stored = stored
        self.scaling = scaling

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.stored.dim

    def slab(self, start: int, stop: int) -> Float32[Tensor, "row dim"]:
        """Return consecutive rows."""
        return self._scaled(self.stored.slab(start, stop))

    def take(self, rows: Int64[Tensor, " row"]) -> Float32[Tensor, "row dim"]:
        """Return rows by their numbers; ascending ones are read fastest."""
        return self._scaled(self.stored.take(rows))

    def finish(
        self, matrix: Float32[Tensor, "row dim"], rows: Int64[Tensor, " row"]
    ) -> Float32[Tensor, "row dim"]:
        """Scale rows that were read as they are stored, in place.

        Args:
            matrix: The rows.
            rows: Their numbers.
        """
        if self.stored.normalise:
            length = self.stored.lengths[rows]
            matrix.div_(length.where(length > 0, 1)[:, None])
        return self._scaled(matrix)

    def _scaled(self, matrix: Float32[Tensor, "row dim"]) -> Float32[Tensor, "row dim"]:
        if self.scaling is not None:
            matrix.sub_(self.scaling.mean).div_(self.scaling.scale)
        return matrix


def both(bank: Bank, queries: Bank, *, how: How) -> tuple[ScaledRows, ScaledRows]:
    """Return the rows of two banks: `standardised` ones by mean and deviation of the first.

    Raises:
        BankError: If a feature is not finite.
    """
    rows, asked = (which.stored_rows(normalise=how == "unit") for which in (bank, queries))
    if how != "standardised":
        return ScaledRows(rows), ScaledRows(asked)
    parts = ahead(rows.slab, len(rows), at_once=PART_ROWS)
    scaling = standardising(part for _, part in parts)
    return ScaledRows(rows, scaling), ScaledRows(asked, scaling)


def name_of(bank: Bank, *told: object) -> str:
    """Return what tells work on a bank from any other: equal names have equal states.

    Args:
        bank: The bank.
        told: All else that decides what the work comes to.
    """
    digest = hashlib.sha256(f"{bank.fingerprint.sha256} {told}".encode())
    # Of a bank only some rows may be seen, and in other classes.
    for numbers in (bank.index, bank.labels):
        digest.update(numbers.contiguous().numpy().data)
    return digest.hexdigest()


def check_in_memory(needed: int, *, memory: int | None, what: str, instead: str) -> None:
    """Make sure, before hours of work, that what cannot be streamed has the memory that it needs.

    Args:
        needed: Its bytes.
        memory: Bytes that it may take; None is what is free.
        what: What needs them: `logistic regression on ...`.
        instead: What needs less.

    Raises:
        UsageError: If there is less.
    """
    there = min(psutil.virtual_memory().available, memory_of.default_budget() * memory_of.SHARE)
    allowed = there if memory is None else min(there, memory)
    if needed > allowed:
        told = "free" if allowed == there else "given"
        raise UsageError(
            f"{what} needs about {gigabytes(needed)} of memory, and {gigabytes(allowed)} are {told}: {instead}"
        )


def gigabytes(count: int) -> str:
    """Write bytes as people read them: `5.2 GB`, `40 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{-(-count // 1_000_000)} MB"
