"""The card of class retrieval."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from carp_eval.cards.protocol import ProtocolCard


class RetrievalCard(ProtocolCard):
    """Ranking the bank by similarity to each query, held against their classes.

    Attributes:
        k: Where recall is looked at.
        normalise: Whether features are scaled to unit length, so that similarity is the cosine.
    """

    kind: Literal["retrieval"]  # pyright: ignore[reportIncompatibleVariableOverride]
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    normalise: bool = True
