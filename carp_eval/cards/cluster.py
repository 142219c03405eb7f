"""The card of k-means clustering."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from carp_eval.cards.protocol import ProtocolCard


class ClusterCard(ProtocolCard):
    """k-means on one split's features, the other split's images assigned to the nearest centre.

    Attributes:
        clusters: How many; left out, the number of classes.
        iterations: Of each run of k-means.
        restarts: Runs, of which the one with the best objective is kept.
        spherical: Whether centres are scaled to unit length after each iteration.
        standardise: Whether each feature is first brought to mean 0 and deviation 1 on the fitted split.
        points_per_centre: At most this many points per centre are drawn to fit; 0 takes all.
    """

    kind: Literal["cluster"]  # pyright: ignore[reportIncompatibleVariableOverride]
    clusters: PositiveInt | None = None
    iterations: PositiveInt
    restarts: PositiveInt
    spherical: bool
    standardise: bool
    points_per_centre: Annotated[int, Field(ge=0)] = 0
