"""Cards of retrieval: the bank ranked for each query, held against classes or against what landmarks show."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.protocol import ProtocolCard

Scales = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class RetrievalCard(ProtocolCard):
    """Ranking the bank by similarity to each query, held against their classes.

    Attributes:
        mode: What is right.
        k: Where recall is looked at.
        normalise: Whether features are scaled to unit length, so that similarity is the cosine.
    """

    kind: Literal["retrieval"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["classes"] = "classes"
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    normalise: bool = True


class SizeCard(Frozen):
    """How large images of one data set are seen.

    Attributes:
        resize: In place of the card's own.
        scales: Likewise.
    """

    resize: PositiveInt
    scales: Scales


class LandmarkRetrievalCard(ProtocolCard):
    """Ranking a database by the cosine of descriptors, as Revisited Oxford and Paris do, at three difficulties.

    Attributes:
        mode: What is right.
        k: Where precision is looked at.
        crop_queries: Whether a query is cut to its box, as the benchmark's authors require.
        pooling: How the last feature map becomes a descriptor: its mean, its generalised mean, or R-MAC's regions.
        p: Exponent of the generalised mean.
        levels: Sizes of R-MAC's regions.
        scales: Factors on the sides of the prepared image, at each of which it is seen.
        per_scale_unit: Whether each scale's descriptor is brought to unit length first.
        scale_power: Exponent of the generalised mean over scales; 1 adds them up.
        sizes: Data sets, by their names, that are seen at another size.
        whitening: A data set to learn PCA whitening on, spelled as for `-d`; left out, nothing is whitened.
        whitening_split: Which of its splits; left out, the database if it has landmarks, else `train`.
        whitening_components: Axes to keep; left out, all.
    """

    kind: Literal["retrieval"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["landmarks"]
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    crop_queries: bool
    pooling: Literal["gap", "gem", "rmac"]
    p: PositiveFloat = 3.0
    levels: PositiveInt = 3
    scales: Scales
    per_scale_unit: bool
    scale_power: PositiveFloat = 1.0
    sizes: dict[str, SizeCard] = {}
    whitening: str | None = None
    whitening_split: str | None = None
    whitening_components: PositiveInt | None = None
    bank_split: str = "database"
    query_split: str = "query"


MODES: dict[str, type[ProtocolCard]] = {"classes": RetrievalCard, "landmarks": LandmarkRetrievalCard}


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a retrieval card of this content's mode; without a known one, one that refuses it."""
    return MODES.get(content.get("mode", "classes"), RetrievalCard)
