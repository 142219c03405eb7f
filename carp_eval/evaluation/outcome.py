"""What running a protocol gives, before it becomes a record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from carp_eval.results import Score


@dataclass(frozen=True)
class Outcome:
    """What a protocol found.

    Attributes:
        scores: The numbers, in percent, without what others published.
        predictions: Columns of equal length, one row per query image.
        notes: What a reader of the scores must know.
        counts: What was counted on the way, beside the rows of both banks.
        head: The tensors of the linear classifier that was scored (`kept_head.KeptHead`); None where there is not one.
    """

    scores: tuple[Score, ...]
    predictions: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    head: Mapping[str, Tensor] | None = None
