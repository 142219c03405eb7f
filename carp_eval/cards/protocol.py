"""Protocol cards: a named variant of an evaluation, with every hyper-parameter."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from carp_eval.cards.frozen import Card, Frozen


class PreprocessingCard(Frozen):
    """What the protocol owns of an image's preparation; value range, mean and deviation are the model's.

    Attributes:
        resize: Length the short side is resized to, in pixels, for a model of native size 224.
        crop: Side of the centre crop that follows.
        interpolation: How pixels are resampled.
    """

    resize: PositiveInt
    crop: PositiveInt
    interpolation: Literal["bilinear", "bicubic"]


class ProtocolCard(Card):
    """What all protocols share.

    Attributes:
        kind: Which protocol this is a variant of; the name of the module that runs it.
        variant: The name that tells it from protocols of the same kind.
        preprocessing: How images become the model's input.
        layer: Which output of the model is judged.
        bank_split: The labelled images that are learnt from.
        query_split: The images that are scored.
    """

    kind: str
    variant: str
    preprocessing: PreprocessingCard
    layer: Literal["pool", "projection"] = "pool"
    bank_split: str = "train"
    query_split: str = "test"


class KnnCard(ProtocolCard):
    """Weighted k-nearest-neighbour classification.

    Attributes:
        k: Numbers of neighbours; all come from one search.
        temperature: Softness of the vote, tau.
        normalise: Whether features are scaled to unit length, so that similarity is the cosine.
    """

    kind: Literal["knn"]  # pyright: ignore[reportIncompatibleVariableOverride]
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    temperature: PositiveFloat
    normalise: bool = True


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


KINDS: dict[str, type[ProtocolCard]] = {"knn": KnnCard, "cluster": ClusterCard}


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a protocol card of this content's kind.

    Raises:
        KeyError: If no protocol is of that kind.
    """
    return KINDS[content["kind"]]
