"""A bank looked at otherwise: some of its rows, in other classes."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from carp_eval.features.bank import Bank


class BankView(Bank):
    """A bank of which only some rows are seen, or whose rows have other labels; on disk nothing changes.

    It reads as a bank does. What its features are does not depend on who looks, so the fingerprint, and what is
    skipped, is the bank's.

    Attributes:
        bank: The bank behind it.
        rows: Numbers of the rows that are seen, ascending; None for all.
        candidates: Numbers of the classes that may be named for a row, ascending; None for all.
        right: For rows that may have several right classes, which those are; None where each has its label.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        rows: Int64[Tensor, " seen"] | None = None,
        labels: Int64[Tensor, " seen"] | None = None,
        class_names: tuple[str, ...] | None = None,
        candidates: Int64[Tensor, " candidate"] | None = None,
        right: Bool[np.ndarray, "seen class"] | None = None,
    ) -> None:
        """Look at a bank; what is left out stays as it is there.

        Args:
            bank: The bank, which may be a view itself.
            rows: Numbers of the rows to see, ascending.
            labels: Class of each row that is seen.
            class_names: Names of the classes, by number.
            candidates: Numbers of the classes that may be named.
            right: The right classes of each row that is seen.
        """
        super().__init__(bank.path, bank.record)
        self.bank = bank
        self.rows = rows
        self._labels = labels
        self._class_names = class_names
        behind = bank if isinstance(bank, BankView) else None
        self.candidates = behind.candidates if behind is not None and candidates is None else candidates
        if right is None and behind is not None and behind.right is not None:
            right = behind.right if rows is None else behind.right[rows.numpy()]
        self.right = right

    def __len__(self) -> int:
        return len(self.bank) if self.rows is None else len(self.rows)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return self.bank.class_names if self._class_names is None else self._class_names

    def shards(self) -> list[Float[Tensor, "_ dim"]]:
        """Return the features that are seen, as they are stored: mapped into memory where all are, else copied."""
        shards = self.bank.shards()
        if self.rows is None:
            return shards
        ends = torch.tensor([len(shard) for shard in shards]).cumsum(0)
        places = torch.searchsorted(self.rows, torch.cat([torch.zeros(1, dtype=torch.int64), ends]))
        firsts = [0, *ends.tolist()]
        return [
            shard[self.rows[start:stop] - first]
            for shard, first, start, stop in zip(
                shards, firsts[:-1], places[:-1].tolist(), places[1:].tolist(), strict=True
            )
        ]

    @cached_property
    def labels(self) -> Int64[Tensor, " seen"]:
        """Class of each row; -1 where there is none."""
        return self._seen(self.bank.labels) if self._labels is None else self._labels

    @cached_property
    def index(self) -> Int64[Tensor, " seen"]:
        """Each row's image number in the split."""
        return self._seen(self.bank.index)

    @cached_property
    def keys(self) -> list[str]:
        """Each row's image, by its key in the split."""
        return self.bank.keys if self.rows is None else [self.bank.keys[row] for row in self.rows.tolist()]

    def _seen(self, values: Tensor) -> Tensor:
        return values if self.rows is None else values[self.rows]
