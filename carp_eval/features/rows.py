"""From a bank's shards to the float32 matrix that is searched or clustered."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from carp_eval.errors import BankError

# What deviations are taken of at once; the same for all, as it decides the last bits.
PART_ROWS = 1024


class Scaling(NamedTuple):
    """What brings each feature to mean 0 and deviation 1.

    Attributes:
        mean: Is subtracted.
        scale: Is divided by, after that.
    """

    mean: Float32[Tensor, " dim"]
    scale: Float32[Tensor, " dim"]

    def __call__(self, features: Float32[Tensor, "row dim"]) -> Float32[Tensor, "row dim"]:
        """Scale rows."""
        return (features - self.mean).div_(self.scale)


def unit_rows(shards: Sequence[Float[Tensor, "_ dim"]]) -> Float32[Tensor, "row dim"]:
    """Put shards one below the other in float32, each row scaled to length one.

    A row of zeros has no direction and stays zero: its similarity to everything is 0.

    Raises:
        BankError: If a value is not finite; the message numbers the rows.
    """
    return _stacked(shards, normalise=True)


def plain_rows(shards: Sequence[Float[Tensor, "_ dim"]]) -> Float32[Tensor, "row dim"]:
    """Put shards one below the other in float32, as they are.

    Raises:
        BankError: If a value is not finite; the message numbers the rows.
    """
    return _stacked(shards, normalise=False)


def standardising(parts: Iterable[Float32[Tensor, "_ dim"]]) -> Scaling:
    """Return what brings each feature to mean 0 and deviation 1 on a bank, taken in float64 part by part.

    A feature that is constant on the bank is only shifted.

    Args:
        parts: All rows, one part after the other: one of a bank or more, none of them empty.
    """
    mean, squares, seen = torch.zeros(()), torch.zeros(()), 0
    for part in parts:
        # Of two sets, the squared deviations from the common mean are those from their own means, and what lies
        # between these: no large numbers are subtracted from each other.
        own = part.double()
        own_mean = own.mean(dim=0)
        between = own_mean - mean
        seen, share = seen + len(own), len(own) / (seen + len(own))
        squares = squares + (own - own_mean).square_().sum(dim=0) + between**2 * share * (seen - len(own))
        mean = mean + between * share
    deviation = (squares / seen).sqrt().float()
    return Scaling(mean.float(), deviation.where(deviation > 0, 1))


def standardise(
    bank: Float32[Tensor, "row dim"], queries: Float32[Tensor, "query dim"]
) -> tuple[Float32[Tensor, "row dim"], Float32[Tensor, "query dim"]]:
    """Bring each feature to mean 0 and deviation 1 on the bank, and move the queries along."""
    scaling = standardising(bank.split(PART_ROWS))
    return scaling(bank), scaling(queries)


def lengths(features: Float32[Tensor, "row dim"], what: str, *, first: int = 0) -> Float32[Tensor, " row"]:
    """Return each row's length, and make sure that all its values are finite.

    Args:
        features: The rows.
        what: What to call them in an error: `bank features`.
        first: Number of the first of them.

    Raises:
        BankError: If a value is NaN or infinite, or so large that its square is.
    """
    length = torch.linalg.vector_norm(features, dim=1)
    bad = (~length.isfinite()).nonzero().flatten()
    if len(bad):
        shown = ", ".join(str(first + row) for row in bad[:5].tolist()) + (", ..." if len(bad) > 5 else "")
        raise BankError(
            f"{len(bad)} of {len(features)} rows of {what} have values that are NaN, infinite or too large to "
            f"square (rows {shown}): nothing can be compared with them. Look at the model's weights and input"
        )
    return length


def _stacked(shards: Sequence[Tensor], *, normalise: bool) -> Tensor:
    # One matrix, filled shard by shard: what is mapped from disk is never copied whole in its own type.
    matrix = torch.empty(sum(map(len, shards)), shards[0].shape[1])
    filled = 0
    for shard in shards:
        part = matrix[filled : filled + len(shard)].copy_(shard)
        length = lengths(part, "features", first=filled)[:, None]
        if normalise:
            part /= length.where(length > 0, 1)
        filled += len(shard)
    return matrix
