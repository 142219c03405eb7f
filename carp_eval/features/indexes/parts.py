"""A bank dealt to several machines: each takes some of its shards."""

import re
from dataclasses import dataclass

from carp_eval.errors import UsageError
from carp_eval.features.bank import Bank


@dataclass(frozen=True)
class Part:
    """Consecutive shards of a bank.

    Attributes:
        bank: A bank of these alone; its first row is number 0.
        number: Which part it is, from 0.
        count: How many there are.
        first: The row of the whole bank that its first row is.
    """

    bank: Bank
    number: int
    count: int
    first: int

    @property
    def label(self) -> str:
        """What its index has behind its name; nothing where it is the whole bank."""
        return "" if self.count == 1 else f"-{self.number}of{self.count}"


def read(text: str) -> tuple[int, int]:
    """Read which part of how many: `0/2`.

    Raises:
        UsageError: If it is no such thing.
    """
    said = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(said[1]), int(said[2])) if said else (0, 0)
    if number >= count:
        raise UsageError(
            f"a part is named by its number, from 0, and how many there are, as in 0/2; got {text!r}"
        )
    return number, count


def part_of(bank: Bank, number: int = 0, count: int = 1) -> Part:
    """Take one of `count` parts of a bank, of as many shards each as can be; the other shards need not be there.

    Raises:
        UsageError: If there are fewer shards than parts.
    """
    shards = bank.record.shards
    if len(shards) < count:
        raise UsageError(f"{bank.path} has {len(shards)} shards, which are not enough for {count} parts")
    start, stop = (edge * len(shards) // count for edge in (number, number + 1))
    own = shards[start:stop]
    record = bank.record.model_copy(update={"shards": own, "rows": sum(shard.rows for shard in own)})
    return Part(Bank(bank.path, record), number, count, sum(shard.rows for shard in shards[:start]))
