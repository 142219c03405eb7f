"""The card of what features tell without labels."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from carp_eval.cards.protocol import ProtocolCard


class LabelFreeCard(ProtocolCard):
    """RankMe and uniformity of one split's features.

    Attributes:
        images: At most so many are drawn to look at; 0 takes all.
        epsilon: Added to each share of the singular values.
        t: How fast a pair of images stops to count towards uniformity with its distance.
    """

    kind: Literal["labelfree"]  # pyright: ignore[reportIncompatibleVariableOverride]
    images: Annotated[int, Field(ge=0)]
    epsilon: NonNegativeFloat
    t: PositiveFloat
