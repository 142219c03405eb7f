"""The card of what features tell without labels."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.recipe import ViewCard


class LabelFreeCard(ProtocolCard):
    """RankMe and uniformity of one split's features, and the alignment of views of its images.

    Attributes:
        images: At most so many are drawn to look at; 0 takes all.
        epsilon: Added to each share of the singular values.
        t: How fast a pair of images stops to count towards uniformity with its distance.
        pairs: Images, drawn at random, of which two views each are held against each other; fewer where there are.
        alpha: Power of their distance.
        view: The views, for a model of native size 224.
    """

    kind: Literal["labelfree"]  # pyright: ignore[reportIncompatibleVariableOverride]
    images: Annotated[int, Field(ge=0)]
    epsilon: NonNegativeFloat
    t: PositiveFloat
    pairs: PositiveInt
    alpha: PositiveFloat
    view: ViewCard
