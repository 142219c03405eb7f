"""The card of weighted k-nearest-neighbour classification."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from carp_eval.cards.protocol import ProtocolCard


class KnnCard(ProtocolCard):
    """Weighted k-nearest-neighbour classification.

    Attributes:
        k: Numbers of neighbours; all come from one search.
        temperature: Softness of the vote, tau.
        temperatures: Several of them instead, each of which is tried with each k.
        normalise: Whether features are scaled to unit length, so that similarity is the cosine.
    """

    kind: Literal["knn"]  # pyright: ignore[reportIncompatibleVariableOverride]
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    temperature: PositiveFloat
    temperatures: tuple[PositiveFloat, ...] = ()
    normalise: bool = True
